"""``steps`` and ``events``, stepped by hand: the cursor, the pauses, the end."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import (
    APIConnectionError,
    ToolCallLimitError,
    ToolCallsRequired,
    ToolHandlerRequiredError,
)
from noukai_sdk.protocol.program import OpenStream, PauseSeen, ReadChunk, ResultsSent
from noukai_sdk.protocol.stepping import step
from tests.support.stepping import Played, frames, make_call, play, respond

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = [{"role": "user", "content": "hi"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]
STARTED = {"eventType": "run_started", "runId": "r", "executionId": "e", "stepCount": 3}
PAUSED = {"eventType": "step_paused", "executionId": "e"}
COMPLETED = {"eventType": "flow_completed", "executionId": "e", "result": "end"}


def started(step_id: str, index: int | None = None) -> dict[str, Any]:
    return {"eventType": "step_started", "stepId": step_id, "stepIndex": index}


def output(step_id: str, text: str = "x") -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": step_id, "outputData": text}


def finished(step_id: str, index: int | None = None) -> dict[str, Any]:
    return {
        "eventType": "step_completed",
        "stepId": step_id,
        "output": step_id * 2,
        "stepIndex": index,
    }


def asks(step_id: str, index: int | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "eventType": "step_paused_for_tool_calls",
        "executionId": "e",
        "stepId": step_id,
        "stepIndex": index,
        "iterationsUsed": 1,
        "toolCallMessages": ASKED,
        "toolCalls": [CALL],
        "accumulatedOutputs": {},
        **changes,
    }


def stream(*events: dict[str, Any]) -> list[bytes]:
    return [frames(*events)]


def handler(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": "r"} for call in tool_calls]


def types(played: Played) -> list[str]:
    return [event.type for event in played.events]


def indices(played: Played) -> list[tuple[str, int | None]]:
    kept = [event for event in played.events if event.type in ("step_started", "step_completed")]
    return [(event.step_id, event.step_index) for event in kept]  # type: ignore[union-attr]  # only events with these are kept


def test_steps_continue_after_each_pause_of_the_service() -> None:
    request = {
        "message": "hi",
        "parameters": {"p": 1},
        "attachments": [],
        "blockOverrides": {"b": {}},
        "inputOverrides": {"b": 1},
    }
    played = play(
        step(make_call("step", request=request, session_id="s1", extra_headers={"X-Mine": "1"})),
        [
            stream(STARTED, started("a", 0), output("a"), finished("a", 0), PAUSED),
            stream(started("b", 1), finished("b", 1), COMPLETED),
        ],
    )
    assert types(played) == [
        "run_started", "step_started", "step_output", "step_completed", "step_paused",
        "step_started", "step_completed", "flow_completed",
    ]  # fmt: skip
    assert played.bodies == [
        {**request, "stepIndex": 0},
        {
            "blockOverrides": {"b": {}},
            "inputOverrides": {"b": 1},
            "executionId": "e",
            "stepIndex": 1,
            "accumulatedOutputs": {"a": "aa"},
        },
    ]
    for posted in played.requests:
        assert (posted.method, posted.path) == ("POST", "/seq/acme/spelling/grade-3/step")
        assert posted.headers == {
            "Content-Type": "application/json",
            "Accept": "text/event-stream",
            "X-Session-Id": "s1",
            "X-Mine": "1",
        }


@pytest.mark.parametrize(
    "counts", ["from the start of the flow", "from the start of the call", "not"]
)
@pytest.mark.parametrize("run_remaining", [False, True])
@pytest.mark.parametrize("tools", [False, True])
def test_step_index_counts_from_start_of_flow(
    counts: str, run_remaining: bool, tools: bool
) -> None:
    """Four steps, in as many calls as the service makes of them; the third may ask for tools."""
    calls = [["a", "b"] if tools else ["a", "b", "c", "d"]] if run_remaining else [["a"], ["b"]]
    calls += [["c", "d"]] if run_remaining and tools else []
    calls += [] if run_remaining else [["c"], ["d"]]

    def number(step_id: str, call: list[str]) -> int | None:
        if counts == "not":
            return None
        return (
            "abcd".index(step_id) if counts == "from the start of the flow" else call.index(step_id)
        )

    streams: list[list[bytes]] = []
    for position, call in enumerate(calls):
        events = [STARTED] if position == 0 else []
        for step_id in call:
            events += [
                started(step_id, number(step_id, call)),
                finished(step_id, number(step_id, call)),
            ]
        last = position == len(calls) - 1
        if tools and calls[-1 if last else position + 1][0] == "c" and not last:
            # The step that asks was begun in this call when the service runs on, in its own otherwise.
            if run_remaining:
                begun = [*call, "c"]
                events += [started("c", number("c", begun)), asks("c", number("c", begun))]
                streams.append(stream(*events))
                continue
            events.append(PAUSED)
            streams.append(stream(*events))
            streams.append(stream(started("c", number("c", ["c"])), asks("c", number("c", ["c"]))))
            continue
        streams.append(stream(*events, COMPLETED if last else PAUSED))

    played = play(step(make_call("step", tool_handler=handler)), streams)
    assert list(dict.fromkeys(indices(played))) == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    asked = [body["stepIndex"] for body in played.bodies]
    if run_remaining:
        assert asked == ([0, 2] if tools else [0])
    else:
        assert asked == ([0, 1, 2, 2, 3] if tools else [0, 1, 2, 3])


def test_step_index_skips_with_the_service() -> None:
    played = play(
        step(make_call("step")),
        [stream(STARTED, finished("a", 0), PAUSED), stream(finished("c", 2), COMPLETED)],
    )
    assert indices(played) == [("a", 0), ("c", 2)]


def test_step_index_of_parallel_steps_follows_their_start() -> None:
    played = play(
        step(make_call("step")),
        [
            stream(STARTED, started("a"), started("b"), finished("b"), finished("a"), PAUSED),
            stream(started("c", 0), finished("c"), COMPLETED),
        ],
    )
    assert indices(played) == [("a", 0), ("b", 1), ("b", 1), ("a", 0), ("c", 2), ("c", 2)]
    assert played.bodies[1]["stepIndex"] == 2
    assert played.bodies[1]["accumulatedOutputs"] == {"a": "aa", "b": "bb"}


def test_step_index_of_pause_is_that_of_its_step() -> None:
    played = play(
        step(make_call("step")),
        [
            stream(STARTED, finished("a"), {**PAUSED, "stepId": "a", "stepIndex": 7}),
            stream(PAUSED),
            stream({**PAUSED, "stepId": "c"}),
            stream(COMPLETED),
        ],
    )
    pauses = [event.step_index for event in played.events if event.type == "step_paused"]
    assert pauses == [0, 1, 2]
    assert [body["stepIndex"] for body in played.bodies] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("first", "execution_id"),
    [
        ({"eventType": "run_started", "executionId": "e", "runId": "r"}, "e"),
        ({"eventType": "flow_started", "runId": "r"}, "r"),
        ({"eventType": "run_started"}, "from-pause"),
        ({"eventType": "run_started"}, None),
    ],
)
def test_run_id_is_taken_from_any_event(first: dict[str, Any], execution_id: str | None) -> None:
    pause = {"eventType": "step_paused"}
    if execution_id == "from-pause":
        pause["executionId"] = "from-pause"
    played = play(step(make_call("step")), [stream(first, finished("a"), pause), stream(COMPLETED)])
    assert played.bodies[1].get("executionId") == execution_id


@pytest.mark.parametrize(
    "end", [COMPLETED, {"eventType": "step_error", "stepId": "a", "error": {"code": "X"}}]
)
def test_stream_after_terminal_event_is_not_read(end: dict[str, Any]) -> None:
    program = step(make_call("step"))
    assert isinstance(next(program), OpenStream)
    assert isinstance(program.send(respond()), ReadChunk)
    assert program.send(frames(end, STARTED)).event_type == end["eventType"]
    with pytest.raises(StopIteration):
        next(program)


def test_stream_that_closes_early_ends_with_warning(caplog: pytest.LogCaptureFixture) -> None:
    cut = b'data: {"eventType": "flow_completed", "executionId": "e"}\n'
    played = play(step(make_call("step")), [[frames(STARTED, output("a")), cut]])
    assert types(played) == ["run_started", "step_output"]
    (record,) = caplog.records
    assert "the stream of run e closed before the run's end" in record.getMessage()


def test_stream_after_pause_is_read_and_closed() -> None:
    first = [frames(STARTED, PAUSED), b": bye\n\n"]
    played = play(step(make_call("step")), [first, stream(COMPLETED)])
    assert types(played) == ["run_started", "step_paused", "flow_completed"]
    assert played.closed == 1


@given(st.lists(st.integers(0, 400), max_size=6))
def test_stream_in_any_chunks_yields_same_events(cuts: list[int]) -> None:
    whole = frames(STARTED, started("a"), output("a", "é\u2028"), finished("a"), COMPLETED)
    marks = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[start:end] for start, end in itertools.pairwise(marks)]
    assert (
        play(step(make_call("step")), [chunks]).events
        == play(step(make_call("step")), [[whole]]).events
    )


def test_stream_that_breaks_raises_after_its_events() -> None:
    played = Played()
    with pytest.raises(APIConnectionError, match="cut") as caught:
        play(
            step(make_call("step")),
            [[frames(STARTED), b"data: {", APIConnectionError("cut")]],
            played=played,
        )
    assert types(played) == ["run_started"]
    assert caught.value.execution_id == "e"


def test_tool_handler_resumes_pause_unseen() -> None:
    played = play(
        step(
            make_call(
                "step",
                request={
                    "message": "hi",
                    "tools": TOOLS,
                    "toolChoice": "auto",
                    "runRemaining": True,
                },
                tool_handler=handler,
            )
        ),
        [
            stream(
                STARTED,
                finished("a", 0),
                started("b", 1),
                asks("b", 1, accumulatedOutputs={"z": 0}),
            ),
            stream(started("b", 0), asks("b", 0, iterationsUsed=2)),
            stream(finished("b", 0), COMPLETED),
        ],
    )
    assert "tool_calls_required" not in types(played)
    again = {
        "tools": TOOLS,
        "toolChoice": "auto",
        "runRemaining": True,
        "executionId": "e",
        "stepIndex": 1,
        "pausedAtStep": "b",
        "iterationsUsed": 1,
        "toolCallMessages": [*ASKED, {"role": "tool", "tool_call_id": "call_1", "content": "r"}],
        "accumulatedOutputs": {"a": "aa", "z": 0},
    }
    assert played.bodies[1:] == [again, {**again, "iterationsUsed": 2}]
    assert [type(signal) for signal in played.signals] == [PauseSeen, ResultsSent] * 2


def test_tool_pause_without_run_id_belongs_to_run_of_stream() -> None:
    pause = asks("a")
    del pause["executionId"]
    call = make_call("step", tool_handler=handler)
    played = play(step(call), [stream(STARTED, pause), stream(finished("a"), COMPLETED)])
    assert played.bodies[1]["executionId"] == "e"
    assert types(played)[-1] == "flow_completed"


def test_tool_rounds_of_stream_over_limit_raise() -> None:
    call = make_call("step", tool_handler=handler, max_tool_rounds=1)
    with pytest.raises(ToolCallLimitError) as caught:
        play(step(call), [stream(STARTED, asks("a")), stream(asks("a"))])
    assert caught.value.execution_id == "e"


def test_pause_without_handler_raises() -> None:
    with pytest.raises(ToolHandlerRequiredError, match="tool_handler=") as caught:
        play(step(make_call("step")), [stream(STARTED, asks("a"))])
    assert caught.value.execution_id == "e"


def resume_with(*results: list[dict[str, Any]]) -> Any:
    def on_event(event: Any) -> None:
        if isinstance(event, ToolCallsRequired):
            for result in results:
                with pytest.raises(StopIteration):
                    event.resume(tool_results=result).send(None)

    return on_event


def test_consumer_resumes_pause() -> None:
    played = play(
        step(make_call("step", manual_tools=True)),
        [stream(STARTED, asks("a", 5)), stream(finished("a"), COMPLETED)],
        on_event=resume_with([{"tool_call_id": "call_1", "output": {"x": 1}}]),
    )
    assert types(played) == [
        "run_started",
        "tool_calls_required",
        "step_completed",
        "flow_completed",
    ]
    assert played.bodies[1]["toolCallMessages"][-1]["content"] == '{"x":1}'
    assert played.bodies[1]["stepIndex"] == 5


def test_consumer_resumes_pause_twice_last_results_count() -> None:
    played = play(
        step(make_call("step", manual_tools=True)),
        [stream(STARTED, asks("a")), stream(COMPLETED)],
        on_event=resume_with([], [{"tool_call_id": "call_1", "content": "second"}]),
    )
    assert played.bodies[1]["toolCallMessages"][-1]["content"] == "second"


def test_consumer_leaves_pause_ends_stream(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        played = play(step(make_call("step", manual_tools=True)), [stream(STARTED, asks("a"))])
    assert types(played) == ["run_started", "tool_calls_required"]
    (record,) = caplog.records
    assert "run e was left paused" in record.getMessage()


def test_resume_of_event_without_stream_raises() -> None:
    event = ToolCallsRequired.model_validate_json(json.dumps(asks("a")))
    with pytest.raises(TypeError, match="tool_handler="):
        event.resume(tool_results=[]).send(None)


@pytest.mark.parametrize("stops", range(6))
def test_program_closed_anywhere_is_silent(stops: int) -> None:
    program = step(make_call("step"))
    next(program)
    program.send(respond())
    program.send(frames(STARTED, output("a"), finished("a"), PAUSED))
    for _ in range(stops):
        next(program)
    program.close()
