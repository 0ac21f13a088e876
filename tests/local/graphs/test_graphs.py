"""Random graphs: the engine must agree with the reference interpreter.

``make graphs`` runs many more of them than ``make test``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
from tests.support.servers import wait_until

from .building import World, workflow_of
from .graph import Case, Graph, case_of, tool_results
from .reference import Outcome, Reference

pytestmark = pytest.mark.anyio

GRAPHS = int(os.environ.get("GRAPHS", "200"))
SECONDS = 30
"""No run takes nearly as long. If one does, pytest shows where it hangs."""


def check(
    case: Case, result: WorkflowResult, expected: Outcome, reference: Reference, world: World
) -> None:
    """Compare the result of a run with what the reference interpreter expects."""
    where = f"seed {case.seed}"
    wait_until(lambda: world.running == 0, deadline=SECONDS)
    ids = {f"The {step.id}": step.id for step in case.graph.steps}
    outputs = {ids[name]: value for name, value in result.outputs.items()}
    skipped = {ids[name] for name in result.skipped}
    tokens = 0 if result.tokens is None else result.tokens.total
    if not expected.failed:
        assert result.is_success(), (where, result.errors)
        assert outputs == expected.outputs, where
        assert skipped == expected.skipped, where
        assert result.result == expected.result, where
        if not reference.repeats_flows:
            assert world.calls == reference.calls, where
            assert (tokens or 0) == reference.tokens, where
    else:
        assert result.is_failed(), where
        (error,) = result.errors
        assert error.code in expected.failed[ids[error.node]], (where, error)
        assert outputs.items() <= expected.outputs.items(), where
        assert skipped <= expected.skipped, where
        done = outputs.keys() | skipped
        for step in case.graph.steps:
            if step.id in done:
                assert {parent for parent, _ in step.needs} <= done, where
        assert result.result is None, where
    extra = world.calls - reference.calls
    assert not extra, (where, extra)


def tamed(case: Case) -> Case:
    """Return the case without failing items: a retry repeats the whole loop until they are kept."""

    def tame(graph: Graph, is_in_loop: bool = False) -> Graph:
        steps = []
        for step in graph.steps:
            is_item = is_in_loop or step.over is not None
            inner = tame(step.inner, is_item) if step.inner else None
            steps.append(replace(step, fails=0 if is_item else step.fails, inner=inner))
        return replace(graph, steps=tuple(steps))

    return replace(case, graph=tame(case.graph))


class Runs:
    """The expected outcomes of all cases, and the executors that run them."""

    def __init__(self, count: int) -> None:
        self.cases = [tamed(case_of(seed)) for seed in range(count)]
        self._expected = asyncio.run(self._interpret())
        self._executors: dict[tuple[int, int | None], Executor] = {}

    async def _interpret(self) -> list[tuple[Reference, Outcome]]:
        references = [Reference(case) for case in self.cases]
        return [(reference, await reference.run()) for reference in references]

    def executor(self, case: Case, turn: int) -> Executor:
        """Return an executor for the case: another ``max_concurrency`` in each turn."""
        limit = [None, 1, 3][(case.seed + turn) % 3]
        return self._executors.setdefault(
            (case.retry, limit), Executor(retry=case.retry, max_concurrency=limit)
        )

    def check(self, case: Case, result: WorkflowResult | None, world: World) -> None:
        reference, expected = self._expected[case.seed]
        assert result is not None
        check(case, result, expected, reference, world)


@pytest.fixture(scope="module")
def runs() -> Runs:
    return Runs(GRAPHS)


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

    with ThreadPoolExecutor(20) as threads:
        for _ in threads.map(run, runs.cases):
            pass


async def test_graphs_agree_in_event_loop_and_leave_no_tasks(runs: Runs) -> None:
    async def run(case: Case) -> None:
        world, arguments = start(case)
        with anyio.fail_after(SECONDS):
            executor = runs.executor(case, 1)
            result = await executor.run_async(**arguments, tool_handler=tool_results)
        runs.check(case, result, world)

    await run_all(runs, run)
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

    await run_all(runs, run)


async def run_all(runs: Runs, run: Callable[[Case], Awaitable[None]]) -> None:
    """Run all cases, twenty at once."""
    cases = iter(runs.cases)

    async def worker() -> None:
        for case in cases:
            await run(case)

    async with anyio.create_task_group() as group:
        for _ in range(20):
            group.start_soon(worker)


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
