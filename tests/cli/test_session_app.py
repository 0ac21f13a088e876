"""Test ``noukai session replay --app``: requests of real servers, replayed in this process a day later."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx
import pytest
import time_machine

from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replaying.apps import load_app
from tests.cli.commands import run, run_json
from tests.cli.test_session_tests import run_pytest, stored_session
from tests.support.servers import ROOT, serve_app, serve_backend, serve_wsgi, settings_of

FASTAPI = """
import itertools
import random
import time
import uuid
from datetime import datetime

from fastapi import FastAPI

import noukai_sdk
from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import instrument

print("the app is imported")
numbers = itertools.count()
noukai = AsyncNoukai(org="acme", project="samples")
app = instrument(FastAPI(), client=noukai, capture_requests=True)


@app.post("/plan")
async def plan(topic: str, order: str = "") -> dict:
    print("the app responds")
    flow = noukai.flow("hello-world")
    today = await flow.execute(message=f"Plan {topic} for {datetime.now():%A, %Y-%m-%d}.")
    if topic == "unique":
        await flow.execute(message=f"{uuid.uuid4()} {random.random()}")
    if topic == "counted":
        await flow.execute(message=f"Plan number {next(numbers)}.")
    if topic == "seen":
        await flow.execute(message=f"{order} {uuid.uuid4()} {datetime.now().isoformat()}")
        await flow.execute(message=f"{time.time()}")
        return {"id": uuid.uuid4().hex, "at": str(datetime.utcnow())}
    if topic == "recorded":
        values = noukai_sdk.now(), noukai_sdk.uuid4(), noukai_sdk.random()
        await flow.execute(message=str(values))
    if topic == "paused":
        breakpoint()
    if topic == "broken":
        raise KeyError("planted")
    return {"plan": today.result, "topic": topic}
"""

FLASK = """
import random
import uuid
from datetime import date

from flask import Flask

from noukai_sdk import Noukai
from noukai_sdk.adapters.flask import init_noukai_trace

noukai = Noukai(org="acme", project="samples")
app = Flask(__name__)
init_noukai_trace(app, client=noukai, capture_requests=True)


@app.post("/plan")
def plan():
    flow = noukai.flow("hello-world")
    flow.execute(message=f"Plan for {date.today()}.")
    return {"plan": flow.execute(message=f"{uuid.uuid4()} {random.random()}").result}
"""

NEXT_DAY = """
from datetime import timedelta

import pytest
import time_machine


@pytest.fixture(autouse=True)
def next_day():
    with time_machine.travel(timedelta(days=1)):
        yield
