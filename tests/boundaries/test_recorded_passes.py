"""Recorded calls that end in one pass of the event loop do so in replays: the program sees all at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import recorded, trace_scope


@recorded
async def answer(number: int, gate: asyncio.Event) -> int:
    await gate.wait()
    time.sleep(0.002)  # more than a millisecond between calls of one pass
    return number


async def wait_for_the_first(gate: asyncio.Event) -> Any:
    """See which calls end together, the second half after the first."""
    later = asyncio.Event()
    tasks = {asyncio.ensure_future(answer(n, gate if n < 4 else later)) for n in range(6)}
    asyncio.get_running_loop().call_soon(gate.set)
    seen = []
    while tasks:
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen.append(sorted(each.result() for each in done))
        later.set()
    return seen


async def cancel_the_others(gate: asyncio.Event) -> Any:
    """Cancel all calls when the first has ended, as a task group does; some have ended by then."""
    asyncio.get_running_loop().call_later(0.01, gate.set)
    tasks = [asyncio.ensure_future(answer(n, gate)) for n in range(3)]
    tasks.append(asyncio.ensure_future(answer(3, asyncio.Event())))
    tasks[0].add_done_callback(lambda _: [each.cancel() for each in tasks])
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    return [type(each).__name__ for each in ends]


@recorded
async def quick(number: int, gate: asyncio.Event) -> int:
    await gate.wait()
    return number


async def wait_for_each(_: asyncio.Event) -> Any:
    """See calls end shortly after each other, in passes of their own."""
    gates = [asyncio.Event() for _ in range(3)]
    tasks = {asyncio.ensure_future(quick(n, gate)) for n, gate in enumerate(gates)}
    seen = []
    for gate in gates:
        gate.set()
        done, tasks = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        seen.append([each.result() for each in done])
    return seen


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        (wait_for_the_first, [[0, 1, 2, 3], [4, 5]]),
        (cancel_the_others, ["int", "int", "int", "CancelledError"]),
        (wait_for_each, [[0], [1], [2]]),
    ],
)
def test_calls_that_end_in_one_pass_of_the_loop_do_so_in_replays(
    program: Callable[[asyncio.Event], Awaitable[Any]],
    expected: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def run(**options: Any) -> Any:
        async with trace_scope(**options):
            return await program(asyncio.Event())

    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    path = tmp_path / "passes.jsonl"
    assert asyncio.run(run(record=path)) == expected
    for _ in range(3):
        assert asyncio.run(run(cassette=path)) == expected
