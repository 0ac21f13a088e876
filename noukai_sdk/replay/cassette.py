"""Hold the recordings of one session, and give each call its own.

A cassette has one lane for each flow and kind of call, and one for each recorded function
(:mod:`~noukai_sdk.replay.lanes`).

A flow is its organisation, project and slug. A source that does not tell organisation and project has one
lane for each bare slug. The hosted service is one: there, what each API key can read is a part of the
session, and each part has lanes of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any
from weakref import ref

from ..models.boundaries import Boundary
from ..models.reports import CallSite
from ..protocol.call import FlowCall
from .boundary_recordings import BoundaryLane, boundary_lanes, boundary_recordings
from .lanes import Address, Claim, Decision, Lane, Redact
from .recording import Recording

# Kind, slug and address. The number of a part stands for addresses that it does not tell.
_LaneKey = tuple[str | None, str | None, Address | int]


class CassetteClosed(Exception):
    """The cassette assigns no more recordings."""


class Cassette:
    """The recordings of one session, each played once. Safe to use from many threads.

    Args:
        session_id: The session of the recordings.
        recordings: In the order in which the calls began.
        client_left: The client of the recorded request left before the end of the response.
        total_calls: How many calls the session has, if clients with several API keys made them: the
            recordings of some may be missing here. None if that is not known.
        boundaries: The calls of recorded functions, in the order in which they began.
        total_boundaries: How many the session has, if some were not kept.

    Attributes:
        boundaries: Their recordings. They count apart from flow calls, and have lanes of their own.
        loading: Another part of the session is being fetched; awaited as an ``AwaitTurn``.
    """

    def __init__(
        self,
        session_id: str | None,
        recordings: Sequence[Recording],
        client_left: bool = False,
        total_calls: int | None = None,
        boundaries: Sequence[Boundary] = (),
        total_boundaries: int | None = None,
    ) -> None:
        self.session_id = session_id
        self.total_calls = total_calls
        self.client_left = client_left
        self.recordings = list(recordings)
        self.boundaries = boundary_recordings(boundaries)
        self.total_boundaries = total_boundaries
        self.loading: Any = None
        self._closed = False
        self._lock = threading.Lock()
        self._pending: dict[Any, list[tuple[ref[Claim], FlowCall]]] = {}
        self._problems: dict[int, str] = {}
        self._lanes = {key: _lane(key, group) for key, group in _grouped(recordings, 0).items()}
        self._boundary_lanes = boundary_lanes(self.boundaries)
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
            if not (claim.assigned or self._closed):
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
            lanes = [*self._lanes.values(), *self._boundary_lanes.values()]
            return [(lane, index) for lane in lanes for index in lane.unplayed()]

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
            lanes = [*self._lanes.values(), *self._boundary_lanes.values()]
            return [lane for lane in lanes if lane.recordings]

    def _lane_of(self, call: FlowCall, part: int) -> Lane:
        kind, slug, lanes = call.kind, call.flow.slug, self._lanes
        if kind == "recorded":
            return self._boundary_lanes.setdefault(slug, BoundaryLane(slug, kind))
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
