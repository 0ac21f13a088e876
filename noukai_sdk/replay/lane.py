"""The recordings of one (kind, slug), and which of them answers which call.

Alone, the Nth call gets the Nth recording, and its input is not looked at. Where calls overlapped
when they were recorded, or overlap now, position says nothing: then the input decides first and
position second, for all calls that are waiting together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..models.reports import CallSite
from .fingerprint import fingerprint, message_fingerprint
from .recording import Recording


@dataclass(eq=False)
class Ticket:
    """A claimed place in a lane: taken when the method is called, settled when it is served.

    ``index`` is the recording that answers, None for a miss; it means nothing before ``settled``.
    """

    lane: Lane
    position: int
    request: Mapping[str, Any]
    version: int | None
    site: CallSite | None
    settled: bool = False
    index: int | None = None

    @cached_property
    def fingerprints(self) -> tuple[str, str]:
        """The whole input's, and the message's alone."""
        return fingerprint(self.request, self.version), message_fingerprint(self.request)


@dataclass
class Decision:
    """What was decided about calls that overlap; ``ambiguous`` ones have the same input."""

    together: int
    by_input: int = 0
    ambiguous: int = 0


@dataclass(eq=False)
class Lane:
    """Recordings in order, and the calls that have come for them so far."""

    slug: str | None
    kind: str | None
    recordings: Sequence[Recording]
    calls: int = 0
    overlapping: bool = False
    _under_way: int = 0
    _waiting: list[Ticket] = field(default_factory=list)
    _first: int = 0

    def __post_init__(self) -> None:
        self.overlapping = _overlap(self.recordings)
        self._played = bytearray(len(self.recordings))

    def claim(
        self, request: Mapping[str, Any], version: int | None, site: CallSite | None
    ) -> Ticket:
        """A place for a call that begins now."""
        ticket = Ticket(self, self.calls, request, version, site)
        self.calls += 1
        self._under_way += 1
        self._waiting.append(ticket)
        # Once calls have overlapped, their order means nothing for those that follow either.
        self.overlapping = self.overlapping or self._under_way > 1
        return ticket

    def settle(self, ticket: Ticket) -> Decision | None:
        """Give ``ticket`` its recording; with it, every ticket that waits beside it."""
        if ticket.settled:
            return None
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.settled = True
        if not self.overlapping:
            self._take(ticket, ticket.position)
            return None
        decision = Decision(len(waiting))
        unmatched = [each for each in waiting if not self._by_input(each, decision)]
        for each in unmatched:
            self._take(each, each.position)
        return decision

    def release(self) -> None:
        """A claimed call has ended."""
        self._under_way -= 1

    def unplayed(self) -> list[int]:
        """The positions that no call has taken, in order."""
        return [index for index, played in enumerate(self._played) if not played]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return len(self.recordings) - sum(self._played)

    def _take(self, ticket: Ticket, position: int) -> None:
        if position >= len(self._played) or self._played[position]:
            position = self._first_unplayed() if self.overlapping else len(self._played)
        if position < len(self._played):
            self._played[position] = 1
            ticket.index = position

    def _first_unplayed(self) -> int:
        while self._first < len(self._played) and self._played[self._first]:
            self._first += 1
        return self._first

    def _by_input(self, ticket: Ticket, decision: Decision) -> bool:
        for print_ in ticket.fingerprints:
            candidates = self._by_fingerprint.get(print_, ())
            while candidates and self._played[candidates[0]]:
                candidates.popleft()
            if candidates:
                decision.by_input += 1
                decision.ambiguous += len(candidates) > 1
                self._take(ticket, candidates.popleft())
                return True
        return False

    @cached_property
    def _by_fingerprint(self) -> dict[str, deque[int]]:
        index: dict[str, deque[int]] = {}
        for position, recording in enumerate(self.recordings):
            if recording.fingerprint is not None:
                index.setdefault(recording.fingerprint, deque()).append(position)
        return index


def _overlap(recordings: Sequence[Recording]) -> bool:
    latest = float("-inf")
    for recording in recordings:
        if recording.started_at is None:
            continue
        if recording.started_at < latest:
            return True
        latest = max(latest, recording.completed_at or recording.started_at)
    return False
