"""Random graphs: the engine must agree with the reference interpreter.

``make graphs`` runs many more of them than ``make test``.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import anyio
import pytest
import sniffio

from noukai_sdk.local import Executor, WorkflowResult
from noukai_sdk.local.engine.step_context import StepCompleted
from noukai_sdk.models.events import (
    FlowCompleted,
    RunStarted,
    StepFailed,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)

from .building import World, workflow_of
from .graph import Case, case_of, tool_results
from .runs import SECONDS, Runs

pytestmark = pytest.mark.anyio

GRAPHS = int(os.environ.get("GRAPHS", "150"))


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs([case_of(seed) for seed in range(GRAPHS)])


@pytest.fixture(scope="module")
def mended() -> Runs:
    """Runs that succeed sooner or later, unless a reference has no value."""
    return Runs([case_of(seed).mended() for seed in range(GRAPHS // 2)])


def start(case: Case) -> tuple[World, dict[str, Any]]:
    """Return the world of a new run, and the arguments of the executor's methods."""
    world = World()
    workflow = workflow_of(case, world)
    return world, {"workflow": workflow, "inputs": case.inputs, "tools": case.tools}


def test_graphs_agree_in_threads(runs: Runs) -> None:
    def run(case: Case) -> None:
        world, arguments = start(case)
        executor = runs.executor(case, 0)
        if case.seed % 2:
            result = executor.execute(**arguments, tool_handler=tool_results)
        else:
            result = executor.execute(**arguments)
            while result.pause is not None:
                answers = tool_results(result.pause.tool_calls)
                result = executor.resume(arguments["workflow"], result, answers)
        runs.check(case, result, world)

    runs.in_threads(run)


@pytest.mark.parametrize("is_stored", [False, True])
def test_graphs_stopped_at_every_function_and_resumed_agree(
    mended: Runs, is_stored: bool, tmp_path: Path
) -> None:
    def run(case: Case) -> None:
        world = World(stops=True)
        workflow = workflow_of(case, world)
        executor = mended.executor(case, 0)
        if is_stored:  # all that goes on is in the file
            executor = Executor(store=tmp_path / f"runs-{case.seed % 4}.db", retry=case.retry)
        result = executor.execute(workflow, case.inputs, tools=case.tools)
        most = 10 + 2 * len(mended.references[case.seed].calls)
        for _ in range(most):
            run: Any = result.run_id if is_stored else result
            if result.pause is not None:
                answers = tool_results(result.pause.tool_calls)
                result = executor.resume(workflow, run, answers)
            elif "STOPPED" in [error.code for error in result.errors]:
                result = executor.resume(workflow, run)
            else:
                break
        mended.check(case, result, world)
        executor.close()

    mended.in_threads(run)


async def test_graphs_agree_in_event_loop_and_leave_no_tasks(runs: Runs) -> None:
    async def run(case: Case) -> None:
        world, arguments = start(case)
        with anyio.fail_after(SECONDS):
            executor = runs.executor(case, 1)
            result = await executor.run_async(**arguments, tool_handler=tool_results)
        runs.check(case, result, world)

    await runs.in_tasks(run)
    if sniffio.current_async_library() == "asyncio":
        assert len(asyncio.all_tasks()) <= 2  # of pytest


async def test_streams_of_graphs_agree_with_their_results(runs: Runs) -> None:
    async def run(case: Case) -> None:
        world, arguments = start(case)
        events: list[StreamEvent] = []
        with anyio.fail_after(SECONDS):
            stream = runs.executor(case, 2).execute_streaming(**arguments)
            async for event in stream:
                events.append(event)
                if isinstance(event, ToolCallsRequired):
                    await event.resume(tool_results=tool_results(event.tool_calls))
        runs.check(case, stream.result, world)
        assert stream.result is not None
        check_events(events, stream.result)

    await runs.in_tasks(run)


def check_events(events: list[StreamEvent], result: WorkflowResult) -> None:
    """Compare the events of a run with its result."""
    first, *middle, last = events
    assert isinstance(first, RunStarted)
    assert not [event for event in middle if isinstance(event, RunStarted | FlowCompleted)]
    if result.is_success():
        assert isinstance(last, FlowCompleted)
        assert last.result == result.result
    else:
        assert isinstance(last, StepFailed)
        assert [last.name] == [error.node for error in result.errors]
    completed = [event for event in events if isinstance(event, StepCompleted)]
    outputs = {str(event.name): event.output for event in completed if not event.skipped}
    skipped = {str(event.name) for event in completed if event.skipped}
    # Beside a node that fails, another may be done whose event nobody waits for any more.
    assert outputs.items() <= result.outputs.items()
    assert skipped <= set(result.skipped)
    if result.is_success():
        assert outputs.keys() | skipped == result.outputs.keys() | set(result.skipped)
    assert len({event.step_id for event in completed}) == len(completed)
    started: set[str] = set()
    for event in events:
        if isinstance(event, StepStarted):
            started.add(event.step_id)
        elif isinstance(event, StepCompleted) and not event.skipped:
            assert event.step_id in started
