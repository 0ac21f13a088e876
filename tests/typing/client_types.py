"""The types of the client, checked by pyright and never run."""
# If a mistake below is no longer reported, its "ignore" comment becomes an error.
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator
from typing import Any, Literal

import httpx
from typing_extensions import assert_never, assert_type

from noukai_sdk import (
    AsyncFlow,
    AsyncJob,
    AsyncNoukai,
    AsyncRun,
    AsyncStream,
    ExecuteResult,
    Flow,
    FlowCompleted,
    Job,
    JobStatus,
    Noukai,
    NoukaiError,
    PausedResult,
    RateLimitError,
    Run,
    RunStarted,
    RunSummary,
    StepAttempts,
    StepCompleted,
    StepFailed,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    StepTrace,
    Stream,
    StreamEvent,
    TokenBreakdown,
    ToolCall,
    ToolCallsRequired,
    Trace,
)
from noukai_sdk.options import ToolOptions


def my_log(event: dict[str, Any]) -> None: ...
def my_tools(tool_calls: list[ToolCall]) -> list[dict[str, Any]]: ...
async def my_async_tools(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]: ...


def clients() -> None:
    client = Noukai(
        api_key="nk_...",
        base_url="http://127.0.0.1:9000/api/v1",
        env="production",
        org="acme",
        project="spelling",
        timeout=300.0,
        max_retries=1,
        log_handler=my_log,
        log_payloads=False,
        session_id="s",
        http_client=httpx.Client(),
    )
    with client as entered:
        assert_type(entered, Noukai)
    assert_type(Noukai("nk_...", timeout=None, max_retries=None), Noukai)
    assert_type(client.default_org, str | None)
    assert_type(client.default_project, str | None)
    assert_type(client.flow("grade-3"), Flow)
    assert_type(client.flow("grade-3").org, str)
    assert_type(client.flow(slug="grade-3"), Flow)
    assert_type(client.flow(org="acme", project="spelling", slug="grade-3"), Flow)
    assert_type(AsyncNoukai().flow("grade-3"), AsyncFlow)

    Noukai(env="staging")  # pyright: ignore[reportArgumentType]
    Noukai(base_url=9000)  # pyright: ignore[reportArgumentType]
    client.flow()  # pyright: ignore[reportCallIssue]
    client.flow(org="acme", slug="x")  # pyright: ignore[reportCallIssue]
    client.flow("x", org="acme", project="y")  # pyright: ignore[reportCallIssue]


async def async_clients() -> None:
    async with AsyncNoukai() as entered:
        assert_type(entered, AsyncNoukai)


def results(flow: Flow) -> None:
    result = flow.execute(
        message="Input text",
        parameters={"difficulty": "hard"},
        block_overrides={"step-id": {"temperature": 0.5}},
        attachments=[{"url": "https://...", "mime_type": "image/png"}],
        trace=False,
        version="draft",
        timeout=60.0,
        session_id=None,
        extra_headers={"X-Mine": "1"},
        tools=[{"type": "function"}],
        tool_choice={"type": "function"},
        tool_handler=my_tools,
        max_tool_rounds=10,
    )
    assert_type(result, ExecuteResult | PausedResult)
    if result.status == "tool_calls_required":
        assert_type(result, PausedResult)
        assert_type(result.tool_calls, list[ToolCall])
        assert_type(result.resume_sync(tool_results=[]), ExecuteResult | PausedResult)
    else:
        assert_type(result, ExecuteResult)
        assert_type(result.status, Literal["completed", "failed"])
    assert_type(result.requires_tool_calls, bool)
    assert_type(result.session_id, str | None)
    assert_type(result.execution_id, str | None)


def mistakes(flow: Flow) -> None:
    flow.execute(mesage="typo")  # pyright: ignore[reportCallIssue]
    flow.execute(5)  # pyright: ignore[reportArgumentType]
    flow.execute("hi", "there")  # pyright: ignore[reportCallIssue]
    flow.execute(message="hi", version="v3")  # pyright: ignore[reportArgumentType]
    flow.execute(message="hi", run_remaining=True)  # pyright: ignore[reportCallIssue]
    flow.steps(message="hi", run_remaining=True)  # pyright: ignore[reportCallIssue]
    flow.execute_async(message="hi", tools=[])  # pyright: ignore[reportCallIssue]
    flow.execute(message="hi", tool_handler="f")  # pyright: ignore[reportArgumentType]


def options_of_ones_own(flow: Flow, options: ToolOptions) -> None:
    assert_type(flow.execute("hi", **options), ExecuteResult | PausedResult)


