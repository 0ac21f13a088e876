"""When the parts of a recorded answer come: all at once, or as they came when it was recorded.

A part is an event of a stream, or one whole answer: of ``execute``, of a pause, of a job's submission.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

from ..protocol.program import Now, Program, Sleep
from .recording import Recording


class Pace(Protocol):
    """The pace of one answer."""

    def part(self) -> Program[None]:
        """Wait until the next part is there."""
        ...


PaceOf = Callable[[Recording], Pace]


class InstantPace:
    """Every part is there at once; other tasks run where a network chunk began."""

    def __init__(self, recording: Recording) -> None:
        # A whole answer is one part, and its call has let other tasks run already.
        self._starts = _starts(recording) if recording.kind == "step" else ()
        self._next = 0

    def part(self) -> Program[None]:
        """Let other tasks run, where a chunk begins."""
        if self._next in self._starts:
            yield Sleep(0)
        self._next += 1


class RecordedPace:
    """Every part is there as long after its request as it was when it was recorded.

    Counted from the request, so that a caller who takes longer or shorter now (a tool, the work
    between two events) neither adds to what the service took nor takes from it.
    """

    def __init__(self, recording: Recording) -> None:
        self._marks = deque(recording.chunks or _whole(recording))
        self._asked: tuple[float, float] | None = None  # then, and now
        self._there = 0

    def part(self) -> Program[None]:
        """Wait, where the next part is not there yet."""
        while self._marks and not self._there:
            at, self._there = self._marks.popleft()
            now: float = yield Now()
            if not self._there or self._asked is None:
                self._asked = (0.0 if self._there else at, now)
            if self._there:
                asked_then, asked_now = self._asked
                yield Sleep(max(0.0, (at - asked_then) - (now - asked_now)))
        self._there = max(0, self._there - 1)


def _starts(recording: Recording) -> set[int]:
    starts, parts = set(), 0
    for _, count in recording.chunks:
        if count:
            starts.add(parts)
            parts += count
    return starts


def _whole(recording: Recording) -> list[tuple[float, int]]:
    """What a source without chunks tells of the time that a call took."""
    if recording.kind == "step" or recording.started_at is None or recording.completed_at is None:
        return []
    return [(0.0, 0), (recording.seconds, 1)]
