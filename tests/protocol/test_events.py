"""From frames to typed events: the table of docs/wire.md, and what is left out."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import (
    FlowCompleted,
    RunStarted,
    StepCompleted,
    StepFailed,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    Tokens,
    ToolCallsRequired,
)
from noukai_sdk.models.events import EVENT_CLASSES, StepFailure, StreamEvent
from noukai_sdk.protocol.sse import SSEDecoder, parse_frames

CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
PAUSE = {
    "executionId": "e",
    "stepId": "a",
    "stepIndex": 2,
    "iterationsUsed": 1,
    "toolCallMessages": [{"role": "user", "content": "hi"}],
    "toolCalls": [CALL],
    "accumulatedOutputs": {"z": 1},
}

# (the wire's word, the rest of the frame, the event, its .type)
TABLE: list[tuple[str, dict[str, Any], StreamEvent, str]] = [
    (
        "run_started",
        {"runId": "r", "executionId": "e", "flowId": "f", "stepCount": 2},
        RunStarted(run_id="r", execution_id="e", flow_id="f", step_count=2),
        "run_started",
    ),
    (
        "flow_started",
        {"runId": "r"},
        RunStarted(event_type="flow_started", run_id="r"),
        "run_started",
    ),
    (
        "step_started",
        {"stepId": "a", "name": "A", "stepIndex": 0},
        StepStarted(step_id="a", name="A", step_index=0),
        "step_started",
    ),
    (
        "step_input",
        {"stepId": "a", "inputData": [1]},
        StepInput(step_id="a", input_data=[1]),
        "step_input",
    ),
    (
        "step_output",
        {"stepId": "a", "outputData": "Hel"},
        StepOutput(step_id="a", output_data="Hel"),
        "step_output",
    ),
    (
        "step_completed",
        {
            "stepId": "a",
            "name": "A",
            "output": {"x": [1]},
            "durationMs": 12,
            "tokens": {"prompt": 1, "completion": 2, "total": 3},
            "costUsd": "0.001234",
            "stepIndex": 0,
        },
        StepCompleted(
            step_id="a",
            name="A",
            output={"x": [1]},
            duration_ms=12,
            tokens=Tokens(prompt=1, completion=2, total=3),
            cost_usd="0.001234",
            step_index=0,
        ),
        "step_completed",
    ),
    (
        "step_error",
        {"stepId": "a", "error": {"code": "X", "message": "no"}},
        StepFailed(step_id="a", error=StepFailure(code="X", message="no")),
        "step_error",
    ),
    (
        "step_error",
        {"stepId": "a", "error": "no"},
        StepFailed(step_id="a", error=StepFailure(message="no")),
        "step_error",
    ),
    (
        "step_completed",
        {"stepId": "a", "output": None, "costUsd": 1e-06},
        StepCompleted(step_id="a", output=None, cost_usd="0.000001"),
        "step_completed",
    ),
    (
        "step_completed",
        {"stepId": "a", "output": None, "costUsd": 2},
        StepCompleted(step_id="a", output=None, cost_usd="2"),
        "step_completed",
    ),
    ("step_paused", {"executionId": "e"}, StepPaused(execution_id="e"), "step_paused"),
    (
        "step_paused_for_tool_calls",
        PAUSE,
        ToolCallsRequired(
            execution_id="e",
            step_id="a",
            step_index=2,
            iterations_used=1,
            tool_call_messages=[{"role": "user", "content": "hi"}],
            tool_calls=[CALL],
            accumulated_outputs={"z": 1},
        ),
        "tool_calls_required",
    ),
    (
        "flow_completed",
        {"executionId": "e", "result": None, "summary": {"n": 1}},
        FlowCompleted(execution_id="e", result=None, summary={"n": 1}),
        "flow_completed",
    ),
]


def parsed(body: Any, name: str | None = None) -> list[StreamEvent]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_frames([(name.encode() if name else None, raw)])


@pytest.mark.parametrize(("word", "rest", "event", "kind"), TABLE, ids=[row[0] for row in TABLE])
@pytest.mark.parametrize("named", ["by the event line", "first", "last", "indented"])
def test_every_event_of_the_wire(
    word: str, rest: dict[str, Any], event: StreamEvent, kind: str, named: str
) -> None:
    frame: Any = {**rest, "eventType": word}
    if named == "by the event line":
        frame = rest
    elif named == "first":
        frame = json.dumps({"eventType": word, **rest}, separators=(",", ":")).encode()
    elif named == "indented":
        frame = json.dumps({"eventType": word, **rest}, indent=2).encode()
    (read,) = parsed(frame, word if named == "by the event line" else None)
    assert type(read) is type(event)
    assert read == event
    assert (read.type, read.event_type) == (kind, word)


def test_the_table_is_complete() -> None:
    assert {row[0] for row in TABLE} == set(EVENT_CLASSES)


def test_the_event_line_is_the_type_where_both_are_there() -> None:
    (read,) = parsed({"eventType": "run_started", "runId": "r"}, "flow_started")
    assert isinstance(read, RunStarted)
    assert read.event_type == "flow_started"


def test_whole_milliseconds_stay_whole() -> None:
    (read,) = parsed({"eventType": "step_completed", "stepId": "a", "output": 1, "durationMs": 12})
    assert isinstance(read, StepCompleted)
    assert f"{read.duration_ms}ms" == "12ms"


@pytest.mark.parametrize(
    "body",
    [
        {"eventType": "step_progress", "stepId": "a"},
        {"eventType": "loop_completed"},
        {"eventType": 5},
        {"stepId": "a"},
        ["eventType"],
        "step_output",
        None,
    ],
)
def test_what_the_client_does_not_know_is_ignored_in_silence(
    body: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert parsed(body) == []
    assert parsed({"stepId": "a"}, "step_progress") == []
    assert not caplog.records


def test_unknown_fields_are_ignored() -> None:
    (read,) = parsed({"eventType": "step_output", "stepId": "a", "outputData": 1, "new": True})
    assert read == StepOutput(step_id="a", output_data=1)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"stepId": "a", "eventType": "step_output"', "no JSON"),
        (b'{"eventType": "step_output", "stepId"', "step_output event: Invalid JSON"),
        (b"hello", "no JSON"),
        (b"", "no JSON"),
        (
            b'{"eventType":"step_output","stepId":"a"}',
            "step_output event: outputData: Field required",
        ),
        (b'{"eventType":"step_output","stepId":"a"', "step_output event: Invalid JSON"),
        (b'{"eventType":"step_started","stepId":["private"]}', "step_started event: stepId"),
        (b'{"eventType":"run_started","runId":"\xff"}', "run_started event"),
    ],
)
def test_what_cannot_be_read_is_skipped_with_a_warning(
    body: bytes, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = b'{"eventType":"step_output","stepId":"a","outputData":1}'
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        events = parse_frames([(None, body), (None, good)])
    assert events == [StepOutput(step_id="a", output_data=1)]
    (record,) = caplog.records
    assert record.name == "noukai_sdk"
    assert said in record.getMessage()
    assert "private" not in record.getMessage()


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
    ),
    st.sampled_from([None, *EVENT_CLASSES]),
)
def test_no_json_breaks_the_reader(body: Any, name: str | None) -> None:
    assert isinstance(parsed(body, name), list)


def test_reading_chunk_by_chunk_to_the_end() -> None:
    decoder = SSEDecoder()
    assert decoder.read_events(b'event: step_output\ndata: {"stepId":"a",') == []
    assert decoder.read_events(b'"outputData":1}\n') == []
    assert decoder.read_events(None) == [StepOutput(step_id="a", output_data=1)]
    assert decoder.read_events(None) is None
