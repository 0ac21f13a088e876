"""A value that a recording repeats stands in its file once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk import CassetteError
from noukai_sdk.models.sessions import ToolRound
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replay.repeated_values import with_repetitions, without_repetitions

LONG = "word " * 4_000


def stream(output: Any, parts: list[str]) -> list[dict[str, Any]]:
    return [
        {"eventType": "run_started", "executionId": "e"},
        {"eventType": "step_started", "stepId": "a"},
        *({"eventType": "step_output", "stepId": "a", "outputData": part} for part in parts),
        {"eventType": "step_completed", "stepId": "a", "output": output},
        {"eventType": "flow_completed", "result": output},
    ]


def written(path: Path, recording: Recording) -> str:
    write_cassette(path, None, [recording])
    assert read_cassette(path).recordings == [recording]
    return path.read_text()


@pytest.mark.parametrize("kind", ["stream", "stream with a result", "job", "tools"])
@pytest.mark.parametrize("output", [LONG, {"a": [LONG, 1.0, True]}])
def test_repeated_value_is_written_once(tmp_path: Path, kind: str, output: Any) -> None:
    parts = [LONG[:7_000], LONG[7_000:]] if isinstance(output, str) else [json.dumps(output)]
    fields: dict[str, Any] = {"events": tuple(stream(output, parts))}
    if kind == "stream with a result":  # a session of our backend
        fields["result"] = {"status": "completed", "result": output}
    elif kind == "job":
        fields = {"statuses": ({"status": "completed", "result": output},) * 3}
    elif kind == "tools":
        paused = {"accumulatedOutputs": {"it's": output, "b": output, "'\"": 1}}
        fields["rounds"] = (ToolRound(paused=paused), ToolRound(paused=paused))
    text = written(tmp_path / "a.jsonl", Recording(slug="a", kind="step", **fields))
    assert text.startswith('{"noukai_cassette": 2,')
    once = 1 if kind == "job" or isinstance(output, str) else 2  # the parts are texts of JSON
    assert len(text) < (once + 0.1) * len(json.dumps(output)) + 2_000


def test_short_recording_is_written_as_before(tmp_path: Path) -> None:
    recording = Recording(slug="a", kind="step", events=tuple(stream("short", ["sh", "ort"])))
    text = written(tmp_path / "a.jsonl", recording)
    assert text.startswith('{"noukai_cassette": 1,')
    assert '"same"' not in text


def test_reader_of_a_value_may_change_it(tmp_path: Path) -> None:
    output = {"text": LONG}
    recording = Recording(slug="a", kind="step", events=tuple(stream(output, [])))
    write_cassette(tmp_path / "a.jsonl", None, [recording])
    *_, completed, last = read_cassette(tmp_path / "a.jsonl").recordings[0].events
    completed["output"].clear()
    assert last["result"] == output


@pytest.mark.parametrize(
    ("same", "problem"),
    [
        ("1", '"same" must be an object'),
        ('{"events[0].result": 1}', '"same" has no text for events'),
        ('{"events[0].result": "events[7].output"}', "is events.7..output, but one is not there"),
        ('{"events[0].result": "events[7-8].outputData"}', "but one is not there"),
        ('{"events[0].nope.x": "slug"}', "but one is not there"),
        ('{"events[0].result": "]"}', "but one is not there"),
    ],
)
def test_damaged_reference_names_the_line(tmp_path: Path, same: str, problem: str) -> None:
    path = tmp_path / "a.jsonl"
    line = f'{{"same": {same}, "slug": "a", "kind": "step", "events": [{{"eventType": "x"}}]}}'
    header = '{"noukai_cassette": 2, "session_id": null, "sdk": "0.2.0", "redacted": []}'
    path.write_text(f"{header}\n{line}\n")
    with pytest.raises(CassetteError, match=rf"a\.jsonl:2: .*{problem}"):
        read_cassette(path)


values = st.sampled_from(["x" * 1_000, "y" * 1_001, {"k": "x" * 1_000}, ["x" * 1_000], "", None, 1])
names = st.sampled_from(["output", "outputData", "result", "a.b", "a'b", 'a"b', "", "a]b", "same"])
events = st.lists(
    st.fixed_dictionaries(
        {"eventType": st.sampled_from(["step_output", "step_completed", "step_started", "other"])},
        optional={"stepId": st.sampled_from("ab")},
    ).flatmap(
        lambda event: st.dictionaries(names, values, max_size=3).map(lambda more: {**more, **event})
    ),
    max_size=6,
)


@given(events, st.dictionaries(names, values, max_size=3), st.data())
def test_any_recording_is_restored(
    events: list[dict[str, Any]], result: dict[str, Any], data: st.DataObject
) -> None:
    joined = "".join(e["outputData"] for e in events if isinstance(e.get("outputData"), str))
    if events and data.draw(st.booleans()):
        events.append({"eventType": "step_completed", "stepId": "a", "output": joined})
    paused = {"accumulatedOutputs": result, "same": {"x": 1}}
    recording = {"events": events, "result": result, "rounds": [{"paused": paused}]}
    before = json.dumps(recording)
    short = json.loads(json.dumps(without_repetitions(json.loads(before))))
    assert len(json.dumps(short)) <= len(before) + 2_000
    restored = with_repetitions(short) if "same" in short else short
    assert json.dumps(restored) == before
