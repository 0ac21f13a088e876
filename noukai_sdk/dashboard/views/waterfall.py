"""The calls of a session on one time axis."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# The width of the axis, and the least width of a bar, so that it can be seen.
WIDTH = 1000
_LEAST = 4


@dataclass(frozen=True)
class Bar:
    """A bar from ``x`` on, of :data:`WIDTH`."""

    x: float
    width: float


@dataclass(frozen=True)
class Tick:
    """A line of the axis, with the time since the start of the session."""

    x: float
    label: str


@dataclass(frozen=True)
class Axis:
    """A time axis, in milliseconds since the start of the session."""

    start: float
    end: float

    def bar(self, start: float | None, end: float | None) -> Bar | None:
        """Return the bar of a call; one without an end goes on to the end of the axis."""
        if start is None:
            return None
        left, right = self._x(start), self._x(self.end if end is None else end)
        width = max(right - left, _LEAST)
        return Bar(round(min(left, WIDTH - width), 1), round(width, 1))

    def ticks(self) -> list[Tick]:
        """Return three to six lines at round times.

        Example:
            >>> [tick.label for tick in Axis(0, 1700).ticks()]
            ['0 s', '0.5 s', '1 s', '1.5 s']
        """
        length = self.end - self.start
        step = 10 ** math.floor(math.log10(length / 2))
        step *= next(factor for factor in (5, 2, 1) if length / (step * factor) >= 2)
        first = math.ceil(self.start / step)
        times = [number * step for number in range(first, first + 8) if number * step <= self.end]
        unit, divisor = ("ms", 1) if step < 100 and self.end < 1000 else ("s", 1000)
        return [Tick(round(self._x(time), 1), f"{time / divisor:.6g} {unit}") for time in times]

    def _x(self, time: float) -> float:
        return min(max((time - self.start) / (self.end - self.start), 0), 1) * WIDTH


def axis(times: Sequence[tuple[float | None, float | None]], now: float | None = None) -> Axis:
    """Return the axis for calls with these starts and ends; calls in progress go on until ``now``."""
    starts = [start for start, _ in times if start is not None]
    ends = [end for _, end in times if end is not None]
    first = min(starts, default=0.0)
    if now is not None:
        # A run may wait for days: the others must stay large enough to be seen.
        last = max([*starts, *ends], default=first)
        ends.append(min(now, last + max(last - first, 1000.0)))
    # An axis of no length has no place for a bar.
    return Axis(first, max([*ends, *starts, first + 1.0]))
