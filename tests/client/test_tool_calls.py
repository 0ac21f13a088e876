"""Tool pauses of ``execute``: handlers of every form, and resuming by hand."""

from __future__ import annotations

import copy
import functools
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from noukai_sdk import ExecuteResult, PausedResult, ToolCallLimitError
from tests.support.service import CALL, DONE, PAUSED, Service
from tests.support.sides import SYNC, Side

TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
RESULTS = [{"tool_call_id": "call_1", "output": {"sky": "blue"}}]
ON_THE_WIRE = {"role": "tool", "tool_call_id": "call_1", "content": '{"sky":"blue"}'}


def plain(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert tool_calls == [CALL]
    return RESULTS


async def asynchronous(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return plain(tool_calls)


class Plain:
    def __call__(self, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return plain(tool_calls)

    def method(self, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return plain(tool_calls)


class Asynchronous:
    async def __call__(self, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return plain(tool_calls)

    async def method(self, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return plain(tool_calls)


def second_argument(_: str, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return plain(tool_calls)


async def async_second_argument(_: str, tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return plain(tool_calls)


PLAIN: list[Callable[..., Any]] = [
    plain, Plain(), Plain().method, functools.partial(second_argument, "x"), lambda calls: plain(calls),
]  # fmt: skip
ASYNCHRONOUS: list[Callable[..., Any]] = [
    asynchronous,
    Asynchronous(),
    Asynchronous().method,
    functools.partial(async_second_argument, "x"),
    functools.partial(functools.partial(async_second_argument), "x"),
    functools.partial(Asynchronous()),
]
CONTINUED = {
    "tools": TOOLS,
    "executionId": "e",
    "pausedAtStep": "step-1",
    "iterationsUsed": 1,
    "toolCallMessages": [{"role": "user", "content": "hi"}, ON_THE_WIRE],
    "accumulatedOutputs": {},
}


@pytest.mark.parametrize("handler", PLAIN)
async def test_tool_handler_of_any_form_resumes_each_pause(
    side: Side, service: Service, handler: Callable[..., Any]
) -> None:
    service.reply(PAUSED, PAUSED, DONE)
    async with side.flow() as flow:
        result = await side.call(
            flow.execute, message="hi", tools=TOOLS, tool_handler=handler, session_id="s1"
        )
    assert result.result == {"grade": 3}
    assert [request.body for request in service.requests] == [
        {"message": "hi", "tools": TOOLS},
        CONTINUED,
        CONTINUED,
    ]
    assert [request.headers["x-session-id"] for request in service.requests] == ["s1"] * 3


@pytest.mark.parametrize("handler", ASYNCHRONOUS)
async def test_async_tool_handler_on_async_client_is_awaited(
    async_side: Side, service: Service, handler: Callable[..., Any]
) -> None:
    service.reply(PAUSED, DONE)
    async with async_side.flow() as flow:
        result = await flow.execute(message="hi", tools=TOOLS, tool_handler=handler)
    assert result.result == {"grade": 3}


@pytest.mark.parametrize("handler", ASYNCHRONOUS)
@pytest.mark.parametrize("method", ["execute", "steps", "events"])
def test_async_tool_handler_on_sync_client_raises(
    service: Service, handler: Callable[..., Any], method: str
) -> None:
    with (
        SYNC.make() as client,
        pytest.raises(TypeError, match=f"{method}.*plain function.*AsyncNoukai"),
    ):
        getattr(client.flow("grade-3"), method)(message="hi", tool_handler=handler)
    assert not service.requests


@pytest.mark.parametrize("make", [lambda: asynchronous([CALL]), lambda: Awaitable()])
def test_tool_handler_returns_awaitable_on_sync_client_raises(
    service: Service, make: Callable[[], Any]
) -> None:
    service.reply(PAUSED)
    with SYNC.make() as client, pytest.raises(TypeError, match="returned an awaitable"):
        client.flow("grade-3").execute(message="hi", tool_handler=lambda calls: make())


class Awaitable:
    def __await__(self) -> Any:
        yield


async def test_tool_rounds_default_is_ten(side: Side, service: Service) -> None:
    service.reply(*[PAUSED] * 10, DONE, PAUSED)
    async with side.flow() as flow:
        assert (
            await side.call(flow.execute, message="hi", tool_handler=plain)
        ).status == "completed"
        with pytest.raises(ToolCallLimitError, match="max_tool_rounds=10") as caught:
            await side.call(flow.execute, message="hi", tool_handler=plain)
    assert caught.value.execution_id == "e"


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("x"), OSError("the tool's own network"), StopIteration(5)]
)
async def test_tool_handler_error_is_raised_unchanged(
    side: Side, service: Service, error: Exception
) -> None:
    service.reply(PAUSED)

    def broken(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise error

    async with side.flow() as flow:
        with pytest.raises((ZeroDivisionError, OSError, RuntimeError)) as caught:
            await side.call(flow.execute, message="hi", tool_handler=broken)
    assert error in (caught.value, caught.value.__cause__)


async def test_tool_results_not_valid_raise(side: Side, service: Service) -> None:
    service.reply(PAUSED)
    async with side.flow() as flow:
        with pytest.raises(TypeError, match="must be a list of dicts, not NoneType"):
            await side.call(flow.execute, message="hi", tool_handler=lambda calls: None)
        paused = await side.call(flow.execute, message="hi")
        with pytest.raises(ValueError, match="'call_1' needs 'output' or 'content'"):
            await side.resume(paused, [{"tool_call_id": "call_1"}])
    assert len(service.requests) == 2


async def test_resume_by_hand_continues_run(side: Side, service: Service) -> None:
    service.reply(PAUSED, PAUSED, DONE)
    async with side.flow() as flow:
        result = await side.call(
            flow.execute, message="hi", tools=TOOLS, session_id="s1", extra_headers={"X-Mine": "1"}
        )
        assert isinstance(result, PausedResult)
        assert (result.requires_tool_calls, result.tool_calls, result.session_id) == (
            True,
            [CALL],
            "s1",
        )
        while result.requires_tool_calls:
            result = await side.resume(result, RESULTS)
    assert isinstance(result, ExecuteResult)
    assert result.session_id == "s1"
    assert [request.body for request in service.requests[1:]] == [CONTINUED, CONTINUED]
    assert [request.headers["x-session-id"] for request in service.requests] == ["s1"] * 3
    assert [request.headers["x-mine"] for request in service.requests] == ["1"] * 3


async def test_resume_by_other_kind_of_method_raises(side: Side, service: Service) -> None:
    service.reply(PAUSED)
    async with side.flow() as flow:
        paused = await side.call(flow.execute, message="hi")
        if side.is_async:
            with pytest.raises(TypeError, match=r"await result\.resume\(\.\.\.\)"):
                paused.resume_sync(tool_results=RESULTS)
        else:
            with pytest.raises(TypeError, match=r"resume_sync\(\.\.\.\)"):
                await paused.resume(tool_results=RESULTS)
    assert len(service.requests) == 1


async def test_paused_result_copies_resume_and_pickles_do_not(side: Side, service: Service) -> None:
    """A pickled one is data: it can be looked at, and not resumed."""
    service.reply(PAUSED, DONE)
    async with side.flow() as flow:
        paused = await side.call(flow.execute, message="hi")
        pickled = pickle.loads(pickle.dumps(paused))
        assert pickled == paused
        with pytest.raises(TypeError, match="did not come from a client"):
            await side.resume(pickled, RESULTS)
        copied = copy.deepcopy([paused, paused])
        assert copied[0] is copied[1]
        assert copied[0] == paused
        assert copied[0].tool_calls[0] is not paused.tool_calls[0]
        assert (await side.resume(copied[0], RESULTS)).status == "completed"
