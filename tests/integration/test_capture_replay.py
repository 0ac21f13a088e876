"""Test that a replay equals its capture, on the real backend, and calls no model."""

# ruff: noqa: PT012 - a scope may raise at its end, so the block is part of the test

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    ContextThreadPoolExecutor,
    FlowExecutionError,
    Noukai,
    ReplayLeftoverError,
    ReplayMissError,
    ReplayNoSnapshotsError,
    ReplaySessionNotFoundError,
    SessionNotFoundError,
    trace_scope,
    trace_scope_sync,
)
from tests.support.servers import Server, serve_backend

pytestmark = pytest.mark.anyio

FLOWS = {
    "acme/tests/fails.yaml": "steps: [{id: before}, {id: breaks, function: '_flows.py:fail'}]",
    "acme/tests/many.yaml": """
        steps:
          - parallel: [{id: left}, {id: right}]
          - {id: each, for_each: "{{parameters.words}}", prompt: "{{item}}"}
          - {id: join, prompt: "{{node.left}} {{node.right}} {{node.each}}"}
    """,
    "acme/tests/retried.yaml": "steps: [{id: shaky, retry: 2, function: '_flows.py:shaky'}]",
    "acme/tests/json.yaml": "steps: [{id: made, function: '_flows.py:made'}]",
    "acme/tests/redacted.yaml": "{capture: redacted, steps: [{id: hello}]}",
    "acme/tests/unseen.yaml": "{capture: metadata_only, steps: [{id: hello}]}",
    "acme/tests/_flows.py": """
failures = []

def fail():
    raise RuntimeError("this step always breaks")

def shaky():
    failures.append(1)
    if len(failures) % 2:
        raise RuntimeError("not yet")
    return "at last"

def made():
    return {"__rendered": 1, "list": [1, 2.5, None, True, "é"], "nested": {"a": {}}}
""",
}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
]


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("backend")
    for name, text in FLOWS.items():
        path = folder / "flows" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with serve_backend(folder, flows=folder / "flows") as server:
        yield server


@pytest.fixture(autouse=True)
def replay_enabled(
    backend: Server, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_service(backend.api)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def client() -> AsyncIterator[AsyncNoukai]:
    async with AsyncNoukai(org="acme", project="samples") as client:
        yield client


@pytest.fixture
def sync_client() -> Iterator[Noukai]:
    with Noukai(org="acme", project="samples") as client:
        yield client


@pytest.fixture
def counts(backend: Server) -> Callable[[], dict[str, int]]:
    """Return what the backend counts: executions and model calls."""

    def get_counts() -> dict[str, int]:
        counts: dict[str, int] = httpx.get(f"{backend.url}/dev/stats", trust_env=False).json()
        return counts

    return get_counts


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def execute_two_flows(client: AsyncNoukai) -> Any:
    first = await client.flow("two-step").execute(message="the sea")
    second = await client.flow("acme/spelling/grade-3").execute(
        message=first.result, parameters={"difficulty": "hard"}
    )
    assert first.session_id == second.session_id is not None
    return first, second


async def steps(client: AsyncNoukai) -> Any:
    steps = await collect(client.flow("two-step").steps(message="the sea"))
    assert [step.step_id for step in steps] == ["draft", "polish"]
    return steps


async def events(client: AsyncNoukai, *, run_remaining: bool = False) -> Any:
    flow = client.flow("two-step")
    events = await collect(flow.events(message="the sea", run_remaining=run_remaining))
    types = [event.type for event in events]
    assert types.count("step_output") > 2
    assert types.count("step_paused") == (0 if run_remaining else 1)
    assert types[-1] == "flow_completed"
    assert [event.step_index for event in events if event.type == "step_completed"] == [0, 1]
    return events


async def events_of_remaining_steps(client: AsyncNoukai) -> Any:
    return await events(client, run_remaining=True)


async def parallel_steps_and_loops(client: AsyncNoukai) -> Any:
    flow = client.flow("acme/tests/many")
    options: Any = {"message": "x", "parameters": {"words": ["a", "b", "c"]}}
    streamed = await collect(flow.events(**options, run_remaining=True))
    stepped = await collect(flow.events(**options))
    return await flow.execute(**options), streamed, stepped


async def retried_step(client: AsyncNoukai) -> Any:
    flow = client.flow("acme/tests/retried")
    result = await flow.execute(message="x")
    assert result.result == "at last"
    return result, await collect(flow.events(message="x"))


async def json_result(client: AsyncNoukai) -> Any:
    flow = client.flow("acme/tests/json")
    result = await flow.execute(message="x")
    assert result.result["list"] == [1, 2.5, None, True, "é"]
    return result, await collect(flow.events(message="x"))


async def stream_left_early(client: AsyncNoukai) -> Any:
    seen = []
    events = client.flow("two-step").events(message="the sea")
    async for event in events:
        seen.append(event)
        if event.type == "step_completed":
            break
    await events.aclose()
    return seen, await client.flow("two-step").execute(message="after it")


def answer_weather(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"tool_call_id": call["id"], "output": {"arguments": call["function"]["arguments"]}}
        for call in tool_calls
    ]


