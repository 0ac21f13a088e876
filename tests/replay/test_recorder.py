"""Recordings of every way to call a flow: the replay returns what the live call returned."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    FlowExecutionError,
    FlowNotFoundError,
    PausedResult,
    ReplayMissError,
    ToolCallLimitError,
    ToolHandlerRequiredError,
    current_session_id,
    trace,
)
from noukai_sdk.replay.cassette_file import read_cassette
from noukai_sdk.replay.recording import Recording
from tests.support.replays import TOOLS, SyncSide, outcome, recorded, replayed, weather_tool

pytestmark = pytest.mark.anyio

GRADE = "acme/spelling/grade-3"
TWO = "acme/samples/two-step"
WEATHER = "acme/samples/weather"
QUESTION = "How is the weather in Paris and Rome?"


async def one_execute(live: SyncSide) -> list[Any]:
    return [await live.execute("The cat sat.", slug=GRADE)]


async def every_input(live: SyncSide) -> list[Any]:
    turns = [{"role": "user", "content": "hello"}]
    return [
        await live.execute(
            "hello",
            slug="echo",
            parameters={"level": 3, "nested": {"list": [1, 2.5, None, True, "ü"]}},
            block_overrides={"echo": {"temperature": 0.5}},
            attachments=[{"url": "https://example.org/a.png", "mime_type": "image/png"}],
            trace=True,
        ),
        await live.execute(None, slug="echo", messages=turns),
    ]


async def step_by_step(live: SyncSide) -> list[Any]:
    return [*await live.events(slug=TWO), *await live.steps(slug=TWO)]


async def all_steps_at_once(live: SyncSide) -> list[Any]:
    return await live.events(slug=TWO, run_remaining=True, input_overrides={"polish": {"x": 1}})


async def tools_by_handler(live: SyncSide) -> list[Any]:
    options = {"slug": WEATHER, "tools": TOOLS, "tool_handler": weather_tool}
    return [await live.execute(QUESTION, **options), *await live.events(QUESTION, **options)]


async def tools_by_hand(live: SyncSide) -> list[Any]:
    results = [await live.execute(QUESTION, slug=WEATHER, tools=TOOLS)]
    while isinstance(results[-1], PausedResult):
        results.append(await live.resume(results[-1], weather_tool(results[-1].tool_calls)))
    return results


async def pause_left_alone(live: SyncSide) -> list[Any]:
    return [await live.execute(QUESTION, slug=WEATHER, tools=TOOLS)]


async def stream_pause(live: SyncSide) -> list[Any]:
    """A pause that its consumer resumes, then one that it leaves; a sync client needs a handler."""
    if not live.is_async:
        return [await outcome(live.events(QUESTION, slug=WEATHER, tools=TOOLS))]
    seen = []
    async for event in live.flow(WEATHER).events(message=QUESTION, tools=TOOLS):
        seen.append(event)
        if event.type == "tool_calls_required":
            await event.resume(tool_results=weather_tool(event.tool_calls))
    return [*seen, *await live.events(QUESTION, slug=WEATHER, tools=TOOLS)]


async def errors(live: SyncSide) -> list[Any]:
    limited = {"tool_handler": weather_tool, "max_tool_rounds": 1}
    return [
        await outcome(live.execute(slug="acme/samples/nowhere")),
        await outcome(live.events(slug="acme/samples/nowhere")),
        await outcome(live.submit(slug="acme/samples/nowhere")),
        await outcome(live.execute(slug="broken")),
        await outcome(live.events(slug="broken")),
        await outcome(live.steps(slug="broken")),
        await outcome(live.execute(QUESTION, slug=WEATHER, tools=TOOLS, **limited)),
        await outcome(live.resume(await live.execute(QUESTION, slug=WEATHER, tools=TOOLS), [])),
    ]


async def job_waited_for(live: SyncSide) -> list[Any]:
    job = await live.submit(slug=GRADE)
    failing = await live.submit(slug="broken")
    return [
        job.execution_id,
        job.session_id,
        await live.wait(job, poll_interval=0.02),
        await live.wait(failing, poll_interval=0.02),
    ]


async def job_polled(live: SyncSide) -> list[Any]:
    job = await live.submit(slug=GRADE)
    statuses = [await live.poll(job)]
    while not statuses[-1].is_done:
        statuses.append(await live.poll(job))
    same = live.flow(GRADE).job(job.execution_id)
    return [*statuses, await live.poll(same), await live.poll(job)]


async def job_waited_for_too_briefly(live: SyncSide) -> list[Any]:
    job = await live.submit(slug=GRADE)
    early = await outcome(live.wait(job, timeout=0.000001, poll_interval=0.02))
    return [early, await live.wait(job, poll_interval=0.02)]


BODIES = [
    one_execute,
    every_input,
    step_by_step,
    all_steps_at_once,
    tools_by_handler,
    tools_by_hand,
    pause_left_alone,
    stream_pause,
    errors,
    job_waited_for,
    job_polled,
    job_waited_for_too_briefly,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_replay_of_a_recording_equals_the_live_run(
    live: SyncSide, tmp_path: Path, body: Any
) -> None:
    path = tmp_path / "cassette.jsonl"
    seen = await recorded(live, path, body)
    assert seen
    assert await replayed(live, path, body) == seen
    assert await replayed(live, path, body, pacing="recorded") == seen
    if body is errors:
        kinds = [each[0] if isinstance(each, tuple) else type(each) for each in seen]
        assert kinds[:3] == [FlowNotFoundError] * 3
        assert kinds[5:] == [FlowExecutionError, ToolCallLimitError, FlowExecutionError]
        assert all(each[2]["request_id"] for each in seen[:3])
    if body is stream_pause and not live.is_async:
        assert seen[0][0] is ToolHandlerRequiredError
    elif body is stream_pause:
        assert [event.type for event in seen].count("tool_calls_required") == 3
        assert seen[-1].type == "tool_calls_required"


async def test_recording_of_a_stream_left_early_ends_there(live: SyncSide, tmp_path: Path) -> None:
    async def body(live: SyncSide) -> list[Any]:
        stream = live.flow(TWO).events(message="hello")
        seen = [await live.next(stream), await live.next(stream)]
        await live.close(stream)
        return seen

    seen = await recorded(live, tmp_path / "c.jsonl", body)
    assert await replayed(live, tmp_path / "c.jsonl", body) == seen
    with pytest.raises(ReplayMissError, match="had not ended when it was recorded"):
        await replayed(live, tmp_path / "c.jsonl", lambda live: live.events("hello", slug=TWO))


async def test_recording_of_concurrent_calls_replays_each_by_input(
    live: SyncSide, tmp_path: Path
) -> None:
    if not live.is_async:
        pytest.skip("needs tasks")

    async def body(live: SyncSide) -> list[Any]:
        calls = (live.execute(f"text {number}", slug=GRADE) for number in range(5))
        return await asyncio.gather(*calls)

    seen = await recorded(live, tmp_path / "c.jsonl", body)
    assert len({result.result for result in seen}) == 5
    with pytest.warns(UserWarning, match="recording of its own input"):
        assert await replayed(live, tmp_path / "c.jsonl", body) == seen


async def test_recording_of_an_unreachable_service_replays_its_errors(
    live: SyncSide, tmp_path: Path, use_service: Any
) -> None:
    use_service("http://127.0.0.1:9/api/v1")
    lost = type(live)()

    async def body(live: SyncSide) -> list[Any]:
        return [await outcome(live.execute()), await outcome(live.events())]

    seen = await recorded(lost, tmp_path / "c.jsonl", body)
    assert seen[0][0] is APIConnectionError
    assert seen[0][2]["request_sent"] is False
    assert await replayed(lost, tmp_path / "c.jsonl", body) == seen
    assert await replayed(lost, tmp_path / "c.jsonl", body, pacing="recorded") == seen


async def test_recording_of_a_failing_handler_or_body_goes_as_far_as_the_calls(
    live: SyncSide, tmp_path: Path
) -> None:
    def broken(calls: Any) -> Any:
        raise ZeroDivisionError

    async def body(live: SyncSide) -> list[Any]:
        with pytest.raises(ZeroDivisionError):
            await live.execute(QUESTION, slug=WEATHER, tools=TOOLS, tool_handler=broken)
        return []

    await recorded(live, tmp_path / "c.jsonl", body)
    await replayed(live, tmp_path / "c.jsonl", body)

    async def failing(live: SyncSide) -> list[Any]:
        await one_execute(live)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await recorded(live, tmp_path / "c.jsonl", failing)
    assert only(tmp_path / "c.jsonl").result is not None


async def test_recording_holds_the_facts_of_the_call(live: SyncSide, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"words": ["one"]}
    async with live.scope(record=tmp_path / "c.jsonl") as scope:
        result = await live.execute("hello", slug=TWO, parameters=parameters)
        parameters["words"].append("two")
    assert read_cassette(tmp_path / "c.jsonl").session_id == scope.session_id == result.session_id
    recording = only(tmp_path / "c.jsonl")
    assert recording.request == {"message": "hello", "parameters": {"words": ["one"]}}
    assert (recording.org, recording.project, recording.slug) == ("acme", "samples", "two-step")
    assert (recording.kind, recording.version) == ("execute", None)
    assert recording.execution_id == result.execution_id
    assert recording.flow_id == result.flow_id
    assert recording.started_at is not None
    assert recording.completed_at is not None
    assert recording.started_at < recording.completed_at


async def test_call_that_is_never_awaited_is_not_recorded(live: SyncSide, tmp_path: Path) -> None:
    if not live.is_async:
        pytest.skip("a sync call begins at once")

    async def body(live: SyncSide) -> list[Any]:
        dropped = live.flow(GRADE).execute(message="never")
        dropped.close()
        del dropped
        gc.collect()
        return await one_execute(live)

    seen = await recorded(live, tmp_path / "c.jsonl", body)
    assert only(tmp_path / "c.jsonl").request == {"message": "The cat sat."}
    assert await replayed(live, tmp_path / "c.jsonl", body) == seen


async def test_trace_with_a_cassette_records_and_replays(live: SyncSide, tmp_path: Path) -> None:
    async def call() -> Any:
        return await live.execute("x", slug=GRADE), current_session_id()

    seen = await trace(record=tmp_path / "c.jsonl")(call)()
    assert await trace(cassette=tmp_path / "c.jsonl")(call)() == seen
    assert read_cassette(tmp_path / "c.jsonl").session_id == seen[1]


async def test_job_of_another_scope_is_live_when_recording_and_a_miss_in_a_replay(
    live: SyncSide, tmp_path: Path
) -> None:
    job = await live.submit(slug=GRADE)
    await live.wait(job, poll_interval=0.02)
    async with live.scope(record=tmp_path / "c.jsonl"):
        assert (await live.poll(live.flow(GRADE).job(job.execution_id))).is_done
    assert read_cassette(tmp_path / "c.jsonl").recordings == []

    async def body(live: SyncSide) -> list[Any]:
        live.flow(GRADE).job(job.execution_id)
        return []

    with pytest.raises(ReplayMissError, match="was not submitted in this replay") as caught:
        await replayed(live, tmp_path / "c.jsonl", body)
    assert caught.value.kind == "job"
    assert caught.value.report is not None
    assert [entry.kind for entry in caught.value.report.misses] == ["job"]


async def test_job_that_was_never_polled_is_a_miss_when_polled(
    live: SyncSide, tmp_path: Path
) -> None:
    async def body(live: SyncSide) -> list[Any]:
        return [await live.submit(slug=GRADE)]

    async def polling(live: SyncSide) -> list[Any]:
        await live.poll((await body(live))[0])
        return []

    await recorded(live, tmp_path / "c.jsonl", body)
    with pytest.raises(ReplayMissError, match="never polled"):
        await replayed(live, tmp_path / "c.jsonl", polling)


def only(path: Path) -> Recording:
    (recording,) = read_cassette(path).recordings
    return recording
