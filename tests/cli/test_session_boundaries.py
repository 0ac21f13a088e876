"""Test what ``noukai session`` prints of recorded functions, from cassette files."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.boundaries.failures import encode_error
from noukai_sdk.boundaries.values import encode, encode_arguments
from noukai_sdk.models.boundaries import Boundary
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from tests.cli.commands import run, run_json

ISBN = encode_arguments({"isbn": "0441013597", "session": object()})


def called(name: str, start: float, end: float | None, **values: Any) -> Boundary:
    times = [
        None if second is None else datetime.fromtimestamp(second, timezone.utc).isoformat()
        for second in (start, end)
    ]
    return Boundary(name=name, position=0, started_at=times[0], completed_at=times[1], **values)


@pytest.fixture
def cassette(tmp_path: Path) -> str:
    call = Recording(
        slug="grade-3",
        kind="execute",
        request={"message": "Grade it"},
        result={"status": "completed", "result": "4 of 5"},
        started_at=101.0,
        completed_at=102.0,
    )
    boundaries = [
        called("books.load", 100, 100.5, arguments=ISBN, result=encode((1, 2)), site="main.py:41"),
        called("rates.fetch", 101.5, 101.7, arguments={}, error=encode_error(KeyError("EUR"))),
        called("red \x1b[31m", 103, None, arguments={"x": "\x1b[2J"}),
    ]
    path = tmp_path / "a.jsonl"
    write_cassette(path, "s-1", [call], boundaries=boundaries)
    return str(path)


def test_show_marks_recorded_functions_in_time_order(
    cassette: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    output = run("show", cassette).stdout
    table, times = output.split("start", 1)
    assert table.index("books.load") < table.index("grade-3") < table.index("rates.fetch")
    assert times.index("books.load") < times.index("grade-3") < times.index("rates.fetch")
    assert "1,000.0 ms" in times  # the call began one second after the first function
    assert output.count("ƒ") == 6
    assert "\x1b" not in output

    output = run("show", cassette, "--full").stdout
    assert "ƒ  books.load  recorded  500.0 ms  main.py:41" in output
    assert "arguments:\nisbn='0441013597', session=<object>\nresult:\n(1, 2)" in output
    assert "error:\nKeyError: 'EUR'" in output
    assert "error:\nthe request ended before this call" in output
    assert "1  grade-3  execute" in output
    assert "\x1b" not in output


def test_show_cuts_a_long_list_of_recorded_functions(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    write_cassette(path, "s", [], boundaries=[called("now", at, at) for at in range(203)])
    output = run("show", str(path)).stdout
    assert output.count("ƒ") == 400  # in the table, and in the waterfall
    assert output.endswith("and 3 more calls of recorded functions: --full has all\n")
    assert run("show", str(path), "--full").stdout.count("ƒ") == 203


def test_show_json_has_boundaries_beside_numbered_calls(cassette: str) -> None:
    shown = run_json("show", cassette)
    assert [call["number"] for call in shown["calls"]] == [1]
    assert shown["calls"][0]["startMs"] == 0
    assert [each["name"] for each in shown["boundaries"]][:2] == ["books.load", "rates.fetch"]
    assert shown["boundaries"][0]["result"] == {"$type": "tuple", "$items": [1, 2]}
    assert "boundaries" not in run_json("show", cassette, "--call", "1")


def test_pull_keeps_recorded_functions(cassette: str, tmp_path: Path) -> None:
    path = tmp_path / "pulled.jsonl"
    output = run("pull", cassette, "-o", str(path)).stdout
    assert "1 call and 3 calls of recorded functions of session s-1" in " ".join(output.split())
    assert read_cassette(path).boundaries == read_cassette(cassette).boundaries


def test_diff_tells_changed_results_arguments_and_errors(
    cassette: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    file = read_cassette(cassette)
    load, rate, _ = file.boundaries
    changed = [
        load.model_copy(update={"result": encode((1, 3)), "arguments": {"isbn": "7"}}),
        rate.model_copy(update={"error": encode_error(KeyError("USD"))}),
    ]
    other = tmp_path / "b.jsonl"
    write_cassette(other, "s-2", file.recordings, boundaries=changed)
    assert run("diff", cassette, cassette).stdout == "no differences\n"
    found = run_json("diff", cassette, str(other), exit_code=1)["differences"]
    assert {each["kind"] for each in found} == {"recorded"}
    assert [(each["slug"], each["what"]) for each in found] == [
        ("books.load", "input.arguments"),
        ("books.load", "result"),
        ("rates.fetch", "error"),
        ("red \x1b[31m", "call"),
    ]
    output = run("diff", cassette, str(other), exit_code=1).stdout
    assert "(1, 3)" in output
    assert "KeyError: 'USD'" in output
    assert "\x1b" not in output
