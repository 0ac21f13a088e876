"""What is recorded is what was seen: every way of calling a flow, live and from the file."""

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
from tests.replay.live import TOOLS, Live, LiveAsync, LiveSync, outcome, recorded, replayed, tool

pytestmark = pytest.mark.anyio

GRADE = "acme/spelling/grade-3"
TWO = "acme/samples/two-step"
WEATHER = "acme/samples/weather"
QUESTION = "How is the weather in Paris and Rome?"


@pytest.fixture
def anyio_backend() -> str:
    """Recording knows nothing of event loops: one will do, and one test on the other."""
    return "asyncio"


async def one_answer(live: Live) -> list[Any]:
    return [await live.execute("The cat sat.", slug=GRADE)]


async def every_input(live: Live) -> list[Any]:
    return [
        await live.execute(
            "hello",
            slug="echo",
            parameters={"level": 3, "nested": {"list": [1, 2.5, None, True, "ü"]}},
            block_overrides={"echo": {"temperature": 0.5}},
            attachments=[{"url": "https://example.org/a.png", "mime_type": "image/png"}],
            trace=True,
        ),
        await live.flow("echo").execute(messages=[{"role": "user", "content": "hello"}])
        if isinstance(live, LiveAsync)
        else live.flow("echo").execute(messages=[{"role": "user", "content": "hello"}]),
    ]


async def steps_one_by_one(live: Live) -> list[Any]:
    return [*await live.events(slug=TWO), *await live.steps(slug=TWO)]


async def all_steps_at_once(live: Live) -> list[Any]:
    return await live.events(slug=TWO, run_remaining=True, input_overrides={"polish": {"x": 1}})


async def tools_by_handler(live: Live) -> list[Any]:
    answer = await live.execute(QUESTION, slug=WEATHER, tools=TOOLS, tool_handler=tool)
    return [answer, *await live.events(QUESTION, slug=WEATHER, tools=TOOLS, tool_handler=tool)]


async def tools_by_hand(live: Live) -> list[Any]:
    answers = [await live.execute(QUESTION, slug=WEATHER, tools=TOOLS)]
    while isinstance(answers[-1], PausedResult):
        answers.append(await live.resume(answers[-1], tool(answers[-1].tool_calls)))
    return answers


async def a_pause_that_is_left(live: Live) -> list[Any]:
    return [await live.execute(QUESTION, slug=WEATHER, tools=TOOLS)]


async def errors(live: Live) -> list[Any]:
    return [
        await outcome(live.execute(slug="acme/samples/nowhere")),
        await outcome(live.events(slug="acme/samples/nowhere")),
        await outcome(live.submit(slug="acme/samples/nowhere")),
        await outcome(live.execute(slug="broken")),
        await outcome(live.events(slug="broken")),
        await outcome(live.steps(slug="broken")),
        await outcome(
            live.execute(QUESTION, slug=WEATHER, tools=TOOLS, tool_handler=tool, max_tool_rounds=1)
        ),
        await outcome(live.resume(await live.execute(QUESTION, slug=WEATHER, tools=TOOLS), [])),
    ]


async def a_job_that_is_waited_for(live: Live) -> list[Any]:
    job = await live.submit(slug=GRADE)
    return [job.execution_id, job.session_id, await live.wait(job, poll_interval=0.02)]


async def a_job_that_is_looked_at(live: Live) -> list[Any]:
    job = await live.submit(slug=GRADE)
    looks = [await live.poll(job)]
    while not looks[-1].is_done:
        looks.append(await live.poll(job))
    same = live.flow(GRADE).job(job.execution_id)
    return [*looks, await live.poll(same), await live.poll(job)]


async def a_job_that_takes_too_long(live: Live) -> list[Any]:
    job = await live.submit(slug=GRADE)
    early = await outcome(live.wait(job, timeout=0.000001, poll_interval=0.02))
    return [early, await live.wait(job, poll_interval=0.02)]


async def a_job_that_fails(live: Live) -> list[Any]:
    return [await live.wait(await live.submit(slug="broken"), poll_interval=0.02)]


BODIES = [
    one_answer,
    every_input,
    steps_one_by_one,
    all_steps_at_once,
    tools_by_handler,
    tools_by_hand,
    a_pause_that_is_left,
    errors,
    a_job_that_is_waited_for,
    a_job_that_is_looked_at,
    a_job_that_takes_too_long,
    a_job_that_fails,
]


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
async def test_what_is_replayed_is_what_was_seen(live: Live, tmp_path: Path, body: Any) -> None:
    path = tmp_path / "cassette.jsonl"
    seen = await recorded(live, path, body)
    assert seen
    assert await replayed(live, path, body) == seen
    assert await replayed(live, path, body, pacing="recorded") == seen


