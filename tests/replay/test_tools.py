"""Tool pauses in a replay: the handler runs again, and what it gives is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from noukai_sdk import ReplayInvalidSessionError, ToolCallLimitError, ToolHandlerRequiredError
from tests.replay.service import (
    TOOLS,
    AsyncSide,
    Service,
    Side,
    SyncSide,
    answered,
    execution,
    weather,
    weather_call,
    weather_stream,
)

pytestmark = pytest.mark.anyio

WEATHER = {"call_1": "sunny", "call_2": "hot", "call_3": "snow"}
ASK: dict[str, Any] = {"message": "weather?", "tools": TOOLS}


class Handler:
    """A tool handler that notes what it was asked."""

    def __init__(self, weather: dict[str, str] = WEATHER) -> None:
        self.asked: list[list[str]] = []
        self._weather = weather

    def __call__(self, tool_calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        self.asked.append([call["function"]["arguments"] for call in tool_calls])
        return [
            {"tool_call_id": call["id"], "output": self._weather[call["id"]]} for call in tool_calls
        ]


ASKED = [['{"city": "Paris"}'], ['{"city": "Rome"}', '{"city": "Oslo"}']]


@pytest.fixture(params=["execute", "events"])
def ask(request: Any, service: Service, side: Side) -> Callable[..., Any]:
    """Ask for the weather one way or the other; gives the final result."""
    streamed = request.param == "events"
    service.record(weather_stream() if streamed else weather())

    async def asked(**options: Any) -> Any:
        if not streamed:
            return (await side.execute(**{**ASK, **options})).result
        return (await side.events(**{**ASK, **options}))[-1].result

    return asked


async def test_the_handler_runs_again_on_the_recorded_calls(
    side: Side, ask: Callable[..., Any]
) -> None:
    handler = Handler()
    async with side.scope() as scope:
        assert await ask(tool_handler=handler) == "sunny, hot, snow"
    assert handler.asked == ASKED
    assert scope.report.clean


async def test_an_async_handler_runs_too(service: Service, async_side: AsyncSide) -> None:
    handler = Handler()

    async def later(tool_calls: Any) -> Any:
        return handler(tool_calls)

    service.record(weather(), {**weather_stream(), "executionId": "exec-1"})
    async with async_side.scope() as scope:
        assert (await async_side.execute(**ASK, tool_handler=later)).result == "sunny, hot, snow"
        await async_side.events(**ASK, tool_handler=later)
    assert handler.asked == ASKED * 2
    assert scope.report.clean


async def test_other_tool_results_are_drift(side: Side, ask: Callable[..., Any]) -> None:
    async with side.scope() as scope:
        handler = Handler({**WEATHER, "call_3": "rain"})
        assert await ask(tool_handler=handler) == "sunny, hot, snow"
    (drift,) = scope.report.drift
    assert drift.detail == "tool results of round 2 differ from the recorded ones"
    assert scope.report.summary() == "hits=1; misses=0; drift=1; leftovers=0"


async def test_a_handler_that_raises_does_so_in_a_replay(
    side: Side, ask: Callable[..., Any]
) -> None:
    def broken(tool_calls: Any) -> Any:
        raise RuntimeError("the tool is broken")

    async with side.scope():
        with pytest.raises(RuntimeError, match="the tool is broken"):
            await ask(tool_handler=broken)


async def test_the_limit_of_rounds_holds_in_a_replay(side: Side, ask: Callable[..., Any]) -> None:
    handler = Handler()
    async with side.scope():
        with pytest.raises(ToolCallLimitError, match="max_tool_rounds=1"):
            await ask(tool_handler=handler, max_tool_rounds=1)
    assert handler.asked == ASKED[:1]


async def test_a_call_without_tools_gets_the_end_at_once(
    side: Side, ask: Callable[..., Any]
) -> None:
    async with side.scope() as scope:
        assert await ask(tools=None) == "sunny, hot, snow"
    (drift,) = scope.report.drift
    assert drift.detail == "the input differs from the recorded one in: tools"


async def test_a_recording_without_rounds_gives_the_end_at_once(
    service: Service, side: Side
) -> None:
    service.record(execution(0, "weather?"))
    handler = Handler()
    async with side.scope() as scope:
        result = await side.execute(**ASK, tool_handler=handler)
    assert result.result == "answer to weather?"
    assert handler.asked == []
    assert scope.report.clean


async def test_resuming_by_hand(service: Service, side: Side) -> None:
    service.record(weather())
    async with side.scope() as scope:
        first = await side.execute(**ASK)
        assert first.requires_tool_calls
        assert first.session_id == "s-1"
        assert (first.execution_id, first.paused_at_step) == ("exec-0", "forecast")
        second = await side.resume(first, [{"tool_call_id": "call_1", "output": "sunny"}])
        assert [call["id"] for call in second.tool_calls] == ["call_2", "call_3"]
        last = await side.resume(second, [answered(2, "hot"), answered(3, "snow")])
    assert (last.result, last.session_id) == ("sunny, hot, snow", "s-1")
    assert scope.report.clean


async def test_resuming_by_hand_with_other_results_is_drift(service: Service, side: Side) -> None:
    service.record(weather())
    async with side.scope() as scope:
        first = await side.execute(**ASK)
        await side.resume(first, [answered(1, "fog")])
    assert [entry.detail for entry in scope.report.drift] == [
        "tool results of round 1 differ from the recorded ones"
    ]


async def test_resuming_on_the_other_client_is_a_type_error(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(weather())
    async with async_side.scope():
        paused = await async_side.execute(**ASK)
        with pytest.raises(TypeError, match=r"await result\.resume"):
            paused.resume_sync(tool_results=[])


async def test_resuming_with_await_on_the_sync_client_is_a_type_error(
    service: Service, sync_side: SyncSide
) -> None:
    service.record(weather())
    async with sync_side.scope():
        paused = await sync_side.execute(**ASK)
        with pytest.raises(TypeError, match="resume_sync"):
            await paused.resume(tool_results=[])


async def test_bad_results_are_refused_as_they_are_live(service: Service, side: Side) -> None:
    service.record(weather())
    async with side.scope():
        paused = await side.execute(**ASK)
        with pytest.raises(ValueError, match="tool_call_id"):
            await side.resume(paused, [{"output": "sunny"}])


async def test_a_streams_consumer_can_answer(service: Service, async_side: AsyncSide) -> None:
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
    assert handler.asked == ASKED
    assert [entry.detail for entry in scope.report.drift] == [
        "tool results of round 1 differ from the recorded ones"
    ]


async def test_steps_are_counted_through_a_pause(service: Service, side: Side) -> None:
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


async def test_a_stream_that_nobody_answers_stays_paused(
    service: Service, async_side: AsyncSide, caplog: pytest.LogCaptureFixture
) -> None:
    service.record(weather_stream())
    async with async_side.scope() as scope:
        events = [event.type async for event in async_side.flow().events(**ASK)]
    assert events == ["run_started", "step_started", "tool_calls_required"]
    assert "was left paused" in caplog.text
    assert scope.report.clean


async def test_a_sync_stream_needs_a_handler(service: Service, sync_side: SyncSide) -> None:
    service.record(weather_stream())
    async with sync_side.scope():
        with pytest.raises(ToolHandlerRequiredError):
            await sync_side.events(**ASK)


async def test_a_recorded_failure_after_a_pause(service: Service, side: Side) -> None:
    error = {"statusCode": 500, "code": "TOOL_ITERATION_LIMIT", "message": "too many"}
    service.record({**weather(), "status": "failed", "error": error})
    handler = Handler()
    async with side.scope():
        with pytest.raises(Exception, match="too many") as caught:
            await side.execute(**ASK, tool_handler=handler)
    assert getattr(caught.value, "code", None) == "TOOL_ITERATION_LIMIT"
    assert handler.asked == ASKED


async def test_malformed_recorded_results_are_refused(service: Service, side: Side) -> None:
    recorded = weather()
    recorded["toolRounds"][0]["toolResults"] = [{"no": "id"}]
    service.record(recorded)
    with pytest.raises(ReplayInvalidSessionError, match="malformed: a tool result needs"):
        async with side.scope():
            await side.execute(**ASK, tool_handler=Handler())


async def test_results_that_were_not_recorded_are_no_drift(service: Service, side: Side) -> None:
    recorded = weather()
    recorded["toolRounds"][0]["toolResults"] = None
    stream = weather_stream()
    stream["toolRounds"] = None
    service.record(recorded, stream)
    async with side.scope() as scope:
        handler = Handler({**WEATHER, "call_1": "fog"})
        await side.execute(**ASK, tool_handler=handler)
        await side.events(**ASK, tool_handler=handler)
    assert scope.report.clean
