"""The recordings of one (kind, slug), and which of them answers which call.

Alone, the Nth call gets the Nth recording, and its input is not looked at. Where calls overlapped
when they were recorded, or overlap now, position says nothing: then the input decides first and
position second, for all calls that are waiting together.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from weakref import ref

from ..models.reports import CallSite
from .fingerprint import fingerprint, message_fingerprint
from .recording import Recording

Redact = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class Claim:
    """A claimed place in a lane: taken when the method is called, settled when it is served.

    ``index`` is the recording that answers, None for a miss; it means nothing before ``settled``.
    The program that answers the call is the only one to hold its claim. A call that is dropped
    before it began (a coroutine that nobody awaits) so takes no recording, as it would send nothing.
    """

    __slots__ = (
        "__weakref__",
        "index",
        "lane",
        "position",
        "redact",
        "request",
        "settled",
        "site",
        "version",
    )

    def __init__(
        self,
        lane: Lane,
        position: int,
        request: Mapping[str, Any],
        version: int | None,
        site: CallSite | None,
        redact: Redact | None = None,
    ) -> None:
        self.lane = lane
        self.position = position
        self.request = request
        self.version = version
        self.site = site
        self.redact = redact
        self.settled = False
        self.index: int | None = None

    def fingerprints(self) -> tuple[str, str]:
        """The whole input's, and the message's alone."""
        probe = self.probe()
        return fingerprint(probe, self.version), message_fingerprint(probe)

    def probe(self) -> Mapping[str, Any]:
        """The request as a redacted recording of it would hold it."""
        return self.request if self.redact is None else self.redact(self.request)


@dataclass
class Decision:
    """What was decided about calls that overlap.

    Attributes:
        together: How many calls were decided about at once.
        by_input: Those that got the recording of their own input.
        ambiguous: Those of them whose input other recordings have as well.
        surprising: The calls are known to overlap, or one got another recording than its position's.
    """

    together: int
    by_input: int = 0
    ambiguous: int = 0
    reordered: bool = False


@dataclass(eq=False)
class Lane:
    """Recordings in order, and the calls that have come for them so far. Not locked: its player is."""

    slug: str | None
    kind: str | None
    recordings: Sequence[Recording]
    calls: int = 0
    _waiting: list[ref[Claim]] = field(default_factory=list)
    _under_way: int = 0
    _first: int = 0
    # Once calls have overlapped, their order means nothing for those that follow either.
    _overlapping: bool = False
    # Another call had begun and not ended, which for a stream that is being read may mean nothing.
    _crowded: bool = False

    def __post_init__(self) -> None:
        self._overlapping = _overlap(self.recordings)
        self._played = bytearray(len(self.recordings))

    def claim(
        self,
        request: Mapping[str, Any],
        version: int | None,
        site: CallSite | None,
        redact: Redact | None = None,
    ) -> Claim:
        """A place for a call that is made now."""
        position = self.calls + len(self._waiting)
        claim = Claim(self, position, request, version, site, redact)
        self._waiting.append(ref(claim))
        self._crowded = self._crowded or self._under_way > 0
        return claim

    def begin(self) -> None:
        """A claimed call has begun."""
        self._under_way += 1

    def end(self) -> None:
        """A call that began has ended."""
        self._under_way -= 1

    def settle(self, claim: Claim, *, by_input: bool = False) -> Decision | None:
        """Give ``claim`` its recording; with it, every claim that waits beside it.

        Args:
            claim: A claimed one.
            by_input: An input that was not recorded has no recording, though its position has one.

        Returns:
            What was decided, None where order alone decided or ``claim`` was settled before.
        """
        if claim.settled:
            return None
        waiting = self._seat()
        if len(waiting) > 1:
            self._overlapping = True
        if not (self._overlapping or self._crowded or by_input):
            self._take(claim, claim.position)
            return None
        decision = Decision(len(waiting), reordered=self._overlapping)
        # All inputs before any position: a call whose input was never recorded must not take what
        # was recorded for the one beside it.
        unmatched = [each for each in waiting if not self._by_input(each, decision)]
        for each in unmatched:
            if not by_input or self._says_no_input(each.position):
                self._take_near(each, decision)
        return None if by_input else decision

    def _seat(self) -> list[Claim]:
        """The claims that wait, in the order of their calls, which is final now."""
        waiting = [claim for place in self._waiting if (claim := place()) is not None]
        self._waiting.clear()
        for claim in waiting:
            claim.settled = True
            claim.position = self.calls
            self.calls += 1
        return waiting

    def unplayed(self) -> list[int]:
        """The positions that no call has taken, in order."""
        return [index for index, played in enumerate(self._played) if not played]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return len(self.recordings) - sum(self._played)

    def _take(self, claim: Claim, position: int) -> None:
        if position < len(self._played):
            self._played[position] = 1
            claim.index = position

    def _take_near(self, claim: Claim, decision: Decision) -> None:
        position = claim.position
        if position >= len(self._played) or self._played[position]:
            position = self._first_unplayed()
            decision.reordered = True
        self._take(claim, position)

    def _says_no_input(self, position: int) -> bool:
        return position < len(self.recordings) and self.recordings[position].request is None

    def _first_unplayed(self) -> int:
        while self._first < len(self._played) and self._played[self._first]:
            self._first += 1
        return self._first

    def _by_input(self, claim: Claim, decision: Decision) -> bool:
        for print_ in claim.fingerprints():
            candidates = self._by_fingerprint.get(print_, ())
            while candidates and self._played[candidates[0]]:
                candidates.popleft()
            if candidates:
                decision.by_input += 1
                decision.ambiguous += len(candidates) > 1
                decision.reordered |= candidates[0] != claim.position
                self._take(claim, candidates.popleft())
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
        latest = recording.completed_at or recording.started_at
    return False
