from __future__ import annotations

from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, Node, Workflow

pytestmark = pytest.mark.anyio


def loop_of(function: Any, **settings: Any) -> Workflow:
    workflow = Workflow("Loop")
    workflow.add_node(Node.function("each", function, for_each="{{message}}", **settings))
    return workflow


async def test_loop_streamed_to_a_slow_consumer_keeps_its_timeout() -> None:
    async def work(item: int) -> int:
        if item == 2:
            await anyio.sleep_forever()
        return item

    stream = Executor().execute_streaming(
        loop_of(work, concurrency=3, timeout=0.2), {"message": [1, 2, 3]}
    )
    with anyio.fail_after(20):
        async for _ in stream:
            # So that the events of several items wait for their turn at once.
            await anyio.sleep(0.01)
    assert stream.result is not None
    assert stream.result.errors[0].code == "STEP_TIMEOUT"


async def test_loop_with_concurrency_starts_no_more_items_at_once() -> None:
    at_once, most, tasks = 0, 0, 0

    async def work(item: int) -> int:
        nonlocal at_once, most, tasks
        at_once += 1
        most = max(most, at_once)
        tasks = max(tasks, len(anyio.get_running_tasks()))
        await anyio.lowlevel.checkpoint()
        at_once -= 1
        return -item

    before = len(anyio.get_running_tasks())
    workflow = loop_of(work, concurrency=5)
    result = await Executor().run_async(workflow, {"message": list(range(2000))})
    assert result.result == [-item for item in range(2000)]
    assert most == 5
    # Not a task for each item: each takes a kilobyte.
    assert tasks < before + 50


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_loop_over_work_that_never_waits_can_be_cancelled(concurrency: int) -> None:
    done = 0

    async def work(item: int) -> None:
        nonlocal done
        done += 1
        if done == 10:
            scope.cancel()

    with anyio.CancelScope() as scope:
        await Executor().run_async(
            loop_of(work, concurrency=concurrency), {"message": list(range(1000))}
        )
    assert scope.cancelled_caught
    assert done < 20


async def test_loop_over_empty_list_returns_empty_list() -> None:
    result = await Executor().run_async(loop_of(str, concurrency=3), {"message": []})
    assert (result.state(), result.result) == ("completed", [])
