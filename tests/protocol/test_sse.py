"""From the bytes of a stream to typed events: any cut, any line ending, the table of docs/wire.md."""

from __future__ import annotations

import itertools
import json
import logging
from typing import Any

import pytest
from hypothesis import example, given
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
    TokenBreakdown,
    ToolCallsRequired,
)
from noukai_sdk.models.events import EVENT_CLASSES, StepFailure, StreamEvent
from noukai_sdk.protocol.sse import Frame, SSEDecoder, parse_frames

ENDINGS = ("\n", "\r\n", "\r")
BOM = b"\xef\xbb\xbf"


def decode(stream: bytes, cuts: list[int] | None = None) -> list[tuple[str | None, str]]:
    """Return all frames of ``stream``, which arrives cut at ``cuts``."""
    decoder = SSEDecoder()
    marks = [0, *sorted(min(cut, len(stream)) for cut in cuts or []), len(stream)]
    frames: list[Frame] = []
    for start, end in itertools.pairwise(marks):
        frames += decoder.feed(stream[start:end])
    return [
        (name.decode("latin-1") if name else None, data.decode("utf-8", "replace"))
        for name, data in frames
    ]


# A line of data can hold everything but line ends. U+2028 and U+0085 are not line ends here.
text = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=12)
names = st.sampled_from([None, "", "step_output", "\xe9t\xe9"])
noise_lines = st.sampled_from([":", ": keep-alive", "id: 7", "retry: 500", "id", "unknown: x"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[bytes, list[tuple[str | None, str]]]:
    """Draw a stream in one of the line endings, and the frames that it holds."""
    ending = draw(st.sampled_from(ENDINGS))
    space = st.sampled_from([" ", ""])
    expected: list[tuple[str | None, str]] = []
    lines: list[bytes] = []
    for _ in range(draw(st.integers(0, 4))):
        name, data = draw(names), draw(st.lists(text, max_size=3))
        lines += [line.encode() for line in draw(st.lists(noise_lines, max_size=1))]
        if name is not None:
            lines.append(f"event:{draw(space)}{name}".encode("latin-1"))
        lines += [f"data: {line}".encode() for line in data]
        lines += [b"", *[b""] * draw(st.integers(0, 2))]
        if data:
            expected.append((name or None, "\n".join(data)))
    mark = BOM if draw(st.booleans()) else b""
    return mark + b"".join(line + ending.encode() for line in lines), expected


@given(streams(), st.data())
def test_decoder_reads_any_stream_in_any_pieces(
    stream_and_frames: tuple[bytes, list[tuple[str | None, str]]], data: st.DataObject
) -> None:
    stream, expected = stream_and_frames
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8))
    assert decode(stream, cuts) == expected


@given(st.binary(max_size=60), st.lists(st.integers(0, 60), max_size=6))
@example(b"\xef\xbb", [1])
@example(b"\r\n\r\n\r\r", [1, 2, 3])
def test_decoder_reads_any_bytes_the_same_however_cut(noise: bytes, cuts: list[int]) -> None:
    assert decode(noise, cuts) == decode(noise)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("ending", ENDINGS)
def test_decoder_joins_data_lines_cut_everywhere(ending: str, size: int) -> None:
    lines = ["event: a", 'data: {"\xe9": "\u2028", ', 'data: "b": 1}', "", ": ping", "data: 2", ""]
    stream = BOM + "".join(line + ending for line in lines).encode()
    assert decode(stream, list(range(0, len(stream), size))) == [
        ("a", '{"\xe9": "\u2028", \n"b": 1}'),
        (None, "2"),
    ]


@pytest.mark.parametrize(
    ("stream", "frames"),
    [
        (BOM + b"data: 1\n\n", [(None, "1")]),
        (b"data: 1\n\ndata: " + BOM + b"2\n\n", [(None, "1"), (None, "\ufeff2")]),
        (b"retry: 1000\n\nevent: ping\n\n: hello\n\ndata: 1\n\n", [(None, "1")]),
        (b"data: 1\n\nevent: a\ndata: 2\n", [(None, "1")]),
        (b"data:  two\ndata:none\ndata\n\n", [(None, " two\nnone\n")]),
        (b"event: a\ndata: 1\n\ndata: 2\nevent: b\n\n", [("a", "1"), ("b", "2")]),
    ],
    ids=["mark", "late mark", "no data", "cut off by the end", "spaces", "event after data"],
)
def test_decoder_reads_edge_cases_of_the_format(
    stream: bytes, frames: list[tuple[str | None, str]]
) -> None:
    assert decode(stream) == frames


