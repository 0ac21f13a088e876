"""Match calls to recordings.

A cassette has one lane for each (kind, slug) pair. Sequential calls match by position within their
lane: the Nth call gets the Nth recording, whatever its input. If calls overlap, in the recording or
now, position is meaningless, so they match by input first and by position second.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from weakref import ref

from ..models.reports import CallSite
from ..protocol.call import FlowCall
from .recording import Recording, fingerprint, message_fingerprint

Redact = Callable[[Mapping[str, Any]], Mapping[str, Any]]


class CassetteClosed(Exception):
    """The cassette assigns no more recordings."""


class Claim:
    """The place of one call in its lane, taken when the method is called.

    Only the program that serves the call holds its claim. So a call that is dropped before it begins
    (a coroutine that is never awaited) takes no recording, just as it would send nothing.

    Attributes:
        assigned: Whether ``index`` is decided.
        index: The position of the call's recording, None for a miss.
    """

    __slots__ = (
        "__weakref__",
        "assigned",
        "index",
        "lane",
        "position",
        "redact",
        "request",
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
        redact: Redact | None,
    ) -> None:
        self.lane = lane
        self.position = position
        self.request = request
        self.version = version
        self.site = site
        self.redact = redact
        self.assigned = False
        self.index: int | None = None

    def redacted_request(self) -> Mapping[str, Any]:
        """Return the request as a redacted recording of it would hold it."""
        return self.request if self.redact is None else self.redact(self.request)


@dataclass
class Decision:
    """How overlapping calls were matched.

    Attributes:
        together: How many calls were matched at once.
        by_input: How many of them got the recording of their own input.
        ambiguous: How many of those have an input that other recordings have as well.
        reordered: The calls are known to overlap, or one did not get the recording at its position.
    """

    together: int
    by_input: int = 0
    ambiguous: int = 0
    reordered: bool = False


class Lane:
    """The recordings of one (kind, slug) pair, and the calls that claimed them. Not thread-safe."""

    def __init__(
        self, slug: str | None, kind: str | None, recordings: Sequence[Recording] = ()
    ) -> None:
        self.slug = slug
        self.kind = kind
        self.recordings = recordings
        self.calls = 0
        self.under_way = 0
        self.skipped = 0
        self._waiting: list[ref[Claim]] = []
        self._played = bytearray(len(recordings))
        # Once calls have overlapped, the order of the later calls is meaningless too.
        self._overlapping = _overlap(recordings)
        # A call was claimed while another one was under way. That alone may mean nothing: a stream
        # that is still being read is under way.
        self._crowded = False

    def claim(
        self,
        request: Mapping[str, Any],
        version: int | None = None,
        site: CallSite | None = None,
        redact: Redact | None = None,
    ) -> Claim:
        """Take a place for a call that is made now."""
        position = self.calls + len(self._waiting)
        claim = Claim(self, position, request, version, site, redact)
        self._waiting.append(ref(claim))
        self._crowded = self._crowded or self.under_way > 0
        return claim

    def assign(self, claim: Claim, *, by_input: bool = False) -> Decision | None:
        """Give ``claim`` its recording, and all other waiting claims theirs.

        Args:
            claim: A claim of this lane.
            by_input: A call whose input was not recorded is a miss, even if its position has a
                recording.

        Returns:
            The decision; None if order alone decided, or ``claim`` was assigned before.
        """
        if claim.assigned:
            return None
        waiting = [each for place in self._waiting if (each := place()) is not None]
        self._waiting.clear()
        for each in waiting:
            each.assigned = True
            each.position = self.calls
            self.calls += 1
        if len(waiting) > 1:
            self._overlapping = True
        if not (self._overlapping or self._crowded or by_input):
            self._take(claim, claim.position)
            return None

        decision = Decision(len(waiting), reordered=self._overlapping)
        # All inputs come before any position: a call whose input was never recorded must not take
        # the recording of another waiting call.
        unmatched = [each for each in waiting if not self._match_input(each, decision)]
        for each in unmatched:
            position = each.position
            if by_input and not self._has_unknown_input(position):
                continue
            if position >= len(self._played) or self._played[position]:
                position = self._played.find(0)
                decision.reordered = True
            self._take(each, position)
        return None if by_input else decision

    def unplayed(self) -> list[int]:
        """Return the positions of the recordings that no call has taken, in order."""
        return [index for index, played in enumerate(self._played) if not played]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return len(self.recordings) - sum(self._played)

    @property
    def unordered(self) -> bool:
        """Whether calls have overlapped, so that they match by input."""
        return self._overlapping or self._crowded

    def _take(self, claim: Claim, position: int) -> None:
        if 0 <= position < len(self._played):
            self._played[position] = 1
            claim.index = position

    def _has_unknown_input(self, position: int) -> bool:
        return position < len(self.recordings) and self.recordings[position].request is None

    def _match_input(self, claim: Claim, decision: Decision) -> bool:
        request = claim.redacted_request()
        for key in (fingerprint(request, claim.version), message_fingerprint(request)):
            matches = self._positions_by_input.get(key, ())
            while matches and self._played[matches[0]]:
                matches.popleft()
            if matches:
                decision.by_input += 1
                decision.ambiguous += len(matches) > 1
                decision.reordered |= matches[0] != claim.position
                self._take(claim, matches.popleft())
                return True
        return False

    @cached_property
    def _positions_by_input(self) -> dict[str, deque[int]]:
        positions: dict[str, deque[int]] = {}
        for position, recording in enumerate(self.recordings):
            if recording.fingerprint is not None:
                positions.setdefault(recording.fingerprint, deque()).append(position)
        return positions


class Cassette:
    """The recordings of one session, each played once. Safe to use from many threads.

    Args:
        session_id: The session of the recordings.
        recordings: In the order in which the calls began.
    """

    def __init__(self, session_id: str | None, recordings: Sequence[Recording]) -> None:
        self.session_id = session_id
        self.recordings = recordings
        self._closed = False
        self._lock = threading.Lock()
        # If one recording of a flow has no kind, the kinds of its other recordings cannot be counted
        # apart either: all of them serve any kind of call, in their order.
        without_kind = {recording.slug for recording in recordings if recording.kind is None}
        grouped: dict[tuple[str | None, str | None], list[Recording]] = {}
        for recording in recordings:
            kind = None if recording.slug in without_kind else recording.kind
            grouped.setdefault((kind, recording.slug), []).append(recording)
        self._lanes = {key: Lane(key[1], key[0], group) for key, group in grouped.items()}

    def claim(self, call: FlowCall, site: CallSite | None, redact: Redact | None = None) -> Claim:
        """Take the call's place, in the order of the calls."""
        with self._lock:
            return self._lane_of(call).claim(call.request, call.flow.version, site, redact)

    def begin(self, claim: Claim) -> None:
        """Mark a claimed call as under way: its recording is now used up, whatever happens."""
        with self._lock:
            claim.lane.under_way += 1

    def assign(self, claim: Claim, *, by_input: bool = False) -> Decision | None:
        """Give ``claim`` its recording, as :meth:`Lane.assign`.

        Raises:
            CassetteClosed: The cassette was closed.
        """
        with self._lock:
            # Under the lock, so that a recording is either played or left over, never both.
            if self._closed:
                raise CassetteClosed
            return claim.lane.assign(claim, by_input=by_input)

    def finish(self, claim: Claim, *, by_input: bool = False) -> None:
        """Mark a call as ended: well, with an error, or cancelled."""
        with self._lock:
            if not self._closed:
                claim.lane.assign(claim, by_input=by_input)
            claim.lane.under_way -= 1

    def skip(self, call: FlowCall) -> tuple[Lane, int]:
        """Count a call that takes no recording; return its lane and position."""
        with self._lock:
            lane = self._lane_of(call)
            lane.skipped += 1
            return lane, lane.calls + lane.skipped - 1

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> list[tuple[Lane, int]]:
        """Assign nothing from now on; return the lane and position of each unplayed recording."""
        with self._lock:
            self._closed = True
            return [(lane, index) for lane in self._lanes.values() for index in lane.unplayed()]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return sum(lane.remaining for lane in self.lanes())

    def lanes(self) -> list[Lane]:
        """Return the lanes that hold recordings."""
        with self._lock:
            return [lane for lane in self._lanes.values() if lane.recordings]

    def _lane_of(self, call: FlowCall) -> Lane:
        slug = call.flow.slug
        lane = self._lanes.get((call.kind, slug)) or self._lanes.get((None, slug))
        if lane is None:
            lane = self._lanes[call.kind, slug] = Lane(slug, call.kind)
        return lane


def _overlap(recordings: Sequence[Recording]) -> bool:
    latest = float("-inf")
    for recording in recordings:
        if recording.started_at is None:
            continue
        if recording.started_at < latest:
            return True
        latest = recording.completed_at or recording.started_at
    return False
