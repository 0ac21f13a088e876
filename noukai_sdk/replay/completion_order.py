"""Release overlapping calls in the order in which they completed when they were recorded.

A replay has no service that takes its time, so it simulates one. Each part of a recording that overlaps
others has a time on the recording's clock. A call that comes to such a part waits for its turn: as soon
as the program can go no further, the waiting call with the earliest time goes on, alone, and the program
runs again. So ``as_completed`` and ``FIRST_COMPLETED`` see the recorded order, and no time passes.

If a call is missing that was completed earlier, the program may still be on its way to it (a database
query, a thread that starts). It gets a moment for that. The wait ends when the call comes; for calls that
never come it is short, happens once for each, and has a limit for the whole replay.
"""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from ..models.events import EVENT_CLASSES, FlowCompleted, StepFailed
from ..protocol.program import AwaitTurn, Program
from .activity import Activity, Progress
from .pacing import InstantPace, Pace
from .recording import Recording
from .resting import watch_loop, watch_threads

# Seconds that a missing call is waited for: at least, for each second that the program took when it was
# recorded, and at most. PATIENCE limits the sum of all waits for calls that did not come.
_MISSING = 0.1
_MISSING_FACTOR = 2.0
_MISSING_AT_MOST = 1.0
_PATIENCE = 2.0
# A program that never rests (a thread that polls) is not waited for after so many looks and seconds: the
# higher number while there is patience, then the lower one.
_RESTLESS_LOOKS = 100
_RESTLESS_AT_MOST = 1.0
_RESTLESS_AT_LEAST = 0.05
# Seconds that a call in the queue of a pool is waited for while no replay goes on.
_QUEUED = 0.5
# Calls of an event loop that completed within so many seconds did so in one pass of it: the program saw
# them at once. `asyncio.wait(..., return_when=FIRST_COMPLETED)` then returns both. Recorded functions tell
# themselves (`Recording.passes`).
_ONE_PASS = 0.001
# An event loop that has not looked for so many seconds is blocked, perhaps by a call that waits here.
_BLOCKED = 0.25

UNORDERED = (
    "may have completed in another order than recorded, because the program did not come to rest: "
    "replay it alone, or with pacing=recorded"
)
"""Why a call is in ``report.unordered``."""

_FINAL_EVENTS = tuple(
    event.model_fields["event_type"].default for event in (FlowCompleted, StepFailed)
)


