"""Capture a request on the real backend, replay it, and compare: everything equal, no model called."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    ContextThreadPoolExecutor,
    FlowExecutionError,
    Noukai,
    NoukaiError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplayNoSnapshotsError,
    ReplaySessionNotFoundError,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.replay.player import ReplayConcurrencyWarning
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
def open_gate(
    backend: Server, redirect_dev: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    redirect_dev(backend.api)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")


@pytest.fixture
async def client() -> Any:
    async with AsyncNoukai(org="acme", project="samples") as client:
        yield client


@pytest.fixture
def sync_client() -> Iterator[Noukai]:
    with Noukai(org="acme", project="samples") as client:
        yield client


@pytest.fixture
def counts(backend: Server) -> Callable[[], dict[str, int]]:
    def counted() -> dict[str, int]:
        answer = httpx.get(f"{backend.url}/dev/stats", trust_env=False)
        result: dict[str, int] = answer.json()
        return result

    return counted


Application = Callable[[], Awaitable[Any]]


async def told(application: Application) -> Any:
    """What the application gives, or how it fails."""
    try:
        return await application()
    except NoukaiError as error:
        return {"type": type(error), "text": str(error), **_facts(error)}


def _facts(error: NoukaiError) -> dict[str, Any]:
    return {name: getattr(error, name) for name in ("status_code", "code", "execution_id")}


async def captured_and_replayed(
    client: Any, counts: Callable[[], dict[str, int]], application: Application
) -> tuple[Any, Any]:
    """Run ``application`` live and from its recording; gives what both gave."""
    async with trace_scope(client=client) as capture:
        live = await told(application)
    before = counts()
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        replayed = await told(application)
    assert counts() == before
    assert before["executions"] > 0
    assert replay.session_id == capture.session_id
    assert replay.report.clean, replay.report.as_dict()
    return live, replayed


async def test_execute(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        first = await client.flow("two-step").execute(message="the sea")
        second = await client.flow("acme/spelling/grade-3").execute(
            message=first.result, parameters={"difficulty": "hard"}
        )
        return [first, second]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert replayed[0].session_id == live[0].session_id is not None
    assert counts()["modelCalls"] >= 4


async def test_on_the_sync_client(sync_client: Noukai, counts: Any) -> None:
    def application() -> Any:
        flow = sync_client.flow("two-step")
        result = flow.execute(message="the sea")
        return result, list(flow.steps(message="a lake")), list(flow.events(message="a river"))

    with trace_scope_sync(client=sync_client) as capture:
        live = application()
    before = counts()
    with trace_scope_sync(client=sync_client, replay_session_id=capture.session_id) as replay:
        replayed = application()
    assert replayed == live
    assert counts() == before
    assert replay.report.clean


@pytest.mark.parametrize("run_remaining", [False, True])
async def test_events_one_by_one(client: AsyncNoukai, counts: Any, run_remaining: bool) -> None:
    async def application() -> Any:
        flow = client.flow("two-step")
        return [e async for e in flow.events(message="the sea", run_remaining=run_remaining)]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    types = [event.type for event in replayed]
    assert types.count("step_output") > 2
    assert types.count("step_paused") == (0 if run_remaining else 1)
    assert types[-1] == "flow_completed"
    assert [event.step_index for event in replayed if event.type == "step_completed"] == [0, 1]


async def test_steps(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        return [step async for step in client.flow("two-step").steps(message="the sea")]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert [step.step_id for step in replayed] == ["draft", "polish"]


async def test_parallel_steps_and_loops(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        flow = client.flow("acme/tests/many")
        options: Any = {"message": "x", "parameters": {"words": ["a", "b", "c"]}}
        streamed = [e async for e in flow.events(**options, run_remaining=True)]
        stepped = [e async for e in flow.events(**options)]
        return await flow.execute(**options), streamed, stepped

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live


async def test_a_step_that_was_tried_again(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        flow = client.flow("acme/tests/retried")
        return await flow.execute(message="x"), [e async for e in flow.events(message="x")]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert replayed[0].result == "at last"


async def test_json_of_any_kind(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        flow = client.flow("acme/tests/json")
        return await flow.execute(message="x"), [e async for e in flow.events(message="x")]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert replayed[0].result["list"] == [1, 2.5, None, True, "é"]


async def test_leaving_a_stream_early(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        seen = []
        events = client.flow("two-step").events(message="the sea")
        async for event in events:
            seen.append(event)
            if event.type == "step_completed":
                break
        await events.aclose()
        return seen, await client.flow("two-step").execute(message="after it")

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live


def weather(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"tool_call_id": call["id"], "output": {"asked": call["function"]["arguments"]}}
        for call in tool_calls
    ]


async def async_weather(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    await anyio.lowlevel.checkpoint()
    return weather(tool_calls)


ASK: dict[str, Any] = {"message": "How is the weather in Paris and Rome?", "tools": TOOLS}


@pytest.mark.parametrize("handler", [weather, async_weather])
async def test_tools_by_a_handler(client: AsyncNoukai, counts: Any, handler: Any) -> None:
    asked = []

    async def handle(tool_calls: list[dict[str, Any]]) -> Any:
        asked.append(tool_calls)
        results = handler(tool_calls)
        return results if isinstance(results, list) else await results

    async def application() -> Any:
        flow = client.flow("weather")
        result = await flow.execute(**ASK, tool_handler=handle)
        return result, [e async for e in flow.events(**ASK, tool_handler=handle)]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert asked[: len(asked) // 2] == asked[len(asked) // 2 :] != []


async def test_tools_by_hand(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        flow = client.flow("weather")
        answers: list[Any] = [await flow.execute(**ASK)]
        while answers[-1].requires_tool_calls:
            results = weather(answers[-1].tool_calls)
            answers.append(await answers[-1].resume(tool_results=results))
        return answers

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert len(replayed) > 1


async def test_tools_by_hand_in_a_stream(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        events = []
        async for event in client.flow("weather").events(**ASK):
            events.append(event)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=weather(event.tool_calls))
        return events

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert "tool_calls_required" in [event.type for event in replayed]


async def test_a_pause_that_is_never_answered(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        return await client.flow("weather").execute(**ASK)

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert replayed.requires_tool_calls


async def test_other_tools_results_are_drift(client: AsyncNoukai) -> None:
    flow = client.flow("weather")
    async with trace_scope(client=client) as capture:
        await flow.execute(**ASK, tool_handler=weather)
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        await flow.execute(
            **ASK,
            tool_handler=lambda calls: [{"tool_call_id": c["id"], "output": "?"} for c in calls],
        )
    assert replay.report.drift
    assert all("tool results" in entry.detail for entry in replay.report.drift)


async def test_gather(client: AsyncNoukai, counts: Any, anyio_backend_name: str) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio.gather")

    async def application() -> Any:
        flow = client.flow("hello-world")
        return await asyncio.gather(*(flow.execute(message=f"number {n}") for n in range(8)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    assert len({result.result for result in replayed}) == 8


async def test_streams_side_by_side(client: AsyncNoukai, counts: Any) -> None:
    async def application() -> Any:
        streams: dict[int, list[Any]] = {}

        async def read(number: int) -> None:
            flow = client.flow("two-step")
            streams[number] = [e async for e in flow.events(message=f"number {number}")]

        async with anyio.create_task_group() as tasks:
            for number in range(4):
                tasks.start_soon(read, number)
        return streams

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live


def test_threads(sync_client: Noukai, counts: Any) -> None:
    flow = sync_client.flow("hello-world")

    def application() -> Any:
        with ContextThreadPoolExecutor(4) as pool:
            return list(pool.map(lambda n: flow.execute(message=f"number {n}"), range(8)))

    with trace_scope_sync(client=sync_client) as capture:
        live = application()
    before = counts()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        with trace_scope_sync(client=sync_client, replay_session_id=capture.session_id) as replay:
            replayed = application()
    assert replayed == live
    assert counts() == before
    assert replay.report.clean


@pytest.mark.parametrize("method", ["execute", "events", "steps"])
async def test_a_failing_flow(client: AsyncNoukai, counts: Any, method: str) -> None:
    async def application() -> Any:
        flow = client.flow("acme/tests/fails")
        if method == "execute":
            return await flow.execute(message="x")
        return [item async for item in getattr(flow, method)(message="x")]

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live
    if method == "events":
        assert replayed[-1].type == "step_error"
    else:
        assert replayed["type"] is FlowExecutionError


async def test_a_flow_goes_on_after_a_failure_that_the_code_handles(
    client: AsyncNoukai, counts: Any
) -> None:
    async def application() -> Any:
        with pytest.raises(FlowExecutionError):
            await client.flow("acme/tests/fails").execute(message="x")
        return await client.flow("hello-world").execute(message="instead")

    live, replayed = await captured_and_replayed(client, counts, application)
    assert replayed == live


async def test_fewer_and_more_calls(client: AsyncNoukai) -> None:
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


async def test_another_input_is_drift(client: AsyncNoukai) -> None:
    flow = client.flow("hello-world")
    async with trace_scope(client=client) as capture:
        live = await flow.execute(message="one", parameters={"a": 1})
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        assert await flow.execute(message="one", parameters={"a": 2}) == live
    assert [entry.detail for entry in replay.report.drift] == [
        "the input differs from the recorded one in: parameters"
    ]


async def test_a_call_from_another_session(client: AsyncNoukai) -> None:
    flow = client.flow("hello-world")
    async with trace_scope(client=client) as other:
        theirs = await flow.execute(message="theirs")
    async with trace_scope(client=client) as capture:
        await flow.execute(message="mine")
    async with trace_scope(client=client, replay_session_id=capture.session_id) as replay:
        assert await flow.execute(message="theirs", session_id=other.session_id) == theirs
    assert replay.report.clean


async def test_jobs_are_refused(client: AsyncNoukai) -> None:
    async with trace_scope(client=client) as capture:
        job = await client.flow("hello-world").execute_async(message="x")
        await job.wait(poll_interval=0.05)
    with pytest.raises(ReplayMissError, match="use a cassette file"):
        async with trace_scope(client=client, replay_session_id=capture.session_id):
            await client.flow("hello-world").execute_async(message="x")


async def test_a_redacted_session_replays(client: AsyncNoukai) -> None:
    flow = client.flow("acme/tests/redacted")
    async with trace_scope(client=client) as capture:
        live = await flow.execute(message="my password: hunter2 is a secret")
    async with trace_scope(client=client, replay_session_id=capture.session_id):
        replayed = await flow.execute(message="my password: hunter2 is a secret")
    assert replayed.execution_id == live.execution_id
    assert "hunter2" not in str(replayed.result)


async def test_a_session_without_snapshots(client: AsyncNoukai) -> None:
    async with trace_scope(client=client) as capture:
        await client.flow("acme/tests/unseen").execute(message="x")
    with pytest.raises(ReplayNoSnapshotsError):
        async with trace_scope(client=client, replay_session_id=capture.session_id):
            raise AssertionError("not reached")


async def test_an_unknown_session(client: AsyncNoukai) -> None:
    with pytest.raises(ReplaySessionNotFoundError):
        async with trace_scope(client=client, replay_session_id="never-recorded"):
            raise AssertionError("not reached")
