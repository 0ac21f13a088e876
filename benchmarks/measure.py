"""What the benchmarks share: a row of the table, and timing that a busy machine disturbs least."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import NamedTuple


class Row(NamedTuple):
    """One line of the table. ``limit`` None where the number is only shown, not judged; the most
    that ``value`` may be, or the least with ``at_least``.
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


def seconds(fn: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    fn()
    return time.perf_counter() - start


def best_of(fn: Callable[[], object], rounds: int) -> float:
    """Seconds of the fastest of ``rounds`` calls: what ``fn`` costs when nothing disturbs it."""
    return min(seconds(fn) for _ in range(rounds))


def best_of_each(fns: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Seconds of the fastest of ``rounds`` calls of each function, which are run in turn.

    For short functions: what they cost when nothing disturbs them, on a machine with other work.
    """
    best = dict.fromkeys(fns, float("inf"))
    for _ in range(rounds):
        for name, fn in fns.items():
            best[name] = min(best[name], seconds(fn))
    return best


def alternating(fns: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each function over ``rounds`` rounds that run all of them in turn.

    A machine that is slower for a while is then slower for all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in fns}
    for _ in range(rounds):
        for name, fn in fns.items():
            times[name].append(seconds(fn))
    return {name: statistics.median(values) for name, values in times.items()}
