"""OpenTelemetry spans of calls, made with the SDK over a real server."""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import pytest
from opentelemetry import baggage
from opentelemetry.trace import StatusCode, get_current_span

from noukai_sdk import (
    FlowExecutionError,
    FlowNotFoundError,
    detached,
    tool,
    trace,
    trace_scope,
    trace_scope_sync,
)
from tests.support.service import (
    ASKS,
    CALL,
    COMPLETED,
    DONE,
    PAUSED,
    STARTED,
    Reply,
    Service,
    finished,
    output,
    stream,
)
from tests.support.sides import Side
from tests.support.spans import Spans, attributes, id_of, parent_of, provider_set

TOOLS = [{"type": "function", "function": {"name": "get_weather"}}]
RESULTS = [{"tool_call_id": "call_1", "output": "sunny"}]
BEGUN = {"eventType": "step_started", "stepId": "a", "name": "Grade", "stepIndex": 0}
ENDED = {
    **finished("a", 0),
    "tokens": {"prompt": 7, "completion": 5, "total": 12},
    "costUsd": "0.0015",
}
EVENTS = (STARTED, BEGUN, output("x"), output("y"), ENDED, COMPLETED)


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[Spans]:
    with provider_set(monkeypatch) as spans:
        yield spans


async def test_execute_has_span_under_current_one_and_sends_traceparent(
    side: Side, service: Service, spans: Spans
) -> None:
    async with side.flow() as flow:
        with spans.start("request") as request:
            await side.call(flow.execute, "Teh cat.", parameters={"a": 1}, version=3)
        assert get_current_span() is not request
    call = spans.call
    assert call.name == "invoke_workflow acme/spelling/grade-3"
    assert call.kind.name == "CLIENT"
    assert parent_of(call) == id_of(request)
    assert call.status.status_code is StatusCode.UNSET
    values = attributes(call)
    assert values.pop("server.address") == "127.0.0.1"
    assert values.pop("server.port") > 0
    # No payloads: they may be secret.
    assert values == {
        "gen_ai.operation.name": "invoke_workflow",
        "gen_ai.provider.name": "noukai",
        "gen_ai.workflow.name": "acme/spelling/grade-3",
        "noukai.org": "acme",
        "noukai.project": "spelling",
        "noukai.flow": "grade-3",
        "noukai.version": "3",
        "noukai.kind": "execute",
        "noukai.replay": False,
        "noukai.execution.id": "e",
        "noukai.outcome": "completed",
    }
    trace_id, span_id = call.context.trace_id, call.context.span_id
    assert service.last.headers["traceparent"][:52] == f"00-{trace_id:032x}-{span_id:016x}"
    assert "baggage" not in service.last.headers


async def test_payloads_are_attributes_on_demand_without_secrets(
    side: Side, service: Service, spans: Spans
) -> None:
    async with side.flow(otel_payloads=True) as flow:
        await side.call(flow.execute, "my password=hunter2", parameters={"token": "abc"})
    values = attributes(spans.call)
    (sent,) = json.loads(values["gen_ai.input.messages"])
    assert sent == {
        "role": "user",
        "parts": [{"type": "text", "content": "my password=[redacted]"}],
    }
    assert json.loads(values["noukai.parameters"]) == {"token": "[redacted]"}
    (received,) = json.loads(values["gen_ai.output.messages"])
    assert json.loads(received["parts"][0]["content"]) == DONE["result"]


async def test_failed_call_records_exception(side: Side, service: Service, spans: Spans) -> None:
    detail = {"detail": {"code": "FLOW_NOT_FOUND", "message": "no such flow"}}
    service.reply(Reply(detail, 404))
    async with side.flow() as flow:
        with pytest.raises(FlowNotFoundError):
            await side.call(flow.execute, "hi")
    call = spans.call
    assert call.status.status_code is StatusCode.ERROR
    assert [event.name for event in call.events] == ["exception"]
    values = attributes(call)
    assert values["error.type"] == "FlowNotFoundError"
    assert values["noukai.error.code"] == "FLOW_NOT_FOUND"
    assert values["noukai.outcome"] == "failed"


async def test_cancelled_call_is_no_error(async_side: Side, service: Service, spans: Spans) -> None:
    service.reply(stream(STARTED, then="silence"))
    async with async_side.flow() as flow:
        call = asyncio.create_task(flow.execute("hi"))
        await service.has_requests()
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
    assert attributes(spans.call)["noukai.outcome"] == "cancelled"
    assert spans.call.status.status_code is StatusCode.UNSET
    assert spans.call.events == ()


