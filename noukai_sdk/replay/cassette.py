"""Match calls to recordings.

A cassette has one lane for each flow and kind of call. Sequential calls match by position within their
lane: the Nth call gets the Nth recording, whatever its input. If calls overlap, in the recording or
now, position is meaningless, so they match by input first and by position second.

A flow is its organisation, project and slug. A source that does not tell organisation and project has one
lane for each bare slug. The hosted service is one: there, what each API key can read is a part of the
session, and each part has lanes of its own.
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

Address = tuple[str | None, str | None]
"""Organisation and project."""

# Kind, slug and address. The number of a part stands for addresses that it does not tell.
_LaneKey = tuple[str | None, str | None, Address | int]


class CassetteClosed(Exception):
    """The cassette assigns no more recordings."""


class Claim:
    """The place of one call in its lane, taken when the method is called.

    Only the program that serves the call holds its claim. So a call that is dropped before it begins
    (a coroutine that is never awaited) takes no recording, just as it would send nothing.

    Attributes:
        assigned: Whether ``index`` is decided.
        index: The position of the call's recording, None for a miss.
        address: The call's organisation and project, None in a lane that has only one.
        order: The number of the call among all calls of a fork.
    """

    __slots__ = (
        "__weakref__",
        "address",
        "assigned",
        "index",
        "lane",
        "order",
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
        address: Address | None = None,
    ) -> None:
        self.lane = lane
        self.position = position
        self.address = address
        self.order = 0
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
    """The recordings of one flow and kind, and the calls that claimed them. Not thread-safe.

    Attributes:
        address: The organisation and project of the recordings; None if some have none.
        problem: Why there may be no recordings: the part of the session that has them cannot be read.
    """

    def __init__(
        self,
        slug: str | None,
        kind: str | None,
        recordings: Sequence[Recording] = (),
        address: Address | None = None,
    ) -> None:
        self.slug = slug
        self.kind = kind
        self.address = address
        self.problem: str | None = None
        self.recordings = recordings
        # Recordings of a known organisation among those of unknown ones never serve another one.
        self._is_mixed = address is None and any(each.org is not None for each in recordings)
        self.calls = 0
        self.under_way = 0
        self.skipped = 0
        self._waiting: list[ref[Claim]] = []
        self._played = bytearray(len(recordings))
        # A call was claimed while another one was under way. That alone may mean nothing: a stream
        # that is still being read is under way.
        self._crowded = False

    @cached_property
    def _overlapping(self) -> bool:
        # Once calls have overlapped, the order of the later calls is meaningless too.
        return _overlap(self.recordings)

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

    def take_over(self, claim: Claim) -> None:
        """Take a place for a call that was made before this lane was there."""
        claim.lane, claim.position = self, self.calls + len(self._waiting)
        self._waiting.append(ref(claim))
        self._crowded = self._crowded or self.under_way > 0

    def extend(self, recordings: Sequence[Recording]) -> None:
        """Add recordings of another part of the session."""
        recordings = [*self.recordings, *recordings]
        if not any(self._played):
            recordings.sort(key=lambda each: each.started_at or 0.0)
        self.recordings = recordings
        self._played.extend(bytes(len(recordings) - len(self._played)))
        self._overlapping = self._overlapping or _overlap(recordings)
        self._is_mixed = self.address is None and any(each.org is not None for each in recordings)
        self.__dict__.pop("_positions_by_input", None)

    def assign(
        self, claim: Claim, *, by_input: bool = False, settled: bool = True
    ) -> Decision | None:
        """Give ``claim`` its recording, and all other waiting claims theirs.

        Args:
            claim: A claim of this lane.
            by_input: A call whose input was not recorded is a miss, even if its position has a
                recording.
            settled: The program can go no further, so all calls that are made together with this one
                have their claims. If not, an overlapping call whose input was not recorded gets nothing
                yet: the recording at its position may belong to a call that comes.

        Returns:
            The decision; None if order alone decided, or ``claim`` was assigned before or is not yet.
        """
        if claim.assigned:
            return None
        waiting = [each for place in self._waiting if (each := place()) is not None]
        self._waiting.clear()
        for each in waiting:
            each.position = self.calls
            self.calls += 1
        if len(waiting) > 1:
            self._overlapping = True
        if not (self._overlapping or self._crowded or by_input):
            position = claim.position
            self._take(claim, self._first_of(claim.address) if self._is_mixed else position)
            return None

        decision = Decision(0, reordered=self._overlapping)
        # All inputs come before any position: a call whose input was never recorded must not take
        # the recording of another waiting call.
        unmatched = [each for each in waiting if not self._match_input(each, decision)]
        decision.together = decision.by_input
        if claim.index is None and claim not in unmatched:
            unmatched.append(claim)  # it has waited until the program settled
        for each in unmatched:
            if not by_input and not (settled and each is claim):
                continue
            each.assigned = True
            decision.together += 1
            position = each.position
            if by_input and not self._has_unknown_input(position):
                continue
            if self._is_mixed:
                position = self._first_of(each.address)
            elif position >= len(self._played) or self._played[position]:
                position = self._played.find(0)
                decision.reordered = True
            self._take(each, position)
        waits = not settled and claim in unmatched
        return None if by_input or waits else decision

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
        claim.assigned = True
        if 0 <= position < len(self._played):
            self._played[position] = 1
            claim.index = position

    def _first_of(self, address: Address | None) -> int:
        """Return the first unplayed position that may belong to the organisation; -1 if there is none."""
        for position, recording in enumerate(self.recordings):
            known = _address(recording)
            if not self._played[position] and (known is None or known == address):
                return position
        return -1

    def _has_unknown_input(self, position: int) -> bool:
        return position < len(self.recordings) and self.recordings[position].request is None

    def _match_input(self, claim: Claim, decision: Decision) -> bool:
        request = claim.redacted_request()
        for key in (fingerprint(request, claim.version), message_fingerprint(request)):
            matches = self._positions_by_input.get(key, ())
            while matches and self._played[matches[0]]:
                matches.popleft()
            if matches and self._is_mixed:
                known = _address(self.recordings[matches[0]])
                if known is not None and known != claim.address:
                    continue
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

    Attributes:
        client_left: The client of the recorded request left before the end of the response.
        total_calls: How many calls the session has, if clients with several API keys made them: the
            recordings of some may be missing here. None if that is not known.
        loading: Another part of the session is being fetched; awaited as an ``AwaitTurn``.
    """

    def __init__(
        self,
        session_id: str | None,
        recordings: Sequence[Recording],
        client_left: bool = False,
        total_calls: int | None = None,
    ) -> None:
        self.session_id = session_id
        self.total_calls = total_calls
        self.client_left = client_left
        self.recordings = list(recordings)
        self.loading: Any = None
        self._closed = False
        self._lock = threading.Lock()
        self._pending: dict[Any, list[tuple[ref[Claim], FlowCall]]] = {}
        self._problems: dict[int, str] = {}
        self._lanes = {key: _lane(key, group) for key, group in _grouped(recordings, 0).items()}
        # Of calls to flows without recordings, by kind, slug, address and part.
        self._empty: dict[tuple[str, str, Address, int], Lane] = {}

    def claim(
        self, call: FlowCall, site: CallSite | None, redact: Redact | None = None, part: int = 0
    ) -> Claim:
        """Take the call's place, in the order of the calls.

        Args:
            call: The call.
            site: Where it was made.
            redact: Makes its request comparable with redacted recordings.
            part: Which recordings without an organisation may serve it.
        """
        with self._lock:
            lane = self._lane_of(call, part)
            claim = lane.claim(call.request, call.flow.version, site, redact)
            if lane.address is None:
                claim.address = call.flow[:2]
            return claim

    def claim_later(
        self, call: FlowCall, site: CallSite | None, redact: Redact | None, key: Any
    ) -> Claim:
        """Take the place of a call whose part of the session comes with :meth:`add`."""
        lane = Lane(call.flow.slug, call.kind)
        claim = Claim(lane, 0, call.request, call.flow.version, site, redact, call.flow[:2])
        with self._lock:
            self._pending.setdefault(key, []).append((ref(claim), call))
        return claim

    def add(
        self,
        recordings: Sequence[Recording],
        part: int,
        key: Any,
        *,
        redact: Redact | None = None,
        problem: str | None = None,
    ) -> None:
        """Add a part of the session, and give the calls that wait for it their places.

        Args:
            recordings: Those that were not known before.
            part: The number of the part.
            key: The key of :meth:`claim_later`.
            redact: Makes the waiting calls comparable with redacted recordings.
            problem: Why the part cannot be read; then there are no recordings.
        """
        with self._lock:
            self.recordings.extend(recordings)
            if problem is not None:
                self._problems[part] = problem
            for name, group in _grouped(recordings, part).items():
                if name in self._lanes:
                    self._lanes[name].extend(group)
                else:
                    self._lanes[name] = _lane(name, group)
            for place, call in self._pending.pop(key, ()):
                claim = place()
                if claim is not None and not claim.assigned:
                    claim.redact = claim.redact or redact
                    self._lane_of(call, part).take_over(claim)

    def begin(self, claim: Claim) -> None:
        """Mark a claimed call as under way: its recording is now used up, whatever happens."""
        with self._lock:
            claim.lane.under_way += 1

    def assign(
        self, claim: Claim, *, by_input: bool = False, settled: bool = True
    ) -> Decision | None:
        """Give ``claim`` its recording, as :meth:`Lane.assign`.

        Raises:
            CassetteClosed: The cassette was closed.
        """
        with self._lock:
            # Under the lock, so that a recording is either played or left over, never both.
            if self._closed:
                raise CassetteClosed
            return claim.lane.assign(claim, by_input=by_input, settled=settled)

    def finish(self, claim: Claim, *, by_input: bool = False) -> None:
        """Mark a call as ended: well, with an error, or cancelled."""
        with self._lock:
            if not self._closed:
                claim.lane.assign(claim, by_input=by_input)
            claim.lane.under_way -= 1

    def skip(self, call: FlowCall) -> tuple[Lane, int]:
        """Count a call that takes no recording; return its lane and position."""
        with self._lock:
            lane = self._lane_of(call, 0)
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

    @property
    def missing(self) -> int:
        """How many calls of the session have no recording here, as far as that is known."""
        return max(0, (self.total_calls or 0) - len(self.recordings))

    def lanes(self) -> list[Lane]:
        """Return the lanes that hold recordings."""
        with self._lock:
            return list(self._lanes.values())

    def _lane_of(self, call: FlowCall, part: int) -> Lane:
        kind, slug, lanes = call.kind, call.flow.slug, self._lanes
        address = call.flow[:2]
        lane = lanes.get((kind, slug, address)) or lanes.get((kind, slug, part))
        if lane is None:
            lane = lanes.get((None, slug, address)) or lanes.get((None, slug, part))
        if lane is None:
            key = kind, slug, address, part
            lane = self._empty.get(key)
            if lane is None:
                lane = self._empty[key] = Lane(slug, kind, (), address)
                lane.problem = self._problems.get(part)
        return lane