async def async_results(flow: AsyncFlow) -> None:
    assert_type(await flow.execute("hi"), ExecuteResult | PausedResult)
    result = await flow.execute(message="hi", version=3, tool_handler=my_async_tools)
    while result.status == "tool_calls_required":
        assert_type(result, PausedResult)
        result = await result.resume(tool_results=[{"tool_call_id": "1", "output": 5}])
    assert_type(result, ExecuteResult)


def steps(flow: Flow) -> None:
    assert_type(flow.steps(message="hi"), Stream[StepCompleted])
    assert_type(flow.steps("hi", parameters={}), Stream[StepCompleted])
    for step in flow.steps(message="hi", input_overrides={"a": 1}, tool_handler=my_tools):
        assert_type(step, StepCompleted)
        assert_type(step.step_id, str)
        assert_type(step.name, str | None)
        assert_type(step.tokens, TokenBreakdown | None)
        assert_type(step.cost_usd, str | None)
        assert_type(step.step_index, int | None)


async def async_steps(flow: AsyncFlow) -> None:
    assert_type(flow.steps(message="hi"), AsyncStream[StepCompleted])
    async for step in flow.steps(message="hi"):
        assert_type(step, StepCompleted)


def events(flow: Flow) -> None:
    assert_type(flow.events(message="hi"), Stream[StreamEvent])
    assert_type(flow.events("hi", run_remaining=True), Stream[StreamEvent])
    for event in flow.events(message="hi", run_remaining=True):
        by_type(event)
        by_class(event)


async def async_events(flow: AsyncFlow) -> None:
    assert_type(flow.events(message="hi"), AsyncStream[StreamEvent])
    async for event in flow.events(message="hi"):
        if event.type == "tool_calls_required":
            assert_type(await event.resume(tool_results=my_tools(event.tool_calls)), None)


def by_type(event: StreamEvent) -> None:
    match event.type:
        case "run_started":
            assert_type(event, RunStarted)
        case "step_started":
            assert_type(event, StepStarted)
        case "step_input":
            assert_type(event, StepInput)
        case "step_output":
            assert_type(event, StepOutput)
        case "step_completed":
            assert_type(event, StepCompleted)
        case "step_error":
            assert_type(event, StepFailed)
        case "step_paused":
            assert_type(event, StepPaused)
        case "tool_calls_required":
            assert_type(event, ToolCallsRequired)
        case "flow_completed":
            assert_type(event, FlowCompleted)
        case _:
            assert_never(event)


def by_class(event: StreamEvent) -> None:
    if isinstance(event, StepOutput):
        assert_type(event.output_data, Any)
    elif isinstance(event, FlowCompleted):
        assert_type(event.result, Any)
    assert_type(event.event_type, str)


def jobs(flow: Flow) -> None:
    job = flow.execute_async(message="long", trace=True)
    assert_type(job, Job)
    assert_type(flow.job("e"), Job)
    assert_type(flow.execute_async("long", trace=True), Job)
    assert_type(job.flow_id, str | None)
    assert_type(job.wait(timeout=600.0, poll_interval=5.0), JobStatus)
    assert_type(job.cancel(timeout=5.0), JobStatus)
    assert_type(job.cancel().is_cancelled, bool)
    snapshot = job.poll()
    assert_type(snapshot.status, Literal["pending", "running", "completed", "failed"])


async def async_jobs(flow: AsyncFlow) -> None:
    job = await flow.execute_async(message="long")
    assert_type(job, AsyncJob)
    assert_type(await job.wait(), JobStatus)
    assert_type(await job.poll(timeout=5.0), JobStatus)
    assert_type(await job.cancel(), JobStatus)


def runs(flow: Flow) -> None:
    run = flow.run("e")
    assert_type(run, Run)
    assert_type(run.trace(), Trace)
    assert_type(run.trace().steps, list[StepTrace])
    assert_type(run.trace().summary, RunSummary)
    assert_type(run.step_trace("a"), StepTrace)
    assert_type(run.step_trace("a", attempt="latest"), StepTrace)
    assert_type(run.step_trace("a", attempt=2, loop_index=0), StepTrace)
    assert_type(run.step_trace("a", attempt="all"), StepAttempts)
    assert_type(run.live_trace(), Generator[StreamEvent, None, None])


async def async_runs(flow: AsyncFlow) -> None:
    run = flow.run("e")
    assert_type(run, AsyncRun)
    assert_type(await run.trace(), Trace)
    assert_type(await run.step_trace("a"), StepTrace)
    assert_type(await run.step_trace("a", attempt=2), StepTrace)
    assert_type(await run.step_trace("a", attempt="all"), StepAttempts)
    assert_type(run.live_trace(), AsyncGenerator[StreamEvent, None])


def errors(error: NoukaiError) -> None:
    assert_type(error.status_code, int | None)
    assert_type(error.code, str | None)
    assert_type(error.request_id, str | None)
    if isinstance(error, RateLimitError):
        assert_type(error.retry_after, float | None)
