"""The doctor finds each kind that is planted in an app, at its line, and nothing in a clean app."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.cli.commands import run, run_json
from tests.doctor.apps import (
    CLEAN,
    FLASK,
    HELPERS,
    PLANTED,
    marked_lines,
    overlapping,
    sequence,
    write_app,
)
from tests.support.servers import ROOT, serve_app

APP = "doctored:app"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_doctor_planted_sources_are_found_at_their_lines_by_kind(folder: Path) -> None:
    calls = [*sequence(9), *overlapping("abc", 40), *overlapping("def", 60)]
    session = write_app(folder, PLANTED, calls, {"texts": ["one", "two", "three"]})
    report = run_json("doctor", str(session), "--app", APP, "--runs", "1")
    assert report["problem"] is None
    found = {(each["file"], each["line"], each["kind"]) for each in report["findings"]}
    expected = {("doctored.py", *each) for each in marked_lines(PLANTED)}
    expected |= {("helpers.py", *each) for each in marked_lines(HELPERS)}
    assert found == expected, (found - expected, expected - found, report["notes"])
    (stamp,) = (each for each in report["findings"] if each["file"] == "helpers.py")
    assert stamp["expression"] == "datetime.utcnow()"
    assert stamp["fix"] == "noukai_sdk.now()"
    assert stamp["changes"][0]["where"] == "message of call 1 (acme/p/grade)"
    starts = {each["source"] for each in report["findings"] if each["atStart"]}
    assert len(starts) == 2
    assert all(source.startswith(("STARTED = ", "REGION = ")) for source in starts)


def test_doctor_clean_app_has_no_findings(folder: Path) -> None:
    calls = [*overlapping("abc", 0), *overlapping("def", 10), ("always, a, b, c", 20, 21)]
    session = write_app(folder, CLEAN, calls, ["a", "b", "c"])
    output = run("doctor", str(session), "--app", APP, "--runs", "2", "--fail-on-findings").stdout
    assert output.startswith("nothing found in ")
    for kind in ("time", "uuid", "random", "order of a set", "order of completion", "environment"):
        assert kind in output


def test_doctor_flask_app_with_findings_fails_if_told_to(folder: Path) -> None:
    session = write_app(folder, FLASK, overlapping("abc", 0), ["a", "b", "c"])
    words = ("doctor", str(session), "--app", APP, "--runs", "1", "--ignore", "$.ignored")
    output = run(*words, "--fail-on-findings", exit_code=1).stdout
    lines = marked_lines(FLASK)
    for line, kind in lines:
        assert f"doctored.py:{line}  {kind}  " in output
    assert output.count("  fix: ") == len(lines)
    assert "2 lines make replays differ" in output


def test_doctor_without_app_or_request_is_not_done(folder: Path) -> None:
    session = write_app(folder, "raise RuntimeError('broken')", sequence(1), [])
    result = run("doctor", str(session), "--app", APP, exit_code=2)
    assert "not examined: AppError: module doctored cannot be imported" in result.stdout
    write_app(folder, "import os\nos._exit(3)", sequence(1), [])
    result = run("doctor", str(session), "--app", APP, exit_code=2)
    assert "a run ended with code 3" in result.stdout
    write_app(folder, "while True: pass", sequence(1), [])
    result = run("doctor", str(session), "--app", APP, "--timeout", "0.3", exit_code=2)
    assert "a run did not end within 0.3 seconds" in result.stdout


def test_live_runs_are_compared_too(folder: Path, use_service: Callable[[str], None]) -> None:
    async def service(scope: Any, receive: Any, send: Any) -> None:
        message = json.loads((await receive())["body"])["message"]
        body = {"status": "completed", "result": message.upper(), "executionId": "e"}
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(body).encode()})

    session = write_app(folder, FLASK, overlapping("abc", 0), ["a", "b", "c"])
    with serve_app(service, lifespan="off") as url:
        use_service(url)
        words = ("doctor", str(session), "--app", APP, "--runs", "1", "--live")
        report = run_json(*words, "--ignore", "$.at", "--ignore", "$.ignored")
    assert [each["kind"] for each in report["findings"]] == ["order of completion"]
    assert report["runs"] > 2