ASK: dict[str, Any] = {"message": "How is the weather in Paris and Rome?", "tools": TOOLS}


async def tools_with_handler(client: AsyncNoukai) -> Any:
    handled: list[Any] = []

    def handle(tool_calls: list[dict[str, Any]]) -> Any:
        handled.append(tool_calls)
        return answer_weather(tool_calls)

    async def handle_async(tool_calls: list[dict[str, Any]]) -> Any:
        await anyio.lowlevel.checkpoint()
        return handle(tool_calls)

    flow = client.flow("weather")
    result = await flow.execute(**ASK, tool_handler=handle)
    events = await collect(flow.events(**ASK, tool_handler=handle_async))
    assert handled
    return result, events, handled


async def tools_by_hand(client: AsyncNoukai) -> Any:
    flow = client.flow("weather")
    results: list[Any] = [await flow.execute(**ASK)]
    while results[-1].requires_tool_calls:
        tool_results = answer_weather(results[-1].tool_calls)
        results.append(await results[-1].resume(tool_results=tool_results))
    assert len(results) > 1
    events = []
    async for event in flow.events(**ASK):
        events.append(event)
        if event.type == "tool_calls_required":
            await event.resume(tool_results=answer_weather(event.tool_calls))
    assert "tool_calls_required" in [event.type for event in events]
    return results, events


async def pause_without_answer(client: AsyncNoukai) -> Any:
    result = await client.flow("weather").execute(**ASK)
    assert result.requires_tool_calls
    return result


async def concurrent_calls_and_streams(client: AsyncNoukai) -> Any:
    flow = client.flow("hello-world")
    results = await asyncio.gather(*(flow.execute(message=f"number {n}") for n in range(8)))
    assert len({result.result for result in results}) == 8
    stream = client.flow("two-step").events
    streams = [collect(stream(message=f"number {n}")) for n in range(4)]
    return results, await asyncio.gather(*streams)


async def error_of(awaitable: Awaitable[Any]) -> dict[str, Any]:
    with pytest.raises(FlowExecutionError) as raised:
        await awaitable
    facts = {name: getattr(raised.value, name) for name in ("status_code", "code", "execution_id")}
    return {"text": str(raised.value), **facts}


async def failing_flow(client: AsyncNoukai) -> Any:
    flow = client.flow("acme/tests/fails")
    execute_error = await error_of(flow.execute(message="x"))
    steps_error = await error_of(collect(flow.steps(message="x")))
    events = await collect(flow.events(message="x"))
    assert events[-1].type == "step_error"
    # The application handles the error, and continues.
    result = await client.flow("hello-world").execute(message="instead")
    return execute_error, steps_error, events, result


APPLICATIONS = [
    execute_two_flows,
    steps,
    events,
    events_of_remaining_steps,
    parallel_steps_and_loops,
    retried_step,
    json_result,
    stream_left_early,
    tools_with_handler,
    tools_by_hand,
    pause_without_answer,
    concurrent_calls_and_streams,
    failing_flow,
]


@pytest.mark.filterwarnings("ignore::noukai_sdk.replay.player.ReplayConcurrencyWarning")
@pytest.mark.parametrize("application", APPLICATIONS)
async def test_replay_equals_capture_without_model_call(
    client: AsyncNoukai,
    counts: Callable[[], dict[str, int]],
    application: Callable[[AsyncNoukai], Awaitable[Any]],
) -> None:
    async with trace_scope(client=client) as capture:
        captured = await application(client)
    before = counts()
    assert before["executions"] > 0
    assert before["modelCalls"] > 0
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        replayed = await application(client)
    assert replayed == captured
    assert counts() == before
    assert replay.session_id == capture.session_id
    assert replay.report.clean, replay.report.as_dict()


@pytest.mark.filterwarnings("ignore::noukai_sdk.replay.player.ReplayConcurrencyWarning")
def test_replay_on_sync_client_and_threads_equals_capture(
    sync_client: Noukai, counts: Callable[[], dict[str, int]]
) -> None:
    def application() -> Any:
        flow, hello = sync_client.flow("two-step"), sync_client.flow("hello-world")
        result = flow.execute(message="the sea")
        streams = list(flow.steps(message="a lake")), list(flow.events(message="a river"))
        with ContextThreadPoolExecutor(4) as pool:
            results = list(pool.map(lambda n: hello.execute(message=f"number {n}"), range(8)))
        return result, streams, results

    with trace_scope_sync(client=sync_client) as capture:
        captured = application()
    before = counts()
    with trace_scope_sync(client=sync_client, replay_session_id=capture.session_id) as replay:
        replayed = application()
    assert replayed == captured
    assert counts() == before
    assert replay.report.clean