def _address(recording: Recording) -> Address | None:
    if recording.org is None or recording.project is None:
        return None
    return recording.org, recording.project


def _lane(key: _LaneKey, recordings: Sequence[Recording]) -> Lane:
    kind, slug, address = key
    return Lane(slug, kind, recordings, address if isinstance(address, tuple) else None)


def _grouped(recordings: Sequence[Recording], part: int) -> dict[_LaneKey, list[Recording]]:
    """Group the recordings of one part of a session by kind, slug and address.

    If one recording of a flow has no kind, the kinds of its other recordings cannot be counted apart
    either: all of them serve any kind of call, in their order. The same holds for the address, but for
    all flows of the slug. There the number of the part stands for the address.
    """
    without_kind: set[Any] = set()
    without_address: set[Any] = set()
    for recording in recordings:
        if recording.kind is None:
            without_kind.add(recording.slug)
        if recording.org is None or recording.project is None:
            without_address.add(recording.slug)
    groups: dict[_LaneKey, list[Recording]] = {}
    for recording in recordings:
        slug = recording.slug
        kind = None if slug in without_kind else recording.kind
        address = part if slug in without_address else (recording.org, recording.project)
        groups.setdefault((kind, slug, address), []).append(recording)
    return groups


def _overlap(recordings: Sequence[Recording]) -> bool:
    latest = float("-inf")
    for recording in recordings:
        if recording.started_at is None:
            continue
        if recording.started_at < latest:
            return True
        latest = recording.completed_at or recording.started_at
    return False
