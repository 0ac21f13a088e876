"""The types of results, inputs, tools and streams, checked by pyright and mypy and never run."""
# If a mistake below is no longer reported, its "ignore" comment becomes an error.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx
from pydantic import BaseModel
from typing_extensions import TypedDict, assert_type

from noukai_sdk import (
    AsyncFlow,
    AsyncJob,
    AsyncNoukai,
    AsyncStream,
    ExecuteResult,
    Flow,
    Job,
    JobStatus,
    Noukai,
    PausedResult,
    RunStep,
    StepCompleted,
    Stream,
    StreamEvent,
    TokenBreakdown,
    Tool,
    ToolCall,
    tool,
)
from noukai_sdk.models.flow_lists import FlowSummary
from noukai_sdk.models.session_lists import SessionSummary
from noukai_sdk.models.sessions import Session
from noukai_sdk.options import ToolOptions
from noukai_sdk.raw_responses import RawResponse


class Grade(BaseModel):
    grade: int


@dataclasses.dataclass
class GradeData:
    grade: int


class GradeDict(TypedDict):
    grade: int


@tool
def get_weather(city: str, *, days: int = 1) -> str:
    return f"sunny in {city} for {days} days"


@tool(name="count", description="Count.")
async def count_to(number: int) -> list[int]:
    return list(range(number))


def tool_results(calls: list[ToolCall]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": call["function"]["name"]} for call in calls]


def outputs(flow: Flow) -> None:
    result = flow.execute("hi", response_model=Grade)
    assert_type(result, ExecuteResult[Grade] | PausedResult[Grade])
    while result.status == "tool_calls_required":
        result = result.resume_sync(tool_results=tool_results(result.tool_calls))
    assert_type(result.output, Grade)
    assert_type(result.result, Any)
    assert_type(result.tokens, TokenBreakdown | None)
    assert_type(result.cost_usd, str | None)
    assert_type(result.request_id, str | None)
    assert_type(result.steps, list[RunStep] | None)
    assert_type(flow.execute("hi"), ExecuteResult | PausedResult)

    job = flow.execute_async(messages=[], response_model=list[GradeData])
    assert_type(job, Job[list[GradeData]])
    assert_type(job.wait(), JobStatus[list[GradeData]])
    assert_type(job.poll().output, list[GradeData])
    assert_type(flow.job("e", response_model=int).wait().output, int)
    assert_type(flow.job("e"), Job)


async def async_outputs(flow: AsyncFlow) -> None:
    result = await flow.execute(message="hi", response_model=GradeDict)
    if result.status != "tool_calls_required":
        assert_type(result.output, GradeDict)
    else:
        assert_type(
            await result.resume(tool_results=[]),
            ExecuteResult[GradeDict] | PausedResult[GradeDict],
        )
    job = await flow.execute_async("hi", response_model=int)
    assert_type(job, AsyncJob[int])
    assert_type((await job.wait()).output, int)


def streams(flow: Flow) -> None:
    with flow.events("hi", response_model=Grade) as events:
        assert_type(events, Stream[StreamEvent, Grade])
        assert_type(next(events), StreamEvent)
        assert_type(events.text_stream, Iterator[str])
        assert_type(events.final_result(), ExecuteResult[Grade])
        assert_type(events.close(), None)
    assert_type(flow.steps("hi").final_result(), ExecuteResult)
    assert_type(flow.steps("hi"), Stream[StepCompleted])
    for step in flow.steps(messages=[]):
        assert_type(step, StepCompleted)


async def async_streams(flow: AsyncFlow) -> None:
    async with flow.steps("hi", response_model=Grade) as steps:
        assert_type(steps, AsyncStream[StepCompleted, Grade])
        assert_type(steps.text_stream, AsyncIterator[str])
        assert_type(await steps.final_result(), ExecuteResult[Grade])
    await steps.aclose()


def inputs(flow: Flow, async_flow: AsyncFlow, options: ToolOptions) -> None:
    flow.execute("hi", **options)
    flow.execute(messages=[{"role": "user", "content": "hi"}], **options)
    flow.execute()  # type: ignore[call-overload]
    flow.execute(parameters={})  # type: ignore[call-overload]
    flow.execute("hi", messages=[])  # type: ignore[call-overload]
    flow.execute(message=None)  # type: ignore[call-overload]
    flow.steps()  # type: ignore[call-overload]
    flow.events(run_remaining=True)  # type: ignore[call-overload]
    flow.execute_async()  # type: ignore[call-overload]
    async_flow.execute()  # type: ignore[call-overload]
    async_flow.events()  # type: ignore[call-overload]


def tools(flow: Flow) -> None:
    assert_type(get_weather("Paris", days=2), str)
    assert_type(get_weather.definition, dict[str, Any])
    get_weather(5)  # type: ignore[arg-type]
    mixed: list[dict[str, Any] | Tool[..., Any]] = [get_weather, {"type": "function"}]
    flow.execute("hi", tools=mixed, tool_handler=tool_results)
    flow.execute("hi", tools=[get_weather, count_to])
    flow.execute("hi", tools=[len])  # type: ignore[list-item]


def options(flow: Flow, client: Noukai) -> None:
    raw = flow.with_raw_response.execute("hi", response_model=Grade, idempotency_key="k")
    assert_type(raw, RawResponse[ExecuteResult[Grade] | PausedResult[Grade]])
    assert_type(raw.headers, Mapping[str, str])
    assert_type(flow.with_raw_response.execute_async("hi").parsed, Job)
    assert_type(client.with_options(timeout=httpx.Timeout(5.0), max_retries=0), Noukai)
    flow.execute("hi", timeout=httpx.Timeout(5.0, read=None), max_retries=0)
    flow.execute_async("hi", idempotency_key="k")
    flow.steps("hi", idempotency_key="k")  # type: ignore[call-overload]
    flow.with_raw_response.execute()  # type: ignore[call-overload]
    Noukai(http_client=httpx.Client(), default_headers={"X-Mine": "1"})
    Noukai(http_client=httpx.AsyncClient())  # type: ignore[arg-type]
    AsyncNoukai(http_client=httpx.AsyncClient())


async def lists(client: Noukai, async_client: AsyncNoukai) -> None:
    for session in client.sessions.list(status="failed", since="7d"):
        assert_type(session, SessionSummary)
    assert_type(client.sessions.get("s"), Session)
    async for flow in async_client.flows.list(problems=True):
        assert_type(flow, FlowSummary)
    assert_type(await async_client.sessions.delete("s"), None)
    client.sessions.list(status="lost")  # type: ignore[arg-type]
