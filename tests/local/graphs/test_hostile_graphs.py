"""Random graphs whose runs are cancelled, timed out, left or interrupted: nothing hangs, no task is left.

A test that hangs is ended, and says where.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.local import Executor, Node, Workflow, shutdown
from tests.support.engine import workflow_of as workflow_of_nodes
from tests.support.servers import wait_until

from . import test_graphs
from .building import World, workflow_of
from .graph import Case, case_of, tool_results
from .runs import SECONDS, Runs

GRAPHS = int(os.environ.get("GRAPHS", "40"))
SOAK_SECONDS = float(os.environ.get("GRAPHS_SECONDS", "0"))

long = pytest.mark.skipif(not SOAK_SECONDS, reason="run it by `make graphs`")


@pytest.fixture
def mended() -> Runs:
    return Runs([case_of(seed).mended() for seed in range(GRAPHS)])


@pytest.fixture
def probe() -> Iterator[None]:
    """Check that runs still work after the test."""
    yield
    result = Executor(max_concurrency=1).execute(level(2))
    assert result.is_success(), result.errors


def test_cancelled_graphs_are_resumed_and_agree(mended: Runs, tmp_path: Path) -> None:
    async def run(case: Case) -> None:
        rng = random.Random(case.seed)
        world = World()
        world.is_interrupted = True
        workflow = workflow_of(case, world)
        run_id, limit = str(case.seed), rng.choice([None, 1, 3])
        executor = Executor(
            store=tmp_path / f"{case.seed % 3}.db", retry=case.retry, max_concurrency=limit
        )
        arguments: dict[str, Any] = {"tool_handler": tool_results}
        start = executor.run_async(
            workflow, case.inputs, tools=case.tools, run_id=run_id, **arguments
        )
        task = asyncio.create_task(start)
        for _ in range(rng.randint(1, 4)):
            await asyncio.sleep(rng.uniform(0.001, 0.02))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            if run_id not in [info.run_id for info in executor.runs()]:
                await executor.aclose()
                return  # cancelled before it began
            resume = executor.resume_async(workflow, run_id, **arguments)
            task = asyncio.create_task(resume)
        result = await asyncio.wait_for(task, SECONDS)
        mended.check(case, result, world)
        await executor.aclose()

    async def main() -> None:
        await mended.in_tasks(run)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())


def test_graphs_that_time_out_are_resumed_and_agree(mended: Runs, tmp_path: Path) -> None:
    def run(case: Case) -> None:
        world = World()
        world.is_interrupted = True
        workflow = workflow_of(case, world)
        store, most = tmp_path / f"{case.seed % 3}.db", [None, 1, 3][case.seed % 3]
        executor = Executor(store=store, retry=case.retry, max_concurrency=most, timeout=0.004)
        result = executor.execute(
            workflow, case.inputs, tools=case.tools, tool_handler=tool_results
        )
        executor.configure(timeout=None)
        if [error.code for error in result.errors] == ["RUN_TIMEOUT"]:
            result = executor.resume(workflow, result, tool_handler=tool_results)
        mended.check(case, result, world)
        executor.close()

    mended.in_threads(run)


def test_graphs_with_errors_that_are_no_exceptions_agree(mended: Runs) -> None:
    def run(case: Case) -> None:
        world = World(is_rude=True)
        result = mended.executor(case, 0).execute(
            workflow_of(case, world), case.inputs, tools=case.tools, tool_handler=tool_results
        )
        mended.check(case, result, world)

    mended.in_threads(run)


@pytest.mark.usefixtures("probe")
def test_streams_that_are_left_stop_their_runs(mended: Runs) -> None:
    worlds: list[World] = []

    def stream_of(case: Case) -> Any:
        worlds.append(World())
        return mended.executor(case, 0).execute_streaming(
            workflow_of(case, worlds[-1]), case.inputs, tools=case.tools, tool_handler=tool_results
        )

    for case in mended.cases:
        events = iter(stream_of(case))
        for _ in range(case.seed % 7):
            next(events, None)

    async def main() -> None:
        before = asyncio.all_tasks()
        for case in mended.cases:
            stream = stream_of(case)
            events = aiter(stream)
            for _ in range(case.seed % 7):
                await anext(events, None)
            if case.seed % 2:
                await stream.aclose()
        del stream, events
        gc.collect()
        while asyncio.all_tasks() != before:
            await asyncio.sleep(0.001)

    asyncio.run(asyncio.wait_for(main(), SECONDS))
    wait_until(lambda: not any(world.running for world in worlds))


# The tasks that asyncio cancels before their first step leave a warning, maybe in a later test.
@long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("probe")
def test_shutdown_ends_all_runs(mended: Runs) -> None:
    ends: list[str] = []

    def run(case: Case) -> None:
        try:
            result = mended.executor(case, 0).execute(
                workflow_of(case, World()),
                case.inputs,
                tools=case.tools,
                tool_handler=tool_results,
            )
            ends.append(result.state())
        except CancelledError:
            ends.append("cancelled")

    for turn in range(5):
        threads = [threading.Thread(target=run, args=[case]) for case in mended.cases[:20]]
        for thread in threads:
            thread.start()
        time.sleep(0.003 * turn)
        shutdown()
        for thread in threads:
            thread.join(SECONDS)
            assert not thread.is_alive()
    assert len(ends) == 5 * len(mended.cases[:20])
    gc.collect()


def level(depth: int) -> Workflow:
    """Build a workflow of 60 functions in threads, and two nodes that run another such workflow."""
    nodes = [Node.function(f"n{place}", lambda: None) for place in range(60)]
    if depth:
        inner = level(depth - 1)
        nodes.append(Node.function("execute", lambda: Executor().execute(inner).result))
        nodes.append(Node.flow(inner, "flow"))
    return workflow_of_nodes(*nodes)


@pytest.mark.parametrize("max_concurrency", [None, 1])
def test_nested_workflows_of_many_threads_end(max_concurrency: int | None) -> None:
    assert Executor(max_concurrency=max_concurrency).execute(level(4)).is_success()


@long
@pytest.mark.timeout(SOAK_SECONDS + 300)
def test_other_graphs_agree_for_a_long_time(tmp_path: Path) -> None:
    end = time.monotonic() + SOAK_SECONDS
    for seed in count(random.SystemRandom().randrange(10**9), 40):
        cases = [case_of(seed + more) for more in range(40)]
        runs, mended = Runs(cases), Runs([case.mended() for case in cases])
        test_graphs.test_graphs_agree_in_threads(runs)
        asyncio.run(test_graphs.test_graphs_agree_in_event_loop_and_leave_no_tasks(runs))
        asyncio.run(test_graphs.test_streams_of_graphs_agree_with_their_results(runs))
        for is_stored in (False, True):
            folder = tmp_path / f"{seed}-{is_stored}"
            folder.mkdir()
            test_graphs.test_graphs_stopped_at_every_function_and_resumed_agree(
                mended, is_stored, folder
            )
            test_cancelled_graphs_are_resumed_and_agree(mended, folder)
            test_graphs_that_time_out_are_resumed_and_agree(mended, folder)
        if time.monotonic() > end:
            break
