"""Find the organisation of an API key, and slow down those who guess keys."""

from __future__ import annotations

import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from .errors import RequestError
from .store.database import StoreUnavailableError
from .store.keys import KeyStore, hash_of
from .store.limits import UNLIMITED, Limits

V = TypeVar("V")

KEY_LIFE = 2.0
"""Seconds for which a stored key is believed to be valid: a revoked key works no longer than that."""
# Seconds for which an unknown key is known to be unknown.
_REFUSED_LIFE = 10.0
_MOST_KEYS = 10_000
_MOST_ADDRESSES = 10_000


@dataclass(frozen=True)
class Access:
    """The rights of an API key: one organisation, or every one if ``org`` is None."""

    org: str | None
    limits: Limits = UNLIMITED

    def allows(self, org: str) -> bool:
        """Return True if the key may use this organisation."""
        return self.org is None or self.org == org


class KeyHolders(Protocol):
    """Knows which organisation holds which key.

    Attributes:
        hint: Where to get a key, for an error message.
    """

    hint: str

    async def access(self, key_hash: str) -> Access | None:
        """Return the rights of the key with this SHA-256; None if there is no such key."""


class FixedKeys:
    """Keys from the settings, without limits: those of ``noukai dev``.

    Args:
        keys: Maps each key to its organisation, or to None for all organisations.
    """

    hint = "noukai dev prints its key; name others in NOUKAI_DEV_KEYS"

    def __init__(self, keys: Mapping[str, str | None]) -> None:
        # By hash, so that the time of a lookup says nothing about a key.
        self._access = {hash_of(key): Access(org) for key, org in keys.items()}

    async def access(self, key_hash: str) -> Access | None:
        """Return the rights of the key with this SHA-256."""
        return self._access.get(key_hash)


class StoredKeys:
    """Keys in the database. Valid ones are looked up again after ``KEY_LIFE`` seconds."""

    hint = "noukai keys create makes one"

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._found: _Recent[tuple[float, Access]] = _Recent(_MOST_KEYS)

    async def access(self, key_hash: str) -> Access | None:
        """Return the rights of the key with this SHA-256."""
        now = time.monotonic()
        found = self._found.get(key_hash)
        if found is not None and now < found[0]:
            return found[1]
        holder = await self._store.holder(key_hash)
        if holder is None:
            self._found.pop(key_hash)
            return None
        access = Access(*holder)
        self._found.put(key_hash, (now + KEY_LIFE, access))
        return access


class WrongKeys:
    """Counts the wrong keys of each network: a token bucket that refills within a minute.

    Args:
        per_minute: How many wrong keys a network may try.
    """

    def __init__(self, per_minute: int) -> None:
        self._most = per_minute
        self._per_second = per_minute / 60
        self._left: _Recent[tuple[float, float]] = _Recent(_MOST_ADDRESSES)

    def take(self, network: str) -> float:
        """Use one of the network's tries; return the seconds to wait if none is left, else 0."""
        tries = self._tries(network)
        if tries < 1:
            return (1 - tries) / self._per_second
        self._left.put(network, (tries - 1, time.monotonic()))
        return 0.0

    def give_back(self, network: str) -> None:
        """Undo :meth:`take`: the key was right."""
        self._left.put(network, (min(self._tries(network) + 1, self._most), time.monotonic()))

    def _tries(self, network: str) -> float:
        tries, at = self._left.get(network) or (self._most, 0.0)
        return min(tries + (time.monotonic() - at) * self._per_second, self._most)


class Doorkeeper:
    """Lets requests with a valid key in.

    An address that has sent too many wrong keys must wait before it may try another one. Keys that it has
    used before are let in all the same, because others may share the address. A client that repeats its
    wrong key does not guess, and is not counted again.

    Args:
        holders: Knows the keys.
        wrong_keys_per_minute: How many wrong keys one address may try.
    """

    def __init__(self, holders: KeyHolders, wrong_keys_per_minute: int) -> None:
        self._holders = holders
        self._wrong = WrongKeys(wrong_keys_per_minute)
        # Of an address and a key: that the key is in use elsewhere must not help those who guess it.
        self._proven: _Recent[bool] = _Recent(_MOST_KEYS)
        self._refused: _Recent[float] = _Recent(_MOST_KEYS)

    async def admit(self, authorization: str, address: str) -> Access:
        """Return the rights of the key in an Authorization header.

        Raises:
            RequestError: The key is missing or unknown (401), or too many were wrong (429).
        """
        scheme, _, text = authorization.partition(" ")
        key = text.strip()
        if scheme.lower() != "bearer" or not key:
            message = "the API key is missing: send 'Authorization: Bearer nk_...'"
            raise _unauthenticated(f"{message} ({self._holders.hint})")
        key_hash, network = hash_of(key), _network(address)
        proof = f"{network} {key_hash}"
        is_guess = self._proven.get(proof) is None
        if is_guess and time.monotonic() < (self._refused.get(key_hash) or 0.0):
            raise _unauthenticated(f"the API key is unknown or revoked ({self._holders.hint})")
        # Taken before the lookup: guesses that are sent at once count, too.
        wait = self._wrong.take(network) if is_guess else 0.0
        if wait:
            seconds = math.ceil(wait)
            raise RequestError(
                429,
                "TOO_MANY_WRONG_KEYS",
                f"too many unknown API keys came from this address: try again in {seconds} s",
                headers={"Retry-After": str(seconds)},
            )
        try:
            access = await self._holders.access(key_hash)
        except StoreUnavailableError:
            if is_guess:
                self._wrong.give_back(network)
            raise
        if access is None:
            self._proven.pop(proof)
            self._refused.put(key_hash, time.monotonic() + _REFUSED_LIFE)
            raise _unauthenticated(f"the API key is unknown or revoked ({self._holders.hint})")
        if is_guess:
            self._wrong.give_back(network)
        self._proven.put(proof, True)
        return access


def _unauthenticated(message: str) -> RequestError:
    headers = {"WWW-Authenticate": 'Bearer realm="noukai"'}
    return RequestError(401, "UNAUTHENTICATED", message, headers=headers)


def _network(address: str) -> str:
    """Return what one client has: an IPv4 address, or a /64 of IPv6."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if ip.version == 4:
        return address
    return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))


class _Recent(Generic[V]):
    """A mapping of limited size: the entries that were put longest ago are dropped."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: OrderedDict[str, V] = OrderedDict()

    def get(self, key: str) -> V | None:
        return self._items.get(key)

    def put(self, key: str, value: V) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._most:
            self._items.popitem(last=False)

    def pop(self, key: str) -> None:
        self._items.pop(key, None)
