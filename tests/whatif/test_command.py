"""``noukai session whatif``: alone, through an app in this process, and through a running one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from noukai_sdk import Noukai, recorded, trace_scope_sync
from noukai_sdk.cli.commands import noukai as commands
from noukai_sdk.protocol.session_extensions import fetch_exchange
from noukai_sdk.transport import background
from tests.support.servers import ROOT, Server, serve_app, settings_of, wait_until

from .conftest import Provider
from .shop_app import create_app

pytestmark = pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")

APP = "tests.whatif.shop_app:create_app()"

Session = tuple[str, dict[str, Any]]


@pytest.fixture(scope="module")
def app_url(backend: Server) -> Iterator[str]:
    with serve_app(create_app(base_url=backend.api, api_key="nk_dev")) as url:
        yield url


@pytest.fixture
def captured(app_url: str, noukai: Noukai) -> Session:
    """A session with its captured request, and the response."""
    response = httpx.post(f"{app_url}/review", json=["a cat", "a dog"], timeout=60)
    background.flush()
    session_id = response.headers["X-Noukai-Session"]
    transport = noukai._transport
    wait_until(lambda: transport.run(fetch_exchange(transport.service, session_id)))
    return session_id, response.json()


@pytest.fixture
def run() -> Callable[..., Result]:
    def run(*words: str) -> Result:
        return CliRunner().invoke(commands, ["session", "whatif", *words])

    return run


def test_calls_alone_with_variance_over_runs(
    run: Callable[..., Result], captured: Session, provider: Provider, noukai: Noukai
) -> None:
    session_id, response = captured
    start = len(provider.requests)
    words = ("--live", "reply", "--set", "temperature=0", "--model", "openai:small", "--runs", "3")
    result = run(session_id, *words, "--json")
    assert result.exit_code == 0, result.output
    assert "3 live calls, 1 call in each of 3 runs" in result.stderr
    assert {each[:2] for each in provider.requests[start:]} == {("small", 0)}
    found = json.loads(result.stdout)
    [call] = found["calls"]
    assert call["recorded"]["output"] == response["reply"]
    assert call["spread"]["tokensOut"] == {
        "runs": 3, "mean": 3.0, "min": 3.0, "max": 3.0, "standardDeviation": 0.0,
    }  # fmt: skip
    assert sorted(run for each in call["answers"] for run in each["runs"]) == [1, 2, 3]
    assert call["answers"][0]["changes"][0]["recorded"] == response["reply"]
    sessions = {each["sessionId"] for each in found["runs"]}
    assert len(sessions) == 3
    assert session_id not in sessions

    # Each session is whole: the other calls are those of the recorded one.
    first = found["runs"][0]
    with trace_scope_sync(replay_session_id=first["sessionId"], client=noukai) as scope:
        grades = [noukai.flow("grade").execute(text).result for text in ("a cat", "a dog")]
        assert grades == response["grades"]
        reply = noukai.flow("reply").execute(f"on {grades[-1]}").result
    assert reply == first["calls"][0]["live"]["output"]
    assert scope.report.clean

    text = run(session_id, *words).stdout
    for part in (
        "reply call 1",
        "live: completed 3x, openai:small",
        "run 3",
        "range",
        "- reply by",
    ):
        assert part in text, text


def test_recorded_functions_belong_to_the_sessions_of_the_runs_too(
    run: Callable[..., Result], noukai: Noukai
) -> None:
    rows = iter(range(10))

    @recorded
    def row() -> int:
        return next(rows)

    def work() -> tuple[int, Any]:
        number = row()
        return number, noukai.flow("reply").execute(f"row {number}").result

    with trace_scope_sync(client=noukai) as scope:
        work()
    background.flush()
    with trace_scope_sync(replay_session_id=scope.session_id, client=noukai) as replay:
        replay.whatif("reply", model="openai:small")
        forked = work()
    background.flush()
    assert scope.session_id is not None
    alone = run(scope.session_id, "--live", "reply", "--model", "openai:small", "--json")
    assert alone.exit_code == 0, alone.output
    [once] = json.loads(alone.stdout)["runs"]
    answers = {replay.session_id: forked[1], once["sessionId"]: once["calls"][0]["live"]["output"]}
    for session_id, answer in answers.items():
        with trace_scope_sync(replay_session_id=session_id, client=noukai) as again:
            assert work() == (0, answer)
        assert again.report.clean


@pytest.mark.parametrize("way", ["app", "server"])
def test_through_an_app_that_sees_the_live_answer(
    run: Callable[..., Result], captured: Session, provider: Provider, app_url: str, way: str
) -> None:
    session_id, response = captured
    words = ("--app", APP) if way == "app" else ("--against", app_url)
    start = len(provider.requests)
    result = run(session_id, "--live", "grade#2", "--message", "a fish", *words, "--json")
    assert result.exit_code == 0, result.output
    assert [each[2][:13] for each in provider.requests[start:]] == [
        "Check: a fish",
        "Score: check ",
    ]
    [once] = json.loads(result.stdout)["runs"]
    [call] = once["calls"]
    assert call["number"] == 2
    received = json.loads(once["response"]["body"])
    assert received["grades"] == [response["grades"][0], call["live"]["output"]]
    assert (
        received["reply"] == response["reply"]
    )  # served, although it was asked about another text
    assert "drift=1" in once["response"]["report"]
    assert [each["where"] for each in once["response"]["differences"]] == ["$.grades[1]"]

    start = len(provider.requests)
    step = run(session_id, "--live", "grade#1/score", "--model", "openai:small", *words)
    assert step.exit_code == 0, step.output
    assert [each[0] for each in provider.requests[start:]] == ["small"]
    assert "replayed as recorded" in step.stdout
    assert "grade call 1, step score" in step.stdout


def test_failing_and_impossible_calls(run: Callable[..., Result], captured: Session) -> None:
    session_id, _ = captured
    failed = run(session_id, "--live", "reply", "--model", "nobody:x")
    assert failed.exit_code == 1, failed.output
    assert "unknown model" in failed.stdout
    for words, problem in (
        (("--live", "other"), "the session has no call other: it has grade, reply"),
        (("--live", "grade#9"), "the session has no call grade#9"),
        (("--live", "reply", "--set", "heat=1"), "'heat' is not a setting of a step"),
        (("--live", "grade/none"), "flow 'grade' has no step 'none': it has check, score, shout"),
        (("--live", "reply", "--app", "a:b", "--against", "http://x"), "exclude each other"),
        (("--live", "reply", "--app", "no_such_module:app"), "cannot be imported"),
    ):
        result = run(session_id, *words)
        assert result.exit_code == 2, (words, result.output)
        assert problem in result.output, (words, result.output)


def test_ctrl_c_prints_the_runs_that_have_ended(
    captured: Session, provider: Provider, backend: Server, tmp_path: Path
) -> None:
    session_id, _ = captured
    provider.hold(1)
    command = [sys.executable, "-m", "noukai_sdk.cli", "session", "whatif", session_id]
    command += ["--live", "reply", "--runs", "3", "--most", "1", "--json"]
    env = {**os.environ, **settings_of(backend.api), "PYTHONPATH": str(ROOT)}
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=err, cwd=tmp_path)
        try:
            wait_until(lambda: len(provider.requests) > provider.holds_from)
            process.send_signal(signal.SIGINT)
            assert process.wait(60) == 130
        finally:
            provider.release()
            process.kill()
            process.wait()
        out.seek(0)
        found = json.loads(out.read())
    assert [each["problem"] for each in found["runs"]] == [None, "stopped"]
    assert found["runs"][0]["calls"][0]["live"]["status"] == "completed"
