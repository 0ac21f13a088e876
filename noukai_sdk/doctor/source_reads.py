"""What a run changes, and what it has seen of the sources that the user's code reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .sites import Site, reading_site

_MOST_TOKENS = 2_000
_real_clock = time.perf_counter


@dataclass
class Plan:
    """One run of the request, as the parent process orders it.

    Attributes:
        factor: The kind of source that is changed in this run; None changes nothing.
        variant: Which other value it has.
        keys: The sources that are changed, as ``file:line:name``; None changes all of the factor.
        clock: The time of the run, in seconds since 1970.
        hash_seed: The seed of the hashes of texts, which decide the order of sets.
        zone: The time zone; None leaves it as it is.
    """

    factor: str | None = None
    variant: int = 0
    keys: list[str] | None = None
    clock: float = 0.0
    hash_seed: int = 0
    zone: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON values."""
        return asdict(self)


@dataclass
class Reads:
    """How one line reads one source."""

    factor: str
    name: str
    file: str
    line: int
    owner: str
    direct: bool
    count: int = 0
    at_start: bool = False
    tokens: list[str] = field(default_factory=list)

    @property
    def key(self) -> str:
        """What names this source in a plan."""
        return key_of(self.file, self.line, self.name)


@dataclass(frozen=True)
class Read:
    """One read of a source.

    Attributes:
        key: What names the line and the source.
        number: How many reads there were before.
        varied: This run gives another value.
    """

    key: str
    number: int
    varied: bool


class Sources:
    """All reads of a run. Safe to use from many threads.

    Attributes:
        plan: What the run changes.
        in_request: The app has started, and serves the request.
        began: When the run began, by ``time.perf_counter``.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self.begin(Plan())

    def begin(self, plan: Plan) -> None:
        """Begin a run: forget all reads."""
        self.plan = plan
        self.reads: dict[tuple[str, str], Reads] = {}
        self.in_request = False
        self.began = _real_clock()
        self._keys = None if plan.keys is None else frozenset(plan.keys)

    def read(self, factor: str, name: str, site: Site | None = None) -> Read | None:
        """Note a read; return None if it is not the user's business.

        Args:
            factor: The kind of the source.
            name: The source, such as ``uuid.uuid4``.
            site: The line that reads it, if that is known.
        """
        site = site or reading_site()
        if site is None:
            return None
        key = key_of(site.file, site.line, name)
        with self._lock:
            reads = self.reads.get((factor, key))
            if reads is None:
                reads = Reads(factor, name, site.file, site.line, site.owner, site.direct)
                reads.at_start = not self.in_request
                self.reads[factor, key] = reads
            number = reads.count
            reads.count += 1
            reads.at_start &= not self.in_request
        return Read(key, number, self.varies(factor, key))

    def varies(self, factor: str, key: str) -> bool:
        """Return whether this run changes a source."""
        if factor != self.plan.factor:
            return False
        return self._keys is None or key in self._keys

    def note_token(self, factor: str, read: Read, token: str) -> None:
        """Note what came through a line, to see in which order."""
        tokens = self.reads[factor, read.key].tokens
        if len(tokens) < _MOST_TOKENS:
            tokens.append(token)

    def as_list(self) -> list[dict[str, Any]]:
        """Return all reads as JSON values."""
        with self._lock:
            return [asdict(each) for each in self.reads.values()]


def key_of(file: str, line: int, name: str) -> str:
    """Return what names a source that a line reads."""
    return f"{file}:{line}:{name}"


def reads_from(values: Sequence[dict[str, Any]]) -> list[Reads]:
    """Return the reads that :meth:`Sources.as_list` has written."""
    return [Reads(**each) for each in values]