"""

TOPICS = ("dated", "unique", "counted", "recorded", "seen", "paused", "broken")


@pytest.fixture(scope="module")
def sessions(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The sessions of requests to both apps, by topic; the apps are in the current folder."""
    project = tmp_path_factory.mktemp("project")
    (project / "fastapi_plans.py").write_text(FASTAPI)
    (project / "flask_plans.py").write_text(FLASK)
    found: dict[str, str] = {}
    with (
        serve_backend(tmp_path_factory.mktemp("backend")) as backend,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in {**settings_of(backend.api), "PYTHONBREAKPOINT": "0"}.items():
            patch.setenv(name, value)
        patch.chdir(project)
        patch.syspath_prepend(project)
        plans, forms = load_app("fastapi_plans:app"), load_app("flask_plans:app")
        with serve_app(plans) as url, serve_wsgi(forms) as flask_url, httpx.Client() as client:
            for topic in TOPICS:
                order = "0d6bf7ee-0f2c-4b9a-8d4c-3b1d0f6f9a11"
                response = client.post(f"{url}/plan", params={"topic": topic, "order": order})
                found[topic] = stored_session(backend.api, response)
            found["flask"] = stored_session(backend.api, client.post(f"{flask_url}/plan"))
        yield {**found, "project": str(project), "api": backend.api}
        sys.modules["flask_plans"].noukai.close()
        for name in ("fastapi_plans", "flask_plans"):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def next_day(sessions: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A day has passed since the requests were captured."""
    for name, value in settings_of(sessions["api"]).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(sessions["project"])
    with time_machine.travel(datetime.now(timezone.utc) + timedelta(days=1)):
        yield


def replay(session: str, app: str, *words: str, exit_code: int) -> dict[str, Any]:
    outcome: dict[str, Any] = run_json("replay", session, "--app", app, *words, exit_code=exit_code)
    del outcome["replayId"]
    return outcome


def test_replay_in_app_drifts_with_the_clock_unless_it_is_frozen(sessions: dict[str, str]) -> None:
    app = "fastapi_plans:app"
    drifted = replay(sessions["dated"], app, exit_code=1)
    assert drifted["report"] == "hits=1; misses=0; drift=1; leftovers=0"
    assert any(line.strip().startswith("- Plan dated") for line in drifted["problems"])
    assert drifted["differences"] == []
    held = replay(sessions["dated"], app, "--freeze", exit_code=0)
    assert held["report"] == "hits=1; misses=0; drift=0; leftovers=0"
    assert json.loads(held["body"])["topic"] == "dated"


def test_recorded_values_are_those_of_production_in_a_frozen_replay(
    sessions: dict[str, str],
) -> None:
    held = replay(sessions["recorded"], "fastapi_plans:app", "--freeze", exit_code=0)
    assert held["report"].endswith("misses=0; drift=0; leftovers=0")


def test_uuids_and_times_of_production_are_found_in_what_it_sent(sessions: dict[str, str]) -> None:
    drifted = replay(sessions["seen"], "fastapi_plans:app", exit_code=1)
    assert drifted["report"] == "hits=3; misses=0; drift=3; leftovers=0"
    assert len(drifted["differences"]) == 2
    held = replay(sessions["seen"], "fastapi_plans:app", "--freeze", exit_code=0)
    assert held["report"] == "hits=3; misses=0; drift=0; leftovers=0"
    assert held["differences"] == []


@pytest.mark.parametrize("name", ["unique", "flask"])
def test_frozen_replays_agree_byte_for_byte(name: str, sessions: dict[str, str]) -> None:
    app = "flask_plans:app" if name == "flask" else "fastapi_plans:app"
    first, second = (replay(sessions[name], app, "--freeze", exit_code=1) for _ in range(2))
    assert first == second
    # The random number of production is not known; the date is.
    assert first["report"] == "hits=2; misses=0; drift=1; leftovers=0"
    live = replay(sessions[name], app, exit_code=1)
    assert live["report"] == "hits=2; misses=0; drift=2; leftovers=0"
    assert live["problems"] != replay(sessions[name], app, exit_code=1)["problems"]


def test_breakpoint_and_prints_of_the_app_stay_apart_from_the_outcome(
    sessions: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["session", "replay", sessions["paused"], "--app", "fastapi_plans:app", "--json"]
    command = [sys.executable, "-m", "noukai_sdk.cli", *words, "--freeze"]
    monkeypatch.delenv("PYTHONBREAKPOINT")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    typed = "p topic + '!'\nc\n"
    result = subprocess.run(command, input=typed, capture_output=True, text=True)
    assert json.loads(result.stdout)["result"] == "clean", result.stderr
    for text in ("the app is imported\n", "the app responds\n", "-> if topic ==", "'paused!'"):
        assert text in result.stderr


def test_exception_of_the_app_is_shown_with_its_traceback(sessions: dict[str, str]) -> None:
    words = ("replay", sessions["broken"], "--app", "fastapi_plans:app", "--freeze")
    output = run(*words).stdout  # it failed in production, too
    assert output.startswith("replayed as recorded\nHTTP 500  hits=1;")
    assert "in plan\n      raise KeyError(\"planted\")\n  KeyError: 'planted'\n" in output
    assert "the app responds" not in output


def test_request_to_the_app_is_edited_as_one_to_a_server(
    sessions: dict[str, str], tmp_path: Path
) -> None:
    words = (sessions["dated"], "fastapi_plans:app", "--freeze")
    missing = replay(*words, "-X", "GET", exit_code=1)
    assert missing["report"] == "hits=0; misses=0; drift=0; leftovers=1"
    body = replay(*words, exit_code=0)["body"]
    (tmp_path / "other.json").write_text(body.replace("dated", "other"))
    expected = ("--expect", str(tmp_path / "other.json"))
    assert len(replay(*words, *expected, exit_code=1)["differences"]) == 2
    ignored = ("--ignore", "$.topic", "--ignore", "$.plan")
    assert replay(*words, *expected, *ignored, exit_code=0)["differences"] == []
    drifted = ("replay", *words[:1], "--app", words[1], "--strict", "--json")
    assert json.loads(run(*drifted, exit_code=1).stdout)["report"].startswith("hits=0; misses=1")


def test_options_that_exclude_each_other_are_refused(
    sessions: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("replay", sessions["dated"])
    app = (*words, "--app", "fastapi_plans:app")
    for options, problem in (
        ((*words, "--freeze"), "--freeze needs --app"),
        ((*app, "--against", "http://localhost:1"), "--app excludes URL and --against"),
        ((*app, "--freeze", "--live-from", "1"), "--freeze excludes calls that go live"),
        ((*words, "--app", "no_such_module:app"), "No module named 'no_such_module'"),
        ((*words, "--app", "fastapi_plans:noukai"), "neither an ASGI nor a WSGI app"),
    ):
        assert problem in " ".join(run(*options, exit_code=2).stderr.split())
    # An address in the environment is for replays without --app.
    monkeypatch.setenv("NOUKAI_APP_URL", "http://localhost:1")
    run(*app, "--freeze")
    path = tmp_path / "a.jsonl"
    run("pull", sessions["dated"], "-o", str(path))
    run("replay", str(path), "--app", "fastapi_plans:app", "--freeze")
    write_cassette(path, "s-1", read_cassette(path).recordings)
    failed = run("replay", str(path), "--app", "fastapi_plans:app", exit_code=2).stderr
    assert "was captured without its request" in failed
    monkeypatch.setitem(sys.modules, "time_machine", None)
    assert "pip install time-machine" in run(*app, "--freeze", exit_code=2).stderr


def test_written_tests_of_a_date_and_of_a_uuid_pass_on_another_day(
    sessions: dict[str, str], tmp_path: Path
) -> None:
    folder, sources = tmp_path / "cassettes", []
    for topic in ("dated", "unique"):
        path = tmp_path / f"test_{topic}.py"
        written = run_json("test", sessions[topic], "--app", "fastapi_plans:app", "-o", str(path))
        assert (written["passes"], written["freeze"]) == (True, True)
        # The random number of production is not known. The test has that of the held replay.
        assert written["inputsHeld"] == bool(written["drift"]) == (topic == "unique")
        sources.append(path.read_text())
        assert '@pytest.mark.noukai_cassette(drift="error")' in sources[-1]
        assert 'send_captured_request("fastapi_plans:app", freeze=True)' in sources[-1]
    # A number that no held clock holds is allowed to change.
    words = ("--app", "fastapi_plans:app", "-o", str(tmp_path / "test_counted.py"))
    written = run_json("test", sessions["counted"], *words)
    assert (written["passes"], written["freeze"], written["inputsHeld"]) == (True, False, False)
    assert "@pytest.mark.noukai_cassette\n" in (tmp_path / "test_counted.py").read_text()
    (tmp_path / "test_real_clock.py").write_text(sources[0].replace("freeze=True", "freeze=False"))
    shutil.copytree(folder / "test_dated", folder / "test_real_clock")
    (tmp_path / "fastapi_plans.py").write_text(FASTAPI)
    (tmp_path / "conftest.py").write_text(NEXT_DAY)
    output = run_pytest(tmp_path)
    assert "1 failed, 3 passed" in output
    assert "FAILED test_real_clock.py" in output
    # A change of the prompt with the uuid is noticed.
    (tmp_path / "fastapi_plans.py").write_text(FASTAPI.replace("uuid4()} {", "uuid4()}, {"))
    assert "FAILED test_unique.py" in run_pytest(tmp_path, "-k", "unique or dated")
