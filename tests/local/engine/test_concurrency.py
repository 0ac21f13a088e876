"""``max_concurrency`` limits the work at once: nodes, items of loops, retries, sub-flows."""

from __future__ import annotations

import math
from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, Node
from noukai_sdk.local.engine.step_context import Timeout
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio


class Concurrency:
    """Node functions that count how many of them run at once."""

    def __init__(self) -> None:
        self.running = self.most = self.calls = 0

    async def __call__(self, value: Any) -> Any:
        self.running += 1
        self.calls += 1
        self.most = max(self.most, self.running)
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        self.running -= 1
        return value


@pytest.mark.parametrize("limit", [1, 3])
async def test_max_concurrency_limits_items_of_loops(limit: int) -> None:
    work = Concurrency()
    workflow = workflow_of(
        Node.function("one", work),
        *(
            Node.function(f"loop {n}", work, for_each="{{message}}", concurrency=9, timeout=60)
            for n in range(3)
        ),
    )
    with anyio.fail_after(20):
        result = await Executor(max_concurrency=limit).run_async(
            workflow, {"message": [*"abcdefg"]}
        )
    assert result.get_node_output("loop 2") == [*"abcdefg"]
    assert (work.most, work.calls) == (limit, 22)


async def test_node_that_waits_for_its_retry_frees_its_place() -> None:
    order: list[str] = []

    async def fail_once() -> None:
        order.append("first")
        if len(order) == 1:
            raise ValueError("once")

    async def other() -> None:
        order.append("other")

    workflow = workflow_of(Node.function("first", fail_once), Node.function("other", other))
    with anyio.fail_after(20):
        result = await Executor(max_concurrency=1, retry=1).run_async(workflow)
    assert result.is_success()
    assert order == ["first", "other", "first"]


async def test_timeout_of_loop_does_not_count_while_all_its_items_wait() -> None:
    timeout = Timeout(60)
    timeout.workers = 2
    with timeout.waiting():
        assert timeout.scope.deadline < math.inf
        with timeout.waiting():
            assert timeout.scope.deadline == math.inf
        assert timeout.scope.deadline < math.inf
        timeout.end_worker()
        assert timeout.scope.deadline == math.inf