class CompletionOrder:
    """The turns of the calls of one cassette. Safe to use from many threads and event loops.

    Args:
        recordings: The recordings.
        activity: What the program does at the moment.
    """

    def __init__(self, recordings: Sequence[Recording], activity: Activity | None = None) -> None:
        self.activity = activity or Activity()
        self._recordings = list(recordings)
        self._groups: dict[int, _Group] | None = None
        self._begun: set[int] = set()
        self._lock = threading.RLock()  # finalizers of abandoned calls run at any time
        self._numbers = itertools.count()
        self._waiting: list[tuple[float, int, Turn]] = []
        self._moves = 0
        self._patience = _PATIENCE
        self._last_look = 0.0
        self._was_disturbed = False  # other replays went on while a call was given up
        self._latest = float("-inf")  # the time of the turn that came last, and where it waited
        self._latest_loop: object = None
        self._latest_tells = False  # whether its recording knows what ended in the same pass

    def pace(self, recording: Recording, doubt: Callable[[], None] = lambda: None) -> Pace:
        """Return the pace of a recording: in its turn if it overlaps others, else at once.

        Args:
            recording: The recording.
            doubt: Called if its parts may have come in another order.
        """
        if self._groups is None:
            with self._lock:
                self._groups = self._groups or _overlapping(self._recordings)
        self._begun.add(id(recording))
        group = self._groups.get(id(recording))
        return (
            InstantPace(recording) if group is None else OrderedPace(self, group, recording, doubt)
        )

    def add(self, recordings: Sequence[Recording]) -> None:
        """Add recordings, which may overlap those that no call has begun to play."""
        with self._lock:
            self._recordings.extend(recordings)
            if self._groups is not None:
                rest = [each for each in self._recordings if id(each) not in self._begun]
                for recording in rest:
                    group = self._groups.pop(id(recording), None)
                    if group is not None:
                        group.arrived(recording)  # its calls wait for it no more
                self._groups.update(_overlapping(rest))

    def settle(self) -> Program[None]:
        """Wait until the program can go no further, before any call goes on that waits for its turn."""
        turn = Turn(self, _Group(()), None, float("-inf"))
        self.park(turn)
        try:
            yield AwaitTurn(turn)
        finally:
            self.leave(turn)

    def park(self, turn: Turn) -> None:
        """Let ``turn`` wait from now on."""
        self.activity.note_caller()
        with self._lock:
            heapq.heappush(self._waiting, (turn.time, next(self._numbers), turn))
            turn.group.arrived(turn.recording)
            self._move()

    def leave(self, turn: Turn) -> None:
        """Let ``turn`` wait no longer: it has come, or its call was cancelled."""
        with self._lock:
            turn.gone = True
            self._move()
            following = self._following(turn)
        for each, at_once in following:
            each.wake(at_once)

    def _following(self, turn: Turn) -> list[tuple[Turn, bool]]:
        """Return the turns to wake after ``turn``, the first those that come along too; whether at once."""
        first = self._first()
        if first is None:
            return []
        if turn.came_along or self._passes_to(first) > 1:
            return [(first, False)]
        following: list[tuple[Turn, bool]] = []
        at_once = True
        for *_, each in sorted(each for each in self._waiting if not each[2].gone):
            passes = self._passes_to(each)
            if passes > 1 or (passes == 1 and not at_once):
                break
            at_once = at_once and passes == 0
            following.append((each, at_once))
        return following

    def moves(self) -> int | None:
        """Return how often turns came or went; None while one waits."""
        with self._lock:
            return self._moves if self._first() is None else None

    def is_first(self, turn: Turn) -> bool:
        """Return whether ``turn`` is the next to come, and has to watch the program."""
        with self._lock:
            turn.blocked = False
            first = self._first()
            if first is None or first is turn:
                return True
            if first.is_blocked_for(turn, time.monotonic() - self._last_look):
                first.blocked = True
                first = self._first()
        return first is turn

    def has_come(self, turn: Turn, *, rests: bool, alone: bool = False) -> bool:
        """Return whether the first turn may go on.

        Args:
            turn: The first turn.
            rests: The program has come to rest.
            alone: Nothing else can run, so no other call can come.
        """
        with self._lock:
            self._last_look = now = time.monotonic()
            turn.looks += 1
            if turn.moves != self._moves:
                turn.moves, turn.looks = self._moves, 0
                turn.since = turn.others_since = now
                turn.resting = False
                if not alone:
                    return False
            if turn.progress != Progress.count:
                turn.progress, turn.others_since = Progress.count, now
            if not turn.resting:
                if not rests:
                    longest = max(_RESTLESS_AT_LEAST, min(_RESTLESS_AT_MOST, self._patience))
                    if turn.looks < _RESTLESS_LOOKS or now - turn.since < longest:
                        return False
                    self._patience -= now - turn.since
                    turn.is_certain = False
                turn.resting, turn.since, turn.others_since = True, now, now
            if self._is_missing(turn, now, alone=alone):
                return False
            if turn.group.give_up(turn.time):
                self._patience -= now - turn.since
                self._was_disturbed |= turn.others_since != turn.since
            has_come = self._first() is turn
            if has_come and turn.recording is not None:
                turn.is_certain &= turn.time >= self._latest or not self._was_disturbed
                self._latest, self._latest_loop = turn.time, turn.loop
                self._latest_tells = turn.recording.passes is not None
            return has_come

    def comes_along(self, turn: Turn) -> bool:
        """Return whether the first turn goes on with the one before it, in the same pass of the loop."""
        with self._lock:
            turn.came_along = self._passes_to(turn) <= 1 and not turn.group.is_missing(
                turn.time, 0.0, 1.0
            )
            return turn.came_along

    def _passes_to(self, turn: Turn) -> float:
        """Return how many passes of its event loop after the turn before it ``turn`` came."""
        if turn.loop is not self._latest_loop or turn.recording is None:
            return math.inf
        if self._latest_tells and turn.recording.passes is not None:
            return turn.recording.passes
        return 0 if 0.0 <= turn.time - self._latest < _ONE_PASS else math.inf

    def _is_missing(self, turn: Turn, now: float, *, alone: bool) -> bool:
        """Return whether the program is waited for to make a call that completed before ``turn``."""
        is_missing, waited = turn.group.is_missing, now - turn.others_since
        if is_missing(turn.time, waited, 0.0 if alone else self._patience - (now - turn.since)):
            return True
        if not self.activity.is_queued or not is_missing(turn.time, 0.0, 1.0):
            return False
        # Other replays keep the workers of a pool, and go on. If they do not, they may wait for this one.
        if waited < _QUEUED:
            return True
        turn.is_certain = False
        return False

    def _first(self) -> Turn | None:
        waiting = self._waiting
        while waiting and waiting[0][2].gone:
            heapq.heappop(waiting)
        if not waiting or not waiting[0][2].blocked:
            return waiting[0][2] if waiting else None
        able = [each for each in waiting if not (each[2].gone or each[2].blocked)]
        return min(able)[2] if able else waiting[0][2]

    def _move(self) -> None:
        self._moves += 1
        Progress.count += 1
        self.activity.moved()
        self._last_look = time.monotonic()


