"""Timing of async functions, in turn and by their best: the machine may be busy."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

Run = Callable[[], Awaitable[object]]


async def best_of_each(
    runs: Mapping[str, Run], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Milliseconds of each one's fastest round; all of them run in every round, after one to warm up.

    ``time.process_time`` as the clock leaves out what else the machine does.
    """
    best = dict.fromkeys(runs, float("inf"))
    for number in range(rounds + 1):
        for name, run in runs.items():
            start = clock()
            await run()
            took = (clock() - start) * 1000
            if number:
                best[name] = min(best[name], took)
    return best
