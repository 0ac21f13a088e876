"""The pace of a replay: all parts of a response at once, or each at its recorded time.

A part is one event of a stream, or one whole response: a result of ``execute``, a pause, the
submission of a job.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..protocol.program import CHECKPOINT, Now, Program, Sleep
from .recording import Recording


class Pace(Protocol):
    """The pace of one response."""

    def part(self) -> Program[None]:
        """Wait until the next part is there."""
        ...


PaceOf = Callable[[Recording], Pace]


class InstantPace:
    """Every part is there at once. Other tasks run wherever a network chunk began."""

    def __init__(self, recording: Recording) -> None:
        self._next = 0
        self._starts: set[int] = set()
        # A whole response is one part, and its call has let other tasks run already.
        if recording.kind == "step":
            parts = 0
            for _, count in recording.chunks:
                if count:
                    self._starts.add(parts)
                    parts += count

    def part(self) -> Program[None]:
        """Let other tasks run if a chunk begins here."""
        if self._next in self._starts:
            yield CHECKPOINT
        self._next += 1


class RecordedPace:
    """Every part comes as long after its request as it did when it was recorded.

    The time counts from the request, so that a caller who is slower or faster now (in a tool, or
    between two events) does not change how long the service takes.
    """

    def __init__(self, recording: Recording) -> None:
        self._marks = deque(recording.chunks)
        timed = recording.started_at is not None and recording.completed_at is not None
        if not self._marks and timed and recording.kind != "step":
            # A source without chunks still tells how long the whole call took.
            self._marks.extend([(0.0, 0), (recording.seconds, 1)])
        self._requested: tuple[float, float] | None = None  # then, and now
        self._ready = 0

    def part(self) -> Program[None]:
        """Wait if the next part is not there yet."""
        while self._marks and not self._ready:
            at, self._ready = self._marks.popleft()
            now: float = yield Now()
            if not self._ready or self._requested is None:
                self._requested = (0.0 if self._ready else at, now)
            if self._ready:
                requested_then, requested_now = self._requested
                yield Sleep(max(0.0, (at - requested_then) - (now - requested_now)))
        self._ready = max(0, self._ready - 1)


# None: at once, but the parts of overlapping calls in their recorded order (completion_order.py).
PACES: dict[str, PaceOf | None] = {"instant": None, "recorded": RecordedPace}