class OrderedPace:
    """Every part comes in its turn."""

    def __init__(
        self,
        order: CompletionOrder,
        group: _Group,
        recording: Recording,
        doubt: Callable[[], None],
    ) -> None:
        self._order = order
        self._group = group
        self._recording = recording
        self._doubt = doubt
        self._next = 0
        self._times = _part_times(recording)

    def part(self) -> Program[None]:
        """Wait for the turn of the next part, if it has a time."""
        at = self._times.pop(self._next, None)
        if at is not None:
            turn = Turn(self._order, self._group, self._recording, at)
            self._order.park(turn)
            try:
                yield AwaitTurn(turn)
            finally:
                self._order.leave(turn)
            if not turn.is_certain:
                self._doubt()
            # Chunks that begin with a request have the program's times. Those of a session have the
            # service's times, from which nothing follows about when the program reads them.
            if self._times and self._recording.chunks[:1] and not self._recording.chunks[0][1]:
                self._group.expect(self._recording, next(iter(self._times.values())))
        self._next += 1

    def close(self) -> None:
        """Wait for no more parts: the call has ended."""
        self._group.arrived(self._recording)


class Turn:
    """One part of a call, which waits for its turn. Drivers call one of the two methods.

    Attributes:
        time: When the part came, on the recording's clock.
        wake: Makes the waiting thread or task look whether it is first; at once, or in the next pass of the
            event loop.
        gone: It does not wait any more.
        blocked: Its event loop stands still, so other turns do not wait for it.
        resting: The program can go no further, and a missing call is waited for.
        is_certain: It came where it was recorded, as far as the replay can tell.
        came_along: It went on in the same pass of its event loop as the turn before it, or in the next.
    """

    def __init__(
        self, order: CompletionOrder, group: _Group, recording: Recording | None, at: float
    ) -> None:
        self.order = order
        self.group = group
        self.recording = recording
        self.time = at
        self.wake: Callable[[bool], None] = lambda at_once: None
        self.loop: object = None
        self.gone = self.blocked = self.resting = self.came_along = False
        self.is_certain = True
        self.moves = self.progress = -1
        self.looks = 0
        self.since = self.others_since = 0.0

    def is_blocked_for(self, other: Turn, seconds: float) -> bool:
        """Return whether ``other`` is not to wait for this turn, which has not looked for so long."""
        return self.loop is not None and self.loop is not other.loop and seconds > _BLOCKED

    def wait(self) -> None:
        """Block this thread until the turn has come."""
        watch_threads(self)

    async def wait_async(self) -> None:
        """Wait on asyncio or trio until the turn has come."""
        await watch_loop(self)