async def test_stream_has_span_with_steps_and_usage_that_is_never_current_at_reader(
    side: Side, service: Service, spans: Spans
) -> None:
    service.reply(stream(*EVENTS))
    seen = []

    def look(_: Any) -> bool:
        seen.append(get_current_span())
        return False

    async with side.flow(otel_steps=True) as flow:
        with spans.start("request") as request:
            await side.collect(flow.events("hi"), stop=look)
    assert seen == [request] * len(EVENTS)
    values = attributes(spans.call)
    assert values["gen_ai.usage.input_tokens"] == 7
    assert values["gen_ai.usage.output_tokens"] == 5
    assert values["noukai.cost_usd"] == 0.0015
    assert values["noukai.outcome"] == "completed"
    (step,) = spans.named("step a")
    assert parent_of(step) == spans.call.context.span_id
    assert attributes(step)["noukai.step.name"] == "Grade"
    assert attributes(step)["gen_ai.usage.input_tokens"] == 7


async def test_execute_has_usage_and_steps_where_service_says_so(
    side: Side, service: Service, spans: Spans
) -> None:
    tokens = {"prompt": 7, "completion": 5, "total": 12}
    steps = [
        {"stepId": "a", "durationMs": 0.1, "tokens": tokens, "costUsd": "0.001"},
        {"stepId": "b", "durationMs": 3_600_000},
    ]
    service.reply({**DONE, "tokens": tokens, "costUsd": "0.001", "steps": steps[:1]})
    async with side.flow(otel_steps=True) as flow:
        await side.call(flow.execute, "hi")
        service.reply({**DONE, "steps": steps})
        await side.call(flow.execute, "hi")
    first, second = spans.calls
    assert attributes(first)["gen_ai.usage.output_tokens"] == 5
    assert attributes(first)["noukai.cost_usd"] == 0.001
    a, *together = spans.named("step ")
    assert parent_of(a) == first.context.span_id
    assert attributes(a)["gen_ai.usage.input_tokens"] == 7
    assert (a.end_time or 0) - (a.start_time or 0) == 100_000
    # Longer than the call: they ran at once.
    assert [parent_of(each) for each in together] == [second.context.span_id] * 2
    assert together[0].start_time == together[1].start_time


async def test_stream_that_reader_leaves_or_drops_ends_its_span(
    side: Side, service: Service, spans: Spans
) -> None:
    service.reply(stream(STARTED, BEGUN, output("x"), then="silence"))
    async with side.flow(otel_steps=True) as flow:
        await side.collect(flow.events("hi"), stop=lambda event: event.type == "step_output")
        assert attributes(spans.call)["noukai.outcome"] == "left"
        assert spans.call.status.status_code is StatusCode.UNSET
        assert len(spans.named("step a")) == 1

        events = flow.events("hi")
        await (anext(events) if side.is_async else anyio.to_thread.run_sync(next, events))
        del events
        gc.collect()
        with anyio.fail_after(10):
            while len(spans.calls) < 2:
                await anyio.sleep(0.005)
    assert [attributes(each)["noukai.outcome"] for each in spans.calls] == ["left", "left"]


async def test_failed_step_is_error_of_step_and_call(
    side: Side, service: Service, spans: Spans
) -> None:
    failed = {
        "eventType": "step_error",
        "stepId": "a",
        "error": {"code": "LLM_TIMEOUT", "message": "too slow"},
    }
    service.reply(stream(STARTED, BEGUN, failed))
    async with side.flow(otel_steps=True) as flow:
        with pytest.raises(FlowExecutionError):
            await side.collect(flow.steps("hi"))
    for span in (spans.call, *spans.named("step a")):
        assert span.status.status_code is StatusCode.ERROR
        assert attributes(span)["error.type"] == "LLM_TIMEOUT"


