"""Tool pauses in a replay: the handler runs again, and its results are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from noukai_sdk import (
    FlowExecutionError,
    ReplayInvalidSessionError,
    ToolCallLimitError,
    ToolHandlerRequiredError,
)
from tests.support.replays import (
    TOOLS,
    AsyncSide,
    SessionService,
    SyncSide,
    execution,
    tool_result,
    weather,
    weather_call,
    weather_stream,
)

pytestmark = pytest.mark.anyio

WEATHER = {"call_1": "sunny", "call_2": "hot", "call_3": "snow"}
ASK: dict[str, Any] = {"message": "weather?", "tools": TOOLS}
ARGUMENTS = [['{"city": "Paris"}'], ['{"city": "Rome"}', '{"city": "Oslo"}']]


class Handler:
    """A tool handler that notes its tool calls."""

    def __init__(self, weather: dict[str, str] = WEATHER) -> None:
        self.arguments: list[list[str]] = []
        self._weather = weather

    def __call__(self, tool_calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.arguments.append([call["function"]["arguments"] for call in tool_calls])
        return [
            {"tool_call_id": call["id"], "output": self._weather[call["id"]]} for call in tool_calls
        ]


@pytest.fixture(params=["execute", "events"])
def ask(request: Any, service: SessionService, side: SyncSide) -> Callable[..., Any]:
    """Ask for the weather one way or the other, and return the final result."""
    streamed = request.param == "events"
    service.record(weather_stream() if streamed else weather())

    async def ask(**options: Any) -> Any:
        if not streamed:
            return (await side.execute(**{**ASK, **options})).result
        return (await side.events(**{**ASK, **options}))[-1].result

    return ask


async def test_handler_runs_again_on_the_recorded_calls(
    side: SyncSide, ask: Callable[..., Any]
) -> None:
    handler = Handler()

    async def async_handler(tool_calls: Any) -> Any:
        return handler(tool_calls)

    for handle in [handler, async_handler] if side.is_async else [handler]:
        handler.arguments.clear()
        async with side.scope() as scope:
            assert await ask(tool_handler=handle) == "sunny, hot, snow"
        assert handler.arguments == ARGUMENTS
        assert scope.report.clean


async def test_handler_with_other_results_is_drift(side: SyncSide, ask: Callable[..., Any]) -> None:
    async with side.scope() as scope:
        handler = Handler({**WEATHER, "call_3": "rain"})
        assert await ask(tool_handler=handler) == "sunny, hot, snow"
    (drift,) = scope.report.drift
    assert drift.detail == "tool results of round 2 differ from the recorded ones"
    assert scope.report.summary() == "hits=1; misses=0; drift=1; leftovers=0"


async def test_handler_that_raises_or_exceeds_the_limit_fails_as_it_does_live(
    side: SyncSide, ask: Callable[..., Any]
) -> None:
    def broken(tool_calls: Any) -> Any:
        raise RuntimeError("the tool is broken")

    async with side.scope():
        with pytest.raises(RuntimeError, match="the tool is broken"):
            await ask(tool_handler=broken)
    handler = Handler()
    async with side.scope():
        with pytest.raises(ToolCallLimitError, match="max_tool_rounds=1"):
            await ask(tool_handler=handler, max_tool_rounds=1)
    assert handler.arguments == ARGUMENTS[:1]


async def test_call_without_tools_gets_the_final_result_at_once(
    side: SyncSide, ask: Callable[..., Any]
) -> None:
    async with side.scope() as scope:
        assert await ask(tools=None) == "sunny, hot, snow"
    (drift,) = scope.report.drift
    assert drift.detail == "the input differs from the recorded one in: tools"


async def test_recording_without_rounds_or_results_is_served_without_drift(
    service: SessionService, side: SyncSide
) -> None:
    unknown_results = weather()
    unknown_results["toolRounds"][0]["toolResults"] = None
    stream = {**weather_stream(), "toolRounds": None}
    service.record(execution(0, "weather?", slug="hosted"), unknown_results, stream)
    handler = Handler({**WEATHER, "call_1": "fog"})
    async with side.scope() as scope:
        hosted = await side.execute(**ASK, tool_handler=handler, slug="acme/p/hosted")
        assert hosted.result == "answer to weather?"
        assert handler.arguments == []
        await side.execute(**ASK, tool_handler=handler)
        await side.events(**ASK, tool_handler=handler)
    assert scope.report.clean


async def test_resume_by_hand_serves_the_next_round(
    service: SessionService, side: SyncSide
) -> None:
    service.record(weather())
    async with side.scope() as scope:
        first = await side.execute(**ASK)
        assert (first.requires_tool_calls, first.session_id) == (True, "s-1")
        assert (first.execution_id, first.paused_at_step) == ("exec-0", "forecast")
        with pytest.raises(ValueError, match="tool_call_id"):
            await side.resume(first, [{"output": "sunny"}])
        second = await side.resume(first, [{"tool_call_id": "call_1", "output": "sunny"}])
        assert [call["id"] for call in second.tool_calls] == ["call_2", "call_3"]
        last = await side.resume(second, [tool_result(2, "hot"), tool_result(3, "snow")])
    assert (last.result, last.session_id) == ("sunny, hot, snow", "s-1")
    assert scope.report.clean

    async with side.scope() as scope:
        await side.resume(await side.execute(**ASK), [tool_result(1, "fog")])
    assert [entry.detail for entry in scope.report.drift] == [
        "tool results of round 1 differ from the recorded ones"
    ]


async def test_resume_on_the_other_client_is_a_type_error(
    service: SessionService, side: SyncSide
) -> None:
    service.record(weather())
    async with side.scope():
        paused = await side.execute(**ASK)
        if side.is_async:
            with pytest.raises(TypeError, match=r"await result\.resume"):
                paused.resume_sync(tool_results=[])
        else:
            with pytest.raises(TypeError, match="resume_sync"):
                await paused.resume(tool_results=[])


async def test_stream_pause_is_resumed_by_its_consumer_or_stays_paused(
    service: SessionService, async_side: AsyncSide, caplog: pytest.LogCaptureFixture
) -> None:
    service.record(weather_stream())
    handler = Handler({**WEATHER, "call_1": "fog"})
    types = []
    async with async_side.scope() as scope:
        async for event in async_side.flow().events(**ASK):
            types.append(event.type)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=handler(event.tool_calls))
    assert types == [
        "run_started",
        "step_started",
        "tool_calls_required",
        "step_started",
        "tool_calls_required",
        "step_started",
        "step_completed",
        "flow_completed",
    ]
    assert handler.arguments == ARGUMENTS
    assert [entry.detail for entry in scope.report.drift] == [
        "tool results of round 1 differ from the recorded ones"
    ]

    async with async_side.scope() as scope:
        events = await async_side.events(**ASK)
    assert [event.type for event in events] == types[:3]
    assert "was left paused" in caplog.text
    assert scope.report.clean


async def test_sync_stream_without_handler_is_an_error(
    service: SessionService, sync_side: SyncSide
) -> None:
    service.record(weather_stream())
    async with sync_side.scope():
        with pytest.raises(ToolHandlerRequiredError):
            await sync_side.events(**ASK)


async def test_steps_are_counted_through_a_pause(service: SessionService, side: SyncSide) -> None:
    def at(kind: str, step_id: str, index: int, **fields: Any) -> dict[str, Any]:
        return {"eventType": kind, "stepId": step_id, "stepIndex": index, **fields}

    pause = at("step_paused_for_tool_calls", "b", 1, executionId="exec-0")
    events = [
        at("step_started", "a", 0),
        at("step_completed", "a", 0, output=1),
        at("step_started", "b", 1),
        {**pause, "toolCalls": [weather_call(1, "Paris")]},
        # The next call of the service counts from 0 again.
        at("step_completed", "b", 0, output=2),
        at("step_completed", "c", 1, output=3),
        {"eventType": "flow_completed", "result": 3},
    ]
    service.record({**weather_stream(), "events": events})
    async with side.scope():
        steps = await side.steps(**ASK, tool_handler=Handler())
    assert [(step.step_id, step.step_index) for step in steps] == [("a", 0), ("b", 1), ("c", 2)]


async def test_recorded_failure_after_pauses_is_raised(
    service: SessionService, side: SyncSide
) -> None:
    error = {"statusCode": 500, "code": "TOOL_ITERATION_LIMIT", "message": "too many"}
    service.record({**weather(), "status": "failed", "error": error})
    handler = Handler()
    async with side.scope():
        with pytest.raises(FlowExecutionError, match="too many") as caught:
            await side.execute(**ASK, tool_handler=handler)
    assert caught.value.code == "TOOL_ITERATION_LIMIT"
    assert handler.arguments == ARGUMENTS


async def test_malformed_recorded_results_are_refused(
    service: SessionService, side: SyncSide
) -> None:
    session = weather()
    session["toolRounds"][0]["toolResults"] = [{"no": "id"}]
    service.record(session)
    with pytest.raises(ReplayInvalidSessionError, match="malformed: a tool result needs"):
        async with side.scope():
            await side.execute(**ASK, tool_handler=Handler())
