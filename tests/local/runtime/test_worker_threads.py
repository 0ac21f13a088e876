"""Functions of users that raise errors which would end more than the function."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

from noukai_sdk.local import Executor, Node
from noukai_sdk.local.runtime.worker_threads import DEFAULT_WORKER_THREADS, call_function
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio

Raiser = Callable[[Any], Any]


class Rare(BaseException):
    """Like pytest's own outcomes: not an Exception."""


def raising(error: BaseException) -> Raiser:
    def function(value: Any) -> None:
        raise error

    return function


def raising_async(error: BaseException) -> Raiser:
    async def function(value: Any) -> None:
        raise error

    return function


async def awaiting_cancelled_task(value: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


def returning_coroutine_that_exits(value: Any) -> Any:
    return raising_async(SystemExit(3))(value)


needs_cancelling = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="tasks do not count their cancellations before"
)


@pytest.mark.parametrize(
    ("function", "error"),
    [
        pytest.param(raising(SystemExit(3)), "SystemExit: 3", id="exit"),
        pytest.param(raising(KeyboardInterrupt()), "KeyboardInterrupt", id="interrupt"),
        pytest.param(raising(asyncio.CancelledError()), "CancelledError", id="cancel"),
        pytest.param(raising(GeneratorExit()), "GeneratorExit", id="generator"),
        pytest.param(raising(Rare("r")), "Rare: r", id="rare"),
        pytest.param(raising_async(SystemExit(3)), "SystemExit: 3", id="async exit"),
        pytest.param(raising_async(KeyboardInterrupt()), "KeyboardInterrupt", id="async interrupt"),
        pytest.param(returning_coroutine_that_exits, "SystemExit: 3", id="awaitable exit"),
        pytest.param(
            raising_async(asyncio.CancelledError()),
            "CancelledError",
            id="async cancel",
            marks=needs_cancelling,
        ),
        pytest.param(
            awaiting_cancelled_task, "CancelledError", id="other cancel", marks=needs_cancelling
        ),
    ],
)
def test_function_that_raises_any_error_fails_its_node_or_tool(
    function: Raiser, error: str
) -> None:
    executor = Executor()
    workflow = workflow_of(Node.function("F", function))
    result = executor.execute(workflow, "x")
    message = f"F: STEP_FAILED: step 'F' failed: RuntimeError: the function raised {error}"
    assert [str(node_error) for node_error in result.errors] == [message]
    assert isinstance(result.errors[0].error.__cause__, BaseException)
    stream = executor.execute_streaming(workflow, "x")
    assert [event.type for event in stream][-1] == "step_error"
    # As a tool, the model reads the error.
    result = executor.execute(workflow_of(Node.agent("A", tools=[function])), "x")
    assert f"RuntimeError: the function raised {error}" in result.result


async def test_function_of_cancelled_task_is_cancelled() -> None:
    started = anyio.Event()

    async def wait() -> None:
        started.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(call_function, wait, is_async=True))
        with anyio.fail_after(30):
            await started.wait()
        tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


async def test_interrupt_in_main_thread_ends_program() -> None:
    with pytest.raises(KeyboardInterrupt):
        await call_function(partial(raising_async(KeyboardInterrupt()), None), is_async=True)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_cancelled_error_of_asyncio_on_trio_is_an_error_of_the_function() -> None:
    with pytest.raises(RuntimeError, match="raised CancelledError"):
        await call_function(partial(raising_async(asyncio.CancelledError()), None), is_async=True)


@pytest.mark.parametrize("way", ["execute", "run_async"])
async def test_function_nodes_that_execute_workflows_never_wait_for_their_own_threads(
    way: str,
) -> None:
    executor = Executor()
    inner = workflow_of(Node.function("inner", lambda text: f"{text}!"))
    middle = workflow_of(Node.function("middle", lambda text: executor.execute(inner, text).result))
    nodes = [
        Node.function(f"outer {number}", lambda text: executor.execute(middle, text).result)
        for number in range(DEFAULT_WORKER_THREADS + 5)
    ]
    workflow = workflow_of(*nodes)
    with anyio.fail_after(60):
        if way == "execute":
            result = await anyio.to_thread.run_sync(
                lambda: executor.execute(workflow, "hi"), abandon_on_cancel=True
            )
        else:
            result = await executor.run_async(workflow, "hi")
    assert set(result.outputs.values()) == {"hi!"}
    assert len(result.outputs) == len(nodes)
