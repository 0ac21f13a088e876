"""Control uuids and random numbers that the user's code reads."""

from __future__ import annotations

import os
import random
import uuid
from collections.abc import Callable
from typing import Any

from .source_reads import Read, Sources

_UUIDS = ("uuid1", "uuid4", "uuid6", "uuid7")
# The first reads of a line return the least or the greatest value: two choices always differ then. Later
# ones do not, since a program may draw again until it likes the result.
_EXTREME_READS = 3
_LEAST_AND_GREATEST = (0.0001, 0.9999)


def control_uuids(sources: Sources) -> None:
    """Give the user's code the uuids of the run, from now on."""

    def controlled(name: str, original: Callable[..., uuid.UUID]) -> Callable[..., uuid.UUID]:
        def make(*args: Any, **kwargs: Any) -> uuid.UUID:
            read = sources.read("uuid", f"uuid.{name}")
            if read is None:
                return original(*args, **kwargs)
            bits = _stream(sources, read).getrandbits(128)
            return uuid.UUID(int=bits, version=int(name[4:]) if name[4:] in "1345" else 4)

        make.__name__ = make.__qualname__ = name
        return make

    for name in _UUIDS:
        original = getattr(uuid, name, None)
        if original is not None:
            setattr(uuid, name, controlled(name, original))


def control_random(sources: Sources) -> None:
    """Give the user's code the random numbers of the run, from now on.

    Generators that the user has seeded are left alone: they return the same in each run.
    """
    _control_urandom(sources)
    base: Any = random.Random
    basic: Any = base.__mro__[1]  # the type in C
    plain_below: Any = base._randbelow_with_getrandbits
    seed: Any = base.seed
    hidden: Any = random._inst  # behind the module's functions

    def seeded(self: Any, a: Any = None, version: int = 2) -> None:
        seed(self, a, version)
        self._noukai_seeded = a is not None

    def set_state(self: Any, state: Any) -> None:
        of_state(self, state)
        self._noukai_seeded = True

    of_state: Any = base.setstate

    def read_of(self: Any) -> Read | None:
        if getattr(self, "_noukai_seeded", False):
            return None
        return sources.read("random", "random")

    def next_float(self: Any) -> float:
        read = read_of(self)
        if read is None:
            value: float = basic.random(self)
            return value
        extreme = _extreme(sources, read)
        if extreme is not None:
            return _LEAST_AND_GREATEST[extreme]
        return _stream(sources, read).random()

    def next_bits(self: Any, k: int) -> int:
        read = read_of(self)
        if read is None:
            value: int = basic.getrandbits(self, k)
            return value
        return _stream(sources, read).getrandbits(k)

    def below(self: Any, n: int) -> int:
        read = None if n <= 0 else read_of(self)
        if read is None:
            value: int = plain_below(self, n)
            return value
        extreme = _extreme(sources, read)
        if extreme is not None:
            return (0, n - 1)[extreme]
        return _stream(sources, read).randrange(n)

    system: Any = random.SystemRandom
    base.seed, base.setstate = seeded, set_state
    for owner in (base, system):
        owner._randbelow = below
    base.random, base.getrandbits = next_float, next_bits
    random.random = hidden.random
    random.getrandbits = hidden.getrandbits
    random.seed, random.setstate = hidden.seed, hidden.setstate


def _control_urandom(sources: Sources) -> None:
    original = os.urandom

    def urandom(size: int, /) -> bytes:
        read = sources.read("random", "os.urandom")
        return original(size) if read is None else _stream(sources, read).randbytes(size)

    os.urandom = urandom
    of_random: Any = random
    of_random._urandom = urandom


def _extreme(sources: Sources, read: Read) -> int | None:
    """Return 0 for the least value, 1 for the greatest, None for any."""
    if not read.varied or read.number >= _EXTREME_READS or sources.plan.variant > 1:
        return None
    return sources.plan.variant


def _stream(sources: Sources, read: Read) -> random.Random:
    """Return the random numbers of one read: the same in each run that does not change them."""
    variant = sources.plan.variant + 1 if read.varied else 0
    return random.Random(  # noqa: S311  # the same in each run, on purpose
        hash_of(f"{variant}/{read.key}/{read.number}")
    )


def hash_of(text: str) -> int:
    """Return a number that is the same in all processes."""
    import hashlib

    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
