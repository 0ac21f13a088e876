"""``steps`` and ``events``, over a real server."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    FlowCompleted,
    FlowExecutionError,
    FlowNotFoundError,
    RunStarted,
    StepCompleted,
    StepOutput,
    StepPaused,
    ToolCallsRequired,
    ToolHandlerRequiredError,
)
from tests.support.service import (
    ASKS,
    COMPLETED,
    STARTED,
    STEP_PAUSED,
    Reply,
    Service,
    Stream,
    finished,
    frame,
    output,
    stream,
)
from tests.support.sides import Side

FAILED = {
    "eventType": "step_error",
    "stepId": "b",
    "error": {"code": "BYOK_KEY_REJECTED", "message": "no"},
}
RESULTS = [{"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]


def my_tools(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": "sunny"} for call in tool_calls]


async def test_events_yields_every_event_of_a_run(side: Side, service: Service) -> None:
    service.reply(
        stream(STARTED, output("Hel"), output("lo"), finished("a", 0), STEP_PAUSED),
        Stream((finished("b", 0), COMPLETED), status=202),
    )
    async with side.flow() as flow:
        events = await side.collect(
            flow.events(
                message="hi",
                parameters={"p": 1},
                session_id="s1",
                version=2,
                input_overrides={"b": 1},
                run_remaining=True,
            )
        )
    assert [type(event) for event in events] == [
        RunStarted, StepOutput, StepOutput, StepCompleted, StepPaused, StepCompleted, FlowCompleted,
    ]  # fmt: skip
    assert events[-1].result == "end"
    assert [event.step_index for event in events if isinstance(event, StepCompleted)] == [0, 1]
    first, second = service.requests
    assert first.path == second.path == "/api/v1/seq/acme/spelling/grade-3/v2/step"
    assert first.headers["accept"] == "text/event-stream"
    assert [request.headers["x-session-id"] for request in service.requests] == ["s1", "s1"]
    assert first.body == {
        "message": "hi",
        "parameters": {"p": 1},
        "inputOverrides": {"b": 1},
        "runRemaining": True,
        "stepIndex": 0,
    }
    assert second.body == {
        "inputOverrides": {"b": 1},
        "runRemaining": True,
        "executionId": "e",
        "stepIndex": 1,
        "accumulatedOutputs": {"a": "aa"},
    }


async def test_steps_yields_finished_steps(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, output("a"), finished("a"), finished("b"), COMPLETED))
    async with side.flow() as flow:
        steps = await side.collect(flow.steps(message="hi"))
    assert [(step.step_id, step.output, step.step_index) for step in steps] == [
        ("a", "aa", 0),
        ("b", "bb", 1),
    ]


@pytest.mark.parametrize(
    ("failed", "code", "problem"),
    [
        (FAILED, "BYOK_KEY_REJECTED", "step b failed: no"),
        (
            {"eventType": "step_error", "stepId": "b", "error": {"code": "X"}},
            "X",
            "step b failed: X",
        ),
        ({"eventType": "step_error", "stepId": "b"}, None, "step b failed: no reason given"),
    ],
)
async def test_failed_step_is_an_event_of_events_and_raises_in_steps(
    side: Side, service: Service, failed: dict[str, Any], code: str | None, problem: str
) -> None:
    service.reply(stream(STARTED, finished("a"), failed))
    seen: list[Any] = []
    async with side.flow() as flow:
        events = await side.collect(flow.events(message="hi"))
        with pytest.raises(FlowExecutionError, match=problem) as caught:
            await side.collect(flow.steps(message="hi"), seen)
    assert events[-1].type == "step_error"
    assert [step.step_id for step in seen] == ["a"]
    assert (caught.value.code, caught.value.execution_id) == (code, "e")


async def test_stream_response_that_is_not_a_stream_raises(side: Side, service: Service) -> None:
    service.reply(Reply({"detail": {"code": "FLOW_NOT_FOUND", "message": "no"}}, 404))
    async with side.flow() as flow:
        with pytest.raises(FlowNotFoundError) as caught:
            await side.collect(flow.events(message="hi"))
    assert (caught.value.code, caught.value.request_id) == ("FLOW_NOT_FOUND", "req-1")
    service.reply(Stream((b"<html></html>",), content_type="text/html"))
    async with side.flow() as flow:
        with pytest.raises(FlowExecutionError, match="not an event stream"):
            await side.collect(flow.events(message="hi"))


async def test_stream_cut_raises_after_its_events(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, output("x"), b'data: {"eventType": "st', then="cut"))
    seen: list[Any] = []
    async with side.flow() as flow:
        with pytest.raises(APIConnectionError) as caught:
            await side.collect(flow.events(message="hi"), seen)
    assert [event.type for event in seen] == ["run_started", "step_output"]
    assert (caught.value.execution_id, caught.value.request_sent) == ("e", True)
    assert caught.value.__cause__ is not None


async def test_stream_with_garbage_skips_it(
    side: Side, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    service.reply(
        stream(
            b"\xef\xbb\xbf: hello\r\n\r\n",
            b"data: garbage\n\n",
            b'data: {"eventType": "step_output"}\n\n',
            b'event: step_progress\ndata: {"stepId": "a"}\n\n',
            b"retry: 10\n\n",
            b"\xff\xfe\n\n",
            b'event: step_output\rdata: {"stepId": "a",\rdata: "outputData": "\xe2\x80\xa8"}\r\r',
            COMPLETED,
        )
    )
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        async with side.flow() as flow:
            events = await side.collect(flow.events(message="hi"))
    assert [event.type for event in events] == ["step_output", "flow_completed"]
    assert events[0].output_data == "\u2028"
    ours = [record for record in caplog.records if record.name == "noukai_sdk"]
    assert len(ours) == 2


async def test_stream_after_end_of_run_disconnects(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, COMPLETED, then="silence"))
    async with side.flow() as flow:
        assert len(await side.collect(flow.events(message="hi"))) == 2
        await service.has_disconnects()


async def test_stream_after_pause_keeps_connection(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, STEP_PAUSED), stream(STEP_PAUSED), stream(COMPLETED))
    async with side.flow() as flow:
        await side.collect(flow.events(message="hi"))
    assert len(service.requests) == 3
    assert service.disconnects == 0


@pytest.mark.parametrize("method", ["steps", "events"])
async def test_stream_tool_handler_resumes_pause(side: Side, service: Service, method: str) -> None:
    service.reply(stream(STARTED, ASKS), stream(finished("a"), COMPLETED))
    tools = [{"type": "function", "function": {"name": "get_weather"}}]
    async with side.flow() as flow:
        run = getattr(flow, method)(
            message="hi", tools=tools, tool_handler=my_tools, session_id="s1"
        )
        events = await side.collect(run)
    assert "tool_calls_required" not in [event.type for event in events]
    assert service.last.body == {
        "tools": tools,
        "executionId": "e",
        "stepIndex": 0,
        "pausedAtStep": "a",
        "iterationsUsed": 1,
        "toolCallMessages": [{"role": "user", "content": "hi"}, *RESULTS],
        "accumulatedOutputs": {},
    }
    assert service.last.headers["x-session-id"] == "s1"


async def test_stream_pause_without_handler_raises(side: Side, service: Service) -> None:
    """Only ``events`` of an async client can give it to its consumer."""
    service.reply(stream(STARTED, ASKS))
    async with side.flow() as flow:
        methods = [flow.steps] if side.is_async else [flow.steps, flow.events]
        for method in methods:
            with pytest.raises(ToolHandlerRequiredError, match="pass tool_handler="):
                await side.collect(method(message="hi"))


async def test_stream_pause_resumed_in_loop_continues(async_side: Side, service: Service) -> None:
    service.reply(stream(STARTED, ASKS), stream(ASKS), stream(finished("a"), COMPLETED))
    seen = []
    async with async_side.flow() as flow:
        async for event in flow.events(message="hi", session_id="s1"):
            seen.append(event.type)
            if isinstance(event, ToolCallsRequired):
                await event.resume(tool_results=my_tools(event.tool_calls))
    assert seen == [
        "run_started", "tool_calls_required", "tool_calls_required", "step_completed", "flow_completed",
    ]  # fmt: skip
    assert service.last.body["toolCallMessages"][-1:] == RESULTS
    assert {request.headers["x-session-id"] for request in service.requests} == {"s1"}


@pytest.mark.parametrize("leave", [True, False], ids=["left", "gone on"])
async def test_stream_pause_resumed_too_late_raises(
    async_side: Side, service: Service, leave: bool
) -> None:
    service.reply(stream(STARTED, ASKS))
    async with async_side.flow() as flow:
        events = await async_side.collect(
            flow.events(message="hi"),
            stop=lambda event: leave and event.type == "tool_calls_required",
        )
        with pytest.raises(TypeError, match="the stream has gone on or ended"):
            await events[-1].resume(tool_results=RESULTS)


async def test_stream_pause_resumed_with_bad_results_raises(
    async_side: Side, service: Service
) -> None:
    service.reply(stream(STARTED, ASKS))
    async with async_side.flow() as flow, contextlib.aclosing(flow.events(message="hi")) as events:
        async for event in events:
            if isinstance(event, ToolCallsRequired):
                with pytest.raises(ValueError, match="tool_call_id"):
                    await event.resume(tool_results=[{"output": 1}])
                break


async def test_stream_yields_events_as_they_arrive(side: Side, service: Service) -> None:
    service.reply(
        stream(frame(STARTED) + frame(output("x"))[:10], frame(output("x"))[10:], then="silence")
    )
    async with side.flow() as flow:
        events = await side.collect(
            flow.events(message="hi"), stop=lambda event: event.type == "step_output"
        )
    assert [event.type for event in events] == ["run_started", "step_output"]
