"""One measurement beside the others, and the timing of async functions."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from benchmarks.measure import Row

Run = Callable[[], Awaitable[object]]


@dataclass(frozen=True)
class Comparison:
    """One measurement.

    Attributes:
        ours: In ``unit``.
        limit: Most that ``ours`` may be, divided by ``base`` if there is one.
        base: The yardstick, such as the time of the official client.
        note: The name of the yardstick.
        others: The same measurement of other engines, by name.
    """

    name: str
    unit: str
    ours: float
    limit: float
    base: float | None = None
    note: str = ""
    others: Mapping[str, float] = field(default_factory=dict)

    def rows(self) -> list[Row]:
        """Return the rows for the table of all benchmarks."""
        base, unit = (1.0, self.unit) if self.base is None else (self.base, "times")
        name = f"{self.name} / {self.note}" if self.note else self.name
        others = [
            Row(f"    {other}", value / base, None, unit) for other, value in self.others.items()
        ]
        return [Row(name, self.ours / base, self.limit, unit), *others]


async def best_of_each(
    runs: Mapping[str, Run], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Return the milliseconds of each run's fastest round, after one round to warm up.

    All of them run in turn in every round, because the machine may be busy for a while.
    ``time.process_time`` as the clock ignores the other work of the machine.
    """
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            await run()
            milliseconds = (clock() - start) * 1000
            if number:
                best[name] = min(best[name], milliseconds)
    return best
