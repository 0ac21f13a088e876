"""The rows of the table, and timing that a busy machine disturbs little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        limit: The greatest ``value`` allowed, or the least with ``at_least``; None to only show it.
    """

    name: str
    value: float
    limit: float | None
    unit: str
    at_least: bool = False

    @property
    def holds(self) -> bool:
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


# For code that waits for nothing: other programs on the machine do not count.
PROCESSOR = time.process_time


def seconds(fn: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """Return the seconds that one call takes."""
    start = clock()
    fn()
    return clock() - start


def best_of(fn: Callable[[], object], rounds: int) -> float:
    """Return the seconds of the fastest of ``rounds`` calls, the one that was disturbed least."""
    return min(seconds(fn) for _ in range(rounds))


def best_of_each(
    fns: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the seconds of the fastest of ``rounds`` calls of each function, called in turn.

    Use it for short functions: their fastest call was not disturbed by other programs.
    """
    best = dict.fromkeys(fns, float("inf"))
    for _ in range(rounds):
        for name, fn in fns.items():
            best[name] = min(best[name], seconds(fn, clock))
    return best


def alternating(
    fns: dict[str, Callable[[], object]],
    rounds: int,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Return the median seconds of each function over ``rounds`` rounds, called in turn.

    If the machine is slower for a while, it is slower for all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            times[name].append(seconds(fn, clock))
    return {name: statistics.median(values) for name, values in times.items()}