def test_decoder_reads_large_frame_in_many_pieces() -> None:
    payload = json.dumps({"text": "x" * 300_000})
    stream = f"data: {payload}\n\n".encode()
    assert decode(stream, list(range(0, len(stream), 1000))) == [(None, payload)]


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

# (type on the wire, other fields of the frame, the event, its .type)
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
            tokens=TokenBreakdown(prompt=1, completion=2, total=3),
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


def parse(body: Any, name: str | None = None) -> list[StreamEvent]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return parse_frames([(name.encode() if name else None, raw)])


@pytest.mark.parametrize(("word", "rest", "event", "kind"), TABLE, ids=[row[0] for row in TABLE])
def test_event_of_the_wire_is_parsed(
    word: str, rest: dict[str, Any], event: StreamEvent, kind: str
) -> None:
    first = {"eventType": word, **rest}
    for body, name in (
        (rest, word),
        (first, None),
        ({**rest, "eventType": word}, None),
        ({**first, "new": True}, word),
        (json.dumps(first, indent=2).encode(), None),
    ):
        (parsed,) = parse(body, name)
        assert type(parsed) is type(event)
        assert parsed == event
        assert (parsed.type, parsed.event_type) == (kind, word)
        assert repr(parsed) == repr(event)  # 12 ms stays an int
    assert {row[0] for row in TABLE} == set(EVENT_CLASSES)


def test_event_line_wins_over_type_in_data() -> None:
    (parsed,) = parse({"eventType": "run_started", "runId": "r"}, "flow_started")
    assert isinstance(parsed, RunStarted)
    assert parsed.event_type == "flow_started"


def test_event_of_unknown_type_is_skipped_silently(caplog: pytest.LogCaptureFixture) -> None:
    for body in (
        {"eventType": "step_progress", "stepId": "a"},
        {"eventType": 5},
        {"eventType": ["step_output"]},
        {"stepId": "a"},
        ["eventType"],
        "step_output",
        None,
    ):
        assert parse(body) == []
    assert parse({"stepId": "a"}, "step_progress") == []
    assert not caplog.records


@pytest.mark.parametrize(
    ("name", "body", "problem"),
    [
        (None, b'{"stepId": "a", "eventType": "step_output"', "not valid JSON"),
        (None, b"hello", "not valid JSON"),
        (None, b"", "not valid JSON"),
        (None, b'{"eventType":"run_started","runId":"\xff"}', "not valid JSON"),
        (b"step_output", b'{"stepId":"a"', "step_output event: Invalid JSON"),
        (b"run_started", b'{"runId":"\xff"}', "run_started event"),
        (None, b'{"eventType":"step_output","stepId":"a"}', "outputData: Field required"),
        (None, b'{"eventType":"step_started","stepId":["private"]}', "step_started event: stepId"),
    ],
)
def test_event_that_cannot_be_parsed_is_skipped_with_warning(
    name: bytes | None, body: bytes, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = b'{"eventType":"step_output","stepId":"a","outputData":1}'
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        events = parse_frames([(name, body), (None, good)])
    assert events == [StepOutput(step_id="a", output_data=1)]
    (record,) = caplog.records
    assert record.name == "noukai_sdk"
    assert problem in record.getMessage()
    assert "private" not in record.getMessage()


@given(
    st.recursive(
        st.none() | st.booleans() | st.text() | st.integers(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
        ),
    ),
    st.sampled_from([None, *EVENT_CLASSES]),
    st.booleans(),
)
def test_event_of_any_json_never_raises(body: Any, name: str | None, typed: bool) -> None:
    if typed and isinstance(body, dict):
        body["eventType"] = name or "step_output"
    assert isinstance(parse(body, name), list)


def test_read_events_returns_none_after_the_last_chunk() -> None:
    decoder = SSEDecoder()
    assert decoder.read_events(b'event: step_output\ndata: {"stepId":"a",') == []
    assert decoder.read_events(b'"outputData":1}\n') == []
    assert decoder.read_events(b"\n") == [StepOutput(step_id="a", output_data=1)]
    assert decoder.read_events(b'data: {"eventType":"step_output","stepId":"b"}\n') == []
    assert decoder.read_events(None) is None