async def test_the_errors_are_those_that_they_seem(live: Live, tmp_path: Path) -> None:
    seen = await recorded(live, tmp_path / "c.jsonl", errors)
    kinds = [each[0] if isinstance(each, tuple) else type(each) for each in seen]
    assert kinds[:3] == [FlowNotFoundError] * 3
    assert kinds[5:] == [FlowExecutionError, ToolCallLimitError, FlowExecutionError]
    assert all(each[2]["request_id"] for each in seen[:3])


async def test_a_pause_that_a_stream_gives_to_its_reader(
    live_async: LiveAsync, tmp_path: Path
) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        seen = []
        async for event in live.flow(WEATHER).events(message=QUESTION, tools=TOOLS):
            seen.append(event)
            if event.type == "tool_calls_required":
                await event.resume(tool_results=tool(event.tool_calls))
        return seen

    seen = await recorded(live_async, tmp_path / "c.jsonl", body)
    assert [event.type for event in seen].count("tool_calls_required") == 2
    assert await replayed(live_async, tmp_path / "c.jsonl", body) == seen


async def test_a_pause_that_nobody_answers_ends_the_stream(
    live_async: LiveAsync, tmp_path: Path
) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        return [event async for event in live.flow(WEATHER).events(message=QUESTION, tools=TOOLS)]

    seen = await recorded(live_async, tmp_path / "c.jsonl", body)
    assert seen[-1].type == "tool_calls_required"
    assert await replayed(live_async, tmp_path / "c.jsonl", body) == seen


async def test_a_missing_handler_is_missing_again(live_sync: LiveSync, tmp_path: Path) -> None:
    async def body(live: LiveSync) -> list[Any]:
        return [await outcome(live.events(QUESTION, slug=WEATHER, tools=TOOLS))]

    (seen,) = await recorded(live_sync, tmp_path / "c.jsonl", body)
    assert seen[0] is ToolHandlerRequiredError
    assert await replayed(live_sync, tmp_path / "c.jsonl", body) == [seen]


async def test_a_stream_that_is_left_early(live: Live, tmp_path: Path) -> None:
    async def body(live: Live) -> list[Any]:
        stream = live.flow(TWO).events(message="hello")
        if isinstance(live, LiveSync):
            seen = [next(stream), next(stream)]
            stream.close()
            return seen
        seen = [await anext(stream), await anext(stream)]
        await stream.aclose()
        return seen

    seen = await recorded(live, tmp_path / "c.jsonl", body)
    assert await replayed(live, tmp_path / "c.jsonl", body) == seen
    with pytest.raises(ReplayMissError, match="had not ended when it was recorded"):
        await replayed(live, tmp_path / "c.jsonl", lambda live: live.events("hello", slug=TWO))


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_on_trio(live_async: LiveAsync, tmp_path: Path, anyio_backend: str) -> None:
    seen = await recorded(live_async, tmp_path / "c.jsonl", steps_one_by_one)
    assert await replayed(live_async, tmp_path / "c.jsonl", steps_one_by_one) == seen


async def test_calls_that_run_together(live_async: LiveAsync, tmp_path: Path) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        texts = [f"text {number}" for number in range(5)]
        calls = (live.execute(text, slug=GRADE) for text in texts)
        return await asyncio.gather(*calls)

    seen = await recorded(live_async, tmp_path / "c.jsonl", body)
    assert len({answer.result for answer in seen}) == 5
    with pytest.warns(UserWarning, match="recording of its own input"):
        assert await replayed(live_async, tmp_path / "c.jsonl", body) == seen


async def test_a_service_that_is_not_there(live: Live, tmp_path: Path, redirect_dev: Any) -> None:
    redirect_dev("http://127.0.0.1:9/api/v1")
    lost = type(live)()

    async def body(live: Live) -> list[Any]:
        return [await outcome(live.execute()), await outcome(live.events())]

    seen = await recorded(lost, tmp_path / "c.jsonl", body)
    assert seen[0][0] is APIConnectionError
    assert seen[0][2]["request_sent"] is False
    assert await replayed(lost, tmp_path / "c.jsonl", body) == seen
    assert await replayed(lost, tmp_path / "c.jsonl", body, pacing="recorded") == seen


