"""The client against the local backend: both sides of the contract at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import AuthenticationError, FlowNotFoundError
from tests.support.servers import serve_backend
from tests.support.sides import Side

TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


def weather(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": {"sky": "blue"}} for call in tool_calls]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder: Path = tmp_path_factory.mktemp("backend")
    with serve_backend(folder) as server:
        yield server.api


@pytest.fixture(autouse=True)
def dev_is_the_backend(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOUKAI_BASE_URL", api)
    monkeypatch.setenv("NOUKAI_API_KEY", "nk_dev")


def client_of(side: Side, **arguments: Any) -> Any:
    return side.client(**{"api_key": "nk_dev", "org": "acme", "project": "samples", **arguments})


async def test_backend_execute_has_a_trace(side: Side) -> None:
    async with client_of(side) as client:
        flow = client.flow("two-step")
        result = await side.call(flow.execute, message="The cat sat.", trace=True)
        assert (result.status, result.block_count) == ("completed", 2)
        assert result.output
        run = flow.run(result.execution_id)
        trace = await side.call(run.trace)
        assert (trace.summary.id, trace.summary.status) == (result.execution_id, "completed")
        step_id = trace.steps[0].step_id
        latest = await side.call(run.step_trace, step_id)
        every = await side.call(run.step_trace, step_id, attempt="all")
        assert [attempt.attempt for attempt in every.attempts] == [latest.attempt]
        events = await side.collect(run.live_trace())
    assert (events[0].type, events[-1].type) == ("run_started", "flow_completed")


@pytest.mark.parametrize("run_remaining", [False, True])
async def test_backend_stream_matches_steps(side: Side, run_remaining: bool) -> None:
    async with client_of(side) as client:
        flow = client.flow("two-step")
        events = await side.collect(
            flow.events(message="The cat sat.", run_remaining=run_remaining)
        )
        steps = await side.collect(flow.steps(message="The cat sat."))
    done = [event for event in events if event.type == "step_completed"]
    assert [(event.step_id, event.step_index) for event in done] == [
        (step.step_id, step.step_index) for step in steps
    ]
    assert [step.step_index for step in steps] == [0, 1]
    assert events[-1].type == "flow_completed"
    assert ("step_paused" in [event.type for event in events]) is not run_remaining


async def test_backend_tools_by_handler_and_by_hand_agree(side: Side) -> None:
    asked = {"message": "What is the weather in Paris and Rome?", "tools": [TOOL]}
    async with client_of(side) as client:
        flow = client.flow("weather")
        handled = await side.call(flow.execute, **asked, tool_handler=weather)
        by_hand = await side.call(flow.execute, **asked)
        rounds = 0
        while by_hand.status == "tool_calls_required":
            rounds += 1
            by_hand = await side.resume(by_hand, weather(by_hand.tool_calls))
        events = await side.collect(flow.events(**asked, tool_handler=weather))
    assert rounds == 2
    assert handled.result == by_hand.result == events[-1].result


async def test_backend_tools_resumed_in_loop_complete(async_side: Side) -> None:
    async with client_of(async_side) as client:
        flow = client.flow("weather")
        events = []
        async for event in flow.events(message="The weather in Paris?", tools=[TOOL]):
            events.append(event.type)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=weather(event.tool_calls))
    assert events.count("tool_calls_required") == 1
    assert events[-1] == "flow_completed"


async def test_backend_job_completes(side: Side) -> None:
    async with client_of(side) as client:
        job = await side.call(
            client.flow("hello-world").execute_async, message="hi", session_id="job-1"
        )
        done = await side.call(job.wait, timeout=60.0, poll_interval=0.05)
    assert (done.status, done.session_id) == ("completed", "job-1")
    assert done.result


async def test_backend_refusals_are_typed_errors(side: Side) -> None:
    async with client_of(side) as client:
        with pytest.raises(FlowNotFoundError) as missing:
            await side.call(client.flow("no-such-flow").execute, message="hi")
    async with client_of(side, api_key="nk_other") as client:
        with pytest.raises(AuthenticationError) as denied:
            await side.call(client.flow("hello-world").execute, message="hi")
    assert missing.value.code == "FLOW_NOT_FOUND"
    assert missing.value.request_id
    assert denied.value.www_authenticate
