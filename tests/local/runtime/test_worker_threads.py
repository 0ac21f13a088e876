"""Functions of users that raise what would end more than themselves: a failed node, and no more."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, Node, Workflow
from noukai_sdk.local.runtime.worker_threads import call_function

Raiser = Callable[[Any], Any]


class Rare(BaseException):
    """As pytest's own outcomes are."""


def raising(error: BaseException) -> Raiser:
    def function(value: Any) -> None:
        raise error

    return function


def raising_async(error: BaseException) -> Raiser:
    async def function(value: Any) -> None:
        raise error

    return function


async def waiting_for_a_cancelled_task(value: Any) -> None:
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()
    await task


def gives_what_exits(value: Any) -> Any:
    return raising_async(SystemExit(3))(value)


needs_cancelling = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="asyncio does not tell before"
)
FUNCTIONS = [
    pytest.param(raising(SystemExit(3)), "SystemExit: 3", id="exit"),
    pytest.param(raising(KeyboardInterrupt()), "KeyboardInterrupt", id="interrupt"),
    pytest.param(raising(asyncio.CancelledError()), "CancelledError", id="cancel"),
    pytest.param(raising(GeneratorExit()), "GeneratorExit", id="generator"),
    pytest.param(raising(Rare("r")), "Rare: r", id="rare"),
    pytest.param(raising_async(SystemExit(3)), "SystemExit: 3", id="async exit"),
    pytest.param(raising_async(KeyboardInterrupt()), "KeyboardInterrupt", id="async interrupt"),
    pytest.param(gives_what_exits, "SystemExit: 3", id="awaitable exit"),
    pytest.param(
        raising_async(asyncio.CancelledError()),
        "CancelledError",
        id="async cancel",
        marks=needs_cancelling,
    ),
    pytest.param(
        waiting_for_a_cancelled_task, "CancelledError", id="other cancel", marks=needs_cancelling
    ),
]


def workflow_of(node: Node) -> Workflow:
    workflow = Workflow("W")
    workflow.add_node(node)
    return workflow


@pytest.mark.parametrize(("function", "told"), FUNCTIONS)
def test_it_is_a_failed_node_and_the_loop_goes_on(function: Raiser, told: str) -> None:
    executor = Executor()
    workflow = workflow_of(Node.function("F", function))
    whole = f"F: STEP_FAILED: step 'F' failed: RuntimeError: the function raised {told}"
    result = executor.execute(workflow, "x")
    assert [str(error) for error in result.errors] == [whole]
    assert isinstance(result.errors[0].error.__cause__, BaseException)
    stream = executor.execute_streaming(workflow, "x")
    assert [event.type for event in stream][-1] == "step_error"
    assert executor.execute(workflow_of(Node.transform("T", "uppercase")), "x").result == "X"


@pytest.mark.parametrize(("function", "told"), FUNCTIONS)
def test_as_a_tool_it_is_told_to_the_model(function: Raiser, told: str) -> None:
    result = Executor().execute(workflow_of(Node.agent("A", tools=[function])), "x")
    assert f"RuntimeError: the function raised {told}" in result.result


async def test_a_real_cancellation_stays_one() -> None:
    begun = anyio.Event()

    async def wait() -> None:
        begun.set()
        await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(partial(call_function, wait, is_async=True))
        with anyio.fail_after(10):
            await begun.wait()
        tasks.cancel_scope.cancel()
    assert tasks.cancel_scope.cancelled_caught


async def test_an_interrupt_of_the_main_thread_is_the_programs() -> None:
    with pytest.raises(KeyboardInterrupt):
        await call_function(partial(raising_async(KeyboardInterrupt()), None), is_async=True)


pytestmark = pytest.mark.anyio