async def test_a_handler_that_raises_is_no_answer_of_the_service(
    live: Live, tmp_path: Path
) -> None:
    def broken(calls: Any) -> Any:
        raise ZeroDivisionError

    async def body(live: Live) -> list[Any]:
        with pytest.raises(ZeroDivisionError):
            await live.execute(QUESTION, slug=WEATHER, tools=TOOLS, tool_handler=broken)
        return []

    await recorded(live, tmp_path / "c.jsonl", body)
    await replayed(live, tmp_path / "c.jsonl", body)


async def test_the_request_is_kept_as_it_was_sent(live: Live, tmp_path: Path) -> None:
    parameters: dict[str, Any] = {"words": ["one"]}
    async with live.scope(record=tmp_path / "c.jsonl"):
        await live.execute(slug="echo", parameters=parameters)
        parameters["words"].append("two")
    assert only(tmp_path / "c.jsonl").request == {
        "message": "m0",
        "parameters": {"words": ["one"]},
    }


async def test_what_is_never_awaited_is_not_recorded(
    live_async: LiveAsync, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    async def body(live: LiveAsync) -> list[Any]:
        dropped = live.flow(GRADE).execute(message="never")
        dropped.close()
        del dropped
        gc.collect()
        return [await live.execute("The cat sat.", slug=GRADE)]

    seen = await recorded(live_async, tmp_path / "c.jsonl", body)
    assert only(tmp_path / "c.jsonl").request == {"message": "The cat sat."}
    assert await replayed(live_async, tmp_path / "c.jsonl", body) == seen


async def test_a_body_that_fails_is_recorded_up_to_there(live: Live, tmp_path: Path) -> None:
    async def body(live: Live) -> list[Any]:
        await one_answer(live)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await recorded(live, tmp_path / "c.jsonl", body)
    assert only(tmp_path / "c.jsonl").result is not None


async def test_what_the_file_says_of_a_call(live: Live, tmp_path: Path) -> None:
    async with live.scope(record=tmp_path / "c.jsonl") as scope:
        result = await live.execute("hello", slug=TWO)
    file = read_cassette(tmp_path / "c.jsonl")
    (recording,) = file.recordings
    assert file.session_id == scope.session_id == result.session_id
    assert (recording.org, recording.project, recording.slug) == ("acme", "samples", "two-step")
    assert (recording.kind, recording.version) == ("execute", None)
    assert recording.execution_id == result.execution_id
    assert recording.flow_id == result.flow_id
    assert recording.started_at is not None
    assert recording.completed_at is not None
    assert recording.started_at < recording.completed_at


async def test_trace_with_a_file_of_its_own(live: Live, tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    if isinstance(live, LiveSync):

        @trace(record=path)
        def record() -> Any:
            return live.flow(GRADE).execute(message="x"), current_session_id()

        @trace(cassette=path)
        def replay() -> Any:
            return live.flow(GRADE).execute(message="x"), current_session_id()

        seen, again = record(), replay()
    else:

        @trace(record=path)
        async def record_async() -> Any:
            return await live.flow(GRADE).execute(message="x"), current_session_id()

        @trace(cassette=path)
        async def replay_async() -> Any:
            return await live.flow(GRADE).execute(message="x"), current_session_id()

        seen, again = await record_async(), await replay_async()
    assert seen == again
    assert read_cassette(path).session_id == seen[1]


async def test_a_job_that_was_submitted_elsewhere(live: Live, tmp_path: Path) -> None:
    job = await live.submit(slug=GRADE)
    await live.wait(job, poll_interval=0.02)
    async with live.scope(record=tmp_path / "c.jsonl"):
        assert (await live.poll(live.flow(GRADE).job(job.execution_id))).is_done
    assert read_cassette(tmp_path / "c.jsonl").recordings == []

    async def body(live: Live) -> list[Any]:
        with pytest.raises(ReplayMissError):
            live.flow(GRADE).job(job.execution_id)
        return []

    with pytest.raises(ReplayMissError, match="was not submitted in this replay") as caught:
        await replayed(live, tmp_path / "c.jsonl", body)
    assert caught.value.kind == "job"
    assert caught.value.report is not None
    assert [entry.kind for entry in caught.value.report.misses] == ["job"]


async def test_a_job_that_nobody_looked_at(live: Live, tmp_path: Path) -> None:
    async def body(live: Live) -> list[Any]:
        return [await live.submit(slug=GRADE)]

    async def looking(live: Live) -> list[Any]:
        with pytest.raises(ReplayMissError):
            await live.poll((await body(live))[0])
        return []

    await recorded(live, tmp_path / "c.jsonl", body)
    with pytest.raises(ReplayMissError, match="never polled"):
        await replayed(live, tmp_path / "c.jsonl", looking)


def only(path: Path) -> Recording:
    (recording,) = read_cassette(path).recordings
    return recording
