"""Random graphs run by the engine, and compared with the reference interpreter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import anyio

from noukai_sdk.local import Executor, WorkflowResult
from tests.support.servers import wait_until

from .building import World
from .graph import Case
from .reference import Outcome, Reference

SECONDS = 30
"""No run takes nearly as long."""


def check(
    case: Case, result: WorkflowResult, expected: Outcome, reference: Reference, world: World
) -> None:
    """Compare the result of a run with what the reference interpreter expects."""
    where = f"seed {case.seed}"
    wait_until(lambda: world.running == 0, deadline=SECONDS)
    # A finished function is not called again, whatever is retried or resumed.
    assert not [name for name, times in world.done.items() if times > 1], where
    ids = {f"The {step.id}": step.id for step in case.graph.steps}
    outputs = {ids[name]: value for name, value in result.outputs.items()}
    skipped = {ids[name] for name in result.skipped}
    if reference.is_open:
        return
    if not expected.failed:
        assert result.is_success(), (where, result.errors)
        assert outputs == expected.outputs, where
        assert skipped == expected.skipped, where
        assert result.result == expected.result, where
        tokens = 0 if result.tokens is None else result.tokens.total
        # An agent that is interrupted between its rounds asks its model again.
        is_asked_again = world.is_interrupted and case.tools and tokens > reference.tokens
        assert tokens == reference.tokens or is_asked_again, (where, tokens, reference.tokens)
        if world.is_interrupted:  # functions that were interrupted are called again
            assert not reference.calls - world.calls, where
        elif not reference.has_failed_flow:
            assert world.calls == reference.calls, where
        return
    assert result.is_failed(), where
    (error,) = result.errors
    assert error.code in {code for code, _ in expected.failed[ids[error.node]]}, (where, error)
    assert result.result is None, where
    assert outputs.items() <= expected.outputs.items(), where
    assert skipped <= expected.skipped, where
    done = outputs.keys() | skipped
    for step in case.graph.steps:
        if step.id in done:
            assert {parent for parent, _ in step.needs} <= done, where


class Runs:
    """Cases and their expected outcomes, and the executors that run them."""

    def __init__(self, cases: list[Case]) -> None:
        self.cases = cases
        self.references = {case.seed: Reference(case) for case in cases}
        self._expected = asyncio.run(self._interpret())
        self._executors: dict[tuple[int, int | None], Executor] = {}

    async def _interpret(self) -> dict[int, Outcome]:
        return {seed: await reference.run() for seed, reference in self.references.items()}

    def executor(self, case: Case, turn: int) -> Executor:
        """Return an executor for the case: another ``max_concurrency`` in each turn."""
        limit = [None, 1, 3][(case.seed + turn) % 3]
        return self._executors.setdefault(
            (case.retry, limit), Executor(retry=case.retry, max_concurrency=limit)
        )

    def check(self, case: Case, result: WorkflowResult | None, world: World) -> None:
        assert result is not None
        check(case, result, self._expected[case.seed], self.references[case.seed], world)

    def in_threads(self, run: Callable[[Case], None]) -> None:
        """Run all cases, twenty at once."""
        with ThreadPoolExecutor(20) as threads:
            for _ in threads.map(run, self.cases):
                pass

    async def in_tasks(self, run: Callable[[Case], Awaitable[None]]) -> None:
        """Run all cases, twenty at once."""
        cases = iter(self.cases)

        async def worker() -> None:
            for case in cases:
                await run(case)

        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(worker)