class _Group:
    """Recordings that overlap, and those of them that the program has not come to yet."""

    def __init__(self, recordings: Sequence[Recording]) -> None:
        self._expected: dict[int, float] = {}
        self._heap: list[tuple[float, int, float]] = []
        self._lock = threading.RLock()
        parts = [(recording, _part_times(recording)) for recording in recordings]
        moments = sorted(
            moment
            for recording, times in parts
            for moment in (recording.started_at, recording.completed_at, *times.values())
            if moment is not None
        )
        for recording, times in parts:
            if times and recording.started_at is not None:
                # The time that the program itself took before it made the call.
                place = bisect_left(moments, recording.started_at)
                took = recording.started_at - moments[place - 1] if place else 0.0
                self.expect(recording, min(times.values()), took)

    def expect(self, recording: Recording, at: float, took: float = 0.0) -> None:
        """Note that the program will come to a part that has the time ``at``."""
        with self._lock:
            self._expected[id(recording)] = at
            longest = min(_MISSING + took * _MISSING_FACTOR, _MISSING_AT_MOST)
            heapq.heappush(self._heap, (at, id(recording), longest))

    def arrived(self, recording: Recording | None) -> None:
        """Note that the program has come to the part, or will not."""
        with self._lock:
            self._expected.pop(id(recording), None)

    def is_missing(self, before: float, waited: float, patience: float) -> bool:
        """Return whether a part with an earlier time is worth more waiting."""
        with self._lock:
            heap = self._heap
            while heap and self._expected.get(heap[0][1]) != heap[0][0]:
                heapq.heappop(heap)
            return bool(heap) and heap[0][0] < before and waited < min(heap[0][2], patience)

    def give_up(self, before: float) -> bool:
        """Wait no more for parts with an earlier time; return whether there were any."""
        given_up = False
        with self._lock:
            while self._heap and self._heap[0][0] < before:
                at, key, _ = heapq.heappop(self._heap)
                given_up |= self._expected.get(key) == at
                if self._expected.get(key) == at:
                    del self._expected[key]
        return given_up


def _overlapping(recordings: Sequence[Recording]) -> dict[int, _Group]:
    """Return the group of each recording that overlaps others, by the recording's id()."""
    timed = [
        (each.started_at, _end(each), each) for each in recordings if each.started_at is not None
    ]
    groups: dict[int, _Group] = {}
    group: list[Recording] = []
    latest = float("-inf")
    for start, end, recording in [
        *sorted(timed, key=lambda each: each[:2]),
        (float("inf"), 0, None),
    ]:
        if start >= latest:
            if len(group) > 1:
                groups.update(dict.fromkeys(map(id, group), _Group(group)))
            group = []
        latest = max(latest, end)
        if recording is not None:
            group.append(recording)
    return groups


def _end(recording: Recording) -> float:
    assert recording.started_at is not None  # the caller has checked
    if recording.completed_at is not None:
        return recording.completed_at
    return recording.started_at + (recording.chunks[-1][0] if recording.chunks else 0.0)


def _part_times(recording: Recording) -> dict[int, float]:
    """Return the times of the parts that have one, by the number of the part."""
    if recording.started_at is None:
        return {}
    times: dict[int, float] = {}
    parts = 0
    for at, count in recording.chunks:
        if count:
            times[parts] = recording.started_at + at
            parts += count
    if times or recording.abandoned or recording.completed_at is None:
        return times
    # A source without chunks knows only when the whole call was completed.
    if recording.kind != "step":
        return {len(recording.rounds): recording.completed_at}
    names = [str(event.get("eventType")) for event in recording.events]
    names = [name for name in names if name in EVENT_CLASSES]
    ends = [number for number, name in enumerate(names) if name in _FINAL_EVENTS]
    return {ends[0] if ends else len(names): recording.completed_at}