async def test_replay_with_other_input_or_tool_results_reports_drift(client: AsyncNoukai) -> None:
    hello, weather = client.flow("hello-world"), client.flow("weather")
    async with trace_scope(client=client) as capture:
        captured = await hello.execute(message="one", parameters={"a": 1})
        await weather.execute(**ASK, tool_handler=answer_weather)
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        assert await hello.execute(message="one", parameters={"a": 2}) == captured
        await weather.execute(
            **ASK,
            tool_handler=lambda calls: [{"tool_call_id": c["id"], "output": "?"} for c in calls],
        )
    first, *others = [entry.detail for entry in replay.report.drift]
    assert first == "the input differs from the recorded one in: parameters.a"
    assert others
    assert all("tool results" in detail for detail in others)


async def test_replay_with_other_number_of_calls_raises(client: AsyncNoukai) -> None:
    flow = client.flow("hello-world")
    async with trace_scope(client=client) as capture:
        await flow.execute(message="one")
        await flow.execute(message="two")
    with pytest.raises(ReplayLeftoverError) as left:
        async with trace_scope(client=client, replay_session_id=capture.session_id):
            await flow.execute(message="one")
    assert left.value.leftovers == (("hello-world", 1),)
    with pytest.raises(ReplayMissError) as missed:
        async with trace_scope(client=client, replay_session_id=capture.session_id):
            for message in ("one", "two", "three"):
                await flow.execute(message=message)
    assert missed.value.position == 2


async def test_replay_serves_call_from_other_session(client: AsyncNoukai) -> None:
    flow = client.flow("hello-world")
    async with trace_scope(client=client) as other:
        theirs = await flow.execute(message="theirs")
    async with trace_scope(client=client) as capture:
        await flow.execute(message="mine")
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        assert await flow.execute(message="theirs", session_id=other.session_id) == theirs
    assert replay.report.clean


async def test_replay_of_job_from_session_raises(client: AsyncNoukai) -> None:
    async with trace_scope(client=client) as capture:
        job = await client.flow("hello-world").execute_async(message="x")
        await job.wait(poll_interval=0.05)
    with pytest.raises(ReplayMissError, match="use a cassette file"):
        async with trace_scope(client=client, replay_session_id=capture.session_id):
            await client.flow("hello-world").execute_async(message="x")


async def test_replay_of_redacted_session_serves_redacted_result(client: AsyncNoukai) -> None:
    flow = client.flow("acme/tests/redacted")
    async with trace_scope(client=client) as capture:
        captured = await flow.execute(message="my password: hunter2 is a secret")
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        replayed = await flow.execute(message="my password: hunter2 is a secret")
    assert replayed.execution_id == captured.execution_id
    assert "hunter2" not in str(replayed.result)
    assert replay.report.drift == []  # the call is masked like the recording, to compare them
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        await flow.execute(message="my password: hunter2 is no secret")
    assert len(replay.report.drift) == 1


async def test_replay_of_unknown_session_or_without_snapshots_raises(client: AsyncNoukai) -> None:
    async with trace_scope(client=client) as capture:
        await client.flow("acme/tests/unseen").execute(message="x")
    for session_id, error in (
        (capture.session_id, ReplayNoSnapshotsError),
        ("never-recorded", ReplaySessionNotFoundError),
    ):
        with pytest.raises(error):
            async with trace_scope(client=client, replay_session_id=session_id):
                raise AssertionError("not reached")


async def test_result_tells_what_run_took_and_so_does_its_replay(client: AsyncNoukai) -> None:
    many, weather = client.flow("acme/tests/many"), client.flow("acme/samples/weather")

    async def calls() -> list[Any]:
        asked = await weather.execute(**ASK, tool_handler=answer_weather)
        return [await many.execute("hi", parameters={"words": ["a", "b"]}), asked]

    async with trace_scope(client=client) as capture:
        live, asked = await calls()
    async with trace_scope(client=client, replay_session_id=capture.session_id):
        assert await calls() == [live, asked]
    assert [step.step_id for step in live.steps] == ["left", "right", "each", "join"]
    assert live.tokens.total == sum(step.tokens.total for step in live.steps)
    assert (live.cost_usd, live.duration_ms is None) == ("0", False)
    assert live.request_id
    # Summed over its pauses.
    trace = await weather.run(asked.execution_id).trace()
    assert asked.tokens.total == trace.steps[0].tokens.total > 0


async def test_sessions_and_flows_are_listed_read_and_deleted(client: AsyncNoukai) -> None:
    async with trace_scope(client=client) as capture:
        await client.flow("hello-world").execute("to be listed")
    session_id = capture.session_id
    assert session_id is not None
    listed = [each async for each in client.sessions.list(q="to be listed", page_size=1)]
    assert [(each.session_id, each.calls) for each in listed] == [(session_id, 1)]
    assert len((await client.sessions.get(session_id)).executions) == 1
    await client.sessions.delete(session_id)
    for call in (client.sessions.get, client.sessions.delete):
        with pytest.raises(SessionNotFoundError):
            await call(session_id)
    addresses = [flow.address async for flow in client.flows.list(page_size=2)]
    assert addresses == sorted(addresses)
    assert "acme/tests/many" in addresses