async def test_tool_handler_runs_in_span_of_its_own(
    side: Side, service: Service, spans: Spans
) -> None:
    service.reply(PAUSED, DONE)
    current = []

    def handler(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        current.append(id_of(get_current_span()))
        return RESULTS

    async with side.flow() as flow:
        await side.call(flow.execute, "hi", tools=TOOLS, tool_handler=handler)
    (span,) = spans.named("execute_tool get_weather")
    assert current == [span.context.span_id]
    assert parent_of(span) == spans.call.context.span_id
    assert attributes(span)["gen_ai.tool.call.id"] == CALL["id"]
    assert attributes(spans.call)["noukai.tool.rounds"] == 1

    def broken(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        raise OSError("no weather")

    service.reply(PAUSED)
    async with side.flow() as flow:
        with pytest.raises(OSError, match="no weather"):
            await side.call(flow.execute, "hi", tools=TOOLS, tool_handler=broken)
    assert spans.named("execute_tool")[-1].status.status_code is StatusCode.ERROR


async def test_functions_as_tools_have_a_span_each_and_failures_are_errors(
    side: Side, service: Service, spans: Spans
) -> None:
    function = {"name": "get_time", "arguments": "{}"}
    calls = [CALL, {"id": "call_2", "type": "function", "function": function}]
    service.reply({**PAUSED, "toolCalls": calls}, DONE)
    current = []

    @tool
    def get_weather(city: str) -> str:
        """Return the weather."""
        current.append(id_of(get_current_span()))
        return city

    @tool
    def get_time() -> str:
        """Return the time."""
        raise OSError("no clock")

    async with side.flow() as flow:
        await side.call(flow.execute, "hi", tools=[get_weather, get_time])
    (weather,) = spans.named("execute_tool get_weather")
    (clock,) = spans.named("execute_tool get_time")
    assert current == [weather.context.span_id]
    assert [parent_of(each) for each in (weather, clock)] == [spans.call.context.span_id] * 2
    assert weather.status.status_code is StatusCode.UNSET
    # The model reads it, and the call goes on.
    assert clock.status.status_code is StatusCode.ERROR
    assert spans.call.status.status_code is StatusCode.UNSET
    assert len(spans.named("execute_tool")) == 2


async def test_resumed_call_has_span_linked_to_first(
    side: Side, service: Service, spans: Spans
) -> None:
    service.reply(PAUSED, DONE)
    async with side.flow() as flow:
        paused = await side.call(flow.execute, "hi", tools=TOOLS)
        await side.resume(paused, RESULTS)
    first, second = spans.calls
    assert attributes(first)["noukai.outcome"] == "paused"
    assert attributes(second)["noukai.outcome"] == "completed"
    assert [link.context.span_id for link in second.links] == [first.context.span_id]


async def test_pause_of_stream_without_results_leaves_outcome_paused(
    async_side: Side, service: Service, spans: Spans
) -> None:
    service.reply(stream(STARTED, ASKS))
    async with async_side.flow() as flow:
        await async_side.collect(flow.events("hi", tools=TOOLS))
    assert attributes(spans.call)["noukai.outcome"] == "paused"


async def test_job_has_span_for_its_submission(side: Side, service: Service, spans: Spans) -> None:
    service.reply(Reply({"executionId": "e", "status": "pending"}, 202))
    async with side.flow() as flow:
        await side.call(flow.execute_async, "hi")
    values = attributes(spans.call)
    assert (values["noukai.kind"], values["noukai.outcome"]) == ("job", "submitted")
    assert values["noukai.execution.id"] == "e"
    assert "traceparent" in service.last.headers


async def test_scope_marks_current_span_and_baggage(
    side: Side, service: Service, spans: Spans
) -> None:
    async with side.flow() as flow:
        with spans.start("request"):
            async with trace_scope() as scope:
                assert baggage.get_baggage("noukai.session.id") == scope.session_id
                await side.call(flow.execute, "hi")
                with detached():
                    assert baggage.get_all() == {}
                assert baggage.get_all() != {}
            assert baggage.get_all() == {}
    (request,) = spans.named("request")
    assert attributes(request) == {"noukai.session.id": scope.session_id}
    assert attributes(spans.call)["noukai.session.id"] == scope.session_id


async def test_traced_generator_leaks_nothing_across_its_yields(spans: Spans) -> None:
    def session() -> object:
        return baggage.get_baggage("noukai.session.id")

    @trace
    def plain() -> Iterator[object]:
        with spans.start("inside"):
            yield session()
            yield session()

    with spans.start("request") as request:
        for inner in plain():
            assert inner is not None
            assert session() is None
            assert get_current_span() is request

        @trace
        async def asynchronous() -> Any:
            async with trace_scope():
                yield session()
                await asyncio.sleep(0)
                yield session()

        async for inner in asynchronous():
            assert inner is not None
            assert session() is None
    assert session() is None


async def test_calls_at_once_have_spans_in_their_own_traces(
    side: Side, service: Service, spans: Spans
) -> None:
    service.reply(lambda request: Reply({**DONE, "executionId": request.body["message"]}))
    requests: dict[str, tuple[int, str]] = {}
    async with side.flow() as flow:

        def sync_request(name: str) -> None:
            with spans.start(name) as span, trace_scope_sync() as scope:
                flow.execute(name)
                requests[name] = id_of(span), str(scope.session_id)

        async def request(name: str) -> None:
            if not side.is_async:
                return await anyio.to_thread.run_sync(sync_request, name)
            with spans.start(name) as span:
                async with trace_scope() as scope:
                    await asyncio.gather(flow.execute(name))
                    requests[name] = id_of(span), str(scope.session_id)
            return None

        async with anyio.create_task_group() as tasks:
            for number in range(30):
                tasks.start_soon(request, f"call-{number}")
    assert len(spans.calls) == 30
    for call in spans.calls:
        values = attributes(call)
        assert requests[values["noukai.execution.id"]] == (
            parent_of(call),
            values["noukai.session.id"],
        )


async def test_client_without_otel_and_own_traceparent_are_left_alone(
    side: Side, service: Service, spans: Spans
) -> None:
    async with side.flow(otel=False) as flow:
        await side.call(flow.execute, "hi")
    assert spans.ended == []
    assert "traceparent" not in service.last.headers
    own = f"00-{'a' * 32}-{'b' * 16}-01"
    async with side.flow() as flow:
        await side.call(flow.execute, "hi", extra_headers={"Traceparent": own})
    assert service.last.headers["traceparent"] == own


async def test_call_without_provider_makes_no_span(
    side: Side, service: Service, spans: Spans, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)
        async with side.flow() as flow:
            await side.call(flow.execute, "hi")
    assert spans.ended == []
    assert "traceparent" not in service.last.headers
