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
from noukai_sdk.protocol.program import CloseStream, OpenStream, PauseSeen, ReadChunk, ResultsSent
from noukai_sdk.protocol.stepping import step
from tests.support.stepping import Played, a_call, answer, frames, play

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


def test_the_service_waits_between_steps_and_the_client_goes_on() -> None:
    request = {
        "message": "hi",
        "parameters": {"p": 1},
        "attachments": [],
        "blockOverrides": {"b": {}},
        "inputOverrides": {"b": 1},
    }
    played = play(
        step(a_call("step", request=request, session_id="s1", extra_headers={"X-Mine": "1"})),
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
def test_step_index_counts_from_the_start_of_the_flow(
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

    played = play(step(a_call("step", tool_handler=handler)), streams)
    numbered = dict.fromkeys(indices(played))
    assert list(numbered) == [("a", 0), ("b", 1), ("c", 2), ("d", 3)]
    asked = [body["stepIndex"] for body in played.bodies]
    if run_remaining:
        assert asked == ([0, 2] if tools else [0])
    else:
        assert asked == ([0, 1, 2, 2, 3] if tools else [0, 1, 2, 3])


def test_a_step_that_is_skipped_keeps_its_number() -> None:
    played = play(
        step(a_call("step")),
        [stream(STARTED, finished("a", 0), PAUSED), stream(finished("c", 2), COMPLETED)],
    )
    assert indices(played) == [("a", 0), ("c", 2)]


def test_a_group_of_steps_in_one_call() -> None:
    played = play(
        step(a_call("step")),
        [
            stream(STARTED, started("a"), started("b"), finished("b"), finished("a"), PAUSED),
            stream(started("c", 0), finished("c"), COMPLETED),
        ],
    )
    assert indices(played) == [("a", 0), ("b", 1), ("b", 1), ("a", 0), ("c", 2), ("c", 2)]
    assert played.bodies[1]["stepIndex"] == 2
    assert played.bodies[1]["accumulatedOutputs"] == {"a": "aa", "b": "bb"}


def test_a_pause_is_counted_too() -> None:
    played = play(
        step(a_call("step")),
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
    ],
)
def test_the_run_is_known_by_either_name(first: dict[str, Any], execution_id: str) -> None:
    pause = {"eventType": "step_paused"}
    if execution_id == "from-pause":
        pause["executionId"] = "from-pause"
    played = play(step(a_call("step")), [stream(first, finished("a"), pause), stream(COMPLETED)])
    assert played.bodies[1]["executionId"] == execution_id


def test_a_run_without_a_name_is_asked_for_without_one() -> None:
    played = play(step(a_call("step")), [stream({"eventType": "step_paused"}), stream(COMPLETED)])
    assert "executionId" not in played.bodies[1]


@pytest.mark.parametrize(
    "end", [COMPLETED, {"eventType": "step_error", "stepId": "a", "error": {"code": "X"}}]
)
def test_the_end_closes_the_stream_and_reads_no_further(end: dict[str, Any]) -> None:
    program = step(a_call("step"))
    assert isinstance(next(program), OpenStream)
    assert isinstance(program.send(answer()), ReadChunk)
    assert program.send(frames(end, STARTED)).event_type == end["eventType"]
    assert isinstance(next(program), CloseStream)
    with pytest.raises(StopIteration):
        next(program)


def test_a_stream_that_just_closes_is_the_end() -> None:
    assert types(play(step(a_call("step")), [stream(STARTED, output("a"))])) == [
        "run_started",
        "step_output",
    ]


def test_a_stream_is_read_to_its_end_after_a_pause() -> None:
    first = [frames(STARTED, PAUSED), b": bye\n\n"]
    played = play(step(a_call("step")), [first, stream(COMPLETED)])
    assert types(played) == ["run_started", "step_paused", "flow_completed"]
    assert played.closed == 2


@given(st.lists(st.integers(0, 400), max_size=6))
def test_the_cut_of_the_chunks_changes_nothing(cuts: list[int]) -> None:
    whole = frames(STARTED, started("a"), output("a", "é\u2028"), finished("a"), COMPLETED)
    marks = [0, *sorted(min(cut, len(whole)) for cut in cuts), len(whole)]
    chunks = [whole[start:end] for start, end in itertools.pairwise(marks)]
    assert (
        play(step(a_call("step")), [chunks]).events == play(step(a_call("step")), [[whole]]).events
    )


def test_a_cut_stream_is_an_error_after_what_came_before() -> None:
    played = Played()
    with pytest.raises(APIConnectionError, match="cut") as caught:
        play(
            step(a_call("step")),
            [[frames(STARTED), b"data: {", APIConnectionError("cut")]],
            played=played,
        )
    assert types(played) == ["run_started"]
    assert caught.value.execution_id == "e"


def test_a_handler_answers_and_its_pause_is_not_seen() -> None:
    played = play(
        step(
            a_call(
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
    assert [type(note) for note in played.notes] == [PauseSeen, ResultsSent] * 2


def test_the_rounds_of_a_stream_are_counted() -> None:
    call = a_call("step", tool_handler=handler, max_tool_rounds=1)
    with pytest.raises(ToolCallLimitError) as caught:
        play(step(call), [stream(STARTED, asks("a")), stream(asks("a"))])
    assert caught.value.execution_id == "e"


def test_a_pause_that_nobody_can_answer() -> None:
    with pytest.raises(ToolHandlerRequiredError, match="tool_handler=") as caught:
        play(step(a_call("step")), [stream(STARTED, asks("a"))])
    assert caught.value.execution_id == "e"


def resume_with(*results: list[dict[str, Any]]) -> Any:
    def on_event(event: Any) -> None:
        if isinstance(event, ToolCallsRequired):
            for result in results:
                with pytest.raises(StopIteration):
                    event.resume(tool_results=result).send(None)

    return on_event


def test_the_consumer_answers_a_pause() -> None:
    played = play(
        step(a_call("step", manual_tools=True)),
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


def test_the_last_answer_counts() -> None:
    played = play(
        step(a_call("step", manual_tools=True)),
        [stream(STARTED, asks("a")), stream(COMPLETED)],
        on_event=resume_with([], [{"tool_call_id": "call_1", "content": "second"}]),
    )
    assert played.bodies[1]["toolCallMessages"][-1]["content"] == "second"


def test_a_pause_that_the_consumer_leaves_ends_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        played = play(step(a_call("step", manual_tools=True)), [stream(STARTED, asks("a"))])
    assert types(played) == ["run_started", "tool_calls_required"]
    (record,) = caplog.records
    assert "run e was left paused" in record.getMessage()


def test_an_event_of_no_stream_cannot_be_resumed() -> None:
    event = ToolCallsRequired.model_validate_json(json.dumps(asks("a")))
    with pytest.raises(TypeError, match="tool_handler="):
        event.resume(tool_results=[]).send(None)


@pytest.mark.parametrize("stops", range(6))
def test_closing_it_anywhere_is_silent(stops: int) -> None:
    program = step(a_call("step"))
    next(program)
    program.send(answer())
    program.send(frames(STARTED, output("a"), finished("a"), PAUSED))
    for _ in range(stops):
        next(program)
    program.close()
