"""``noukai sessions replay``: captured requests through an app of now, and what differs, by its cause."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from click.testing import CliRunner, Result

from noukai_sdk import Noukai, trace_scope_sync
from noukai_sdk.batch import workers
from noukai_sdk.cli.commands import noukai
from noukai_sdk.replay.cassette_file import write_cassette
from tests.support.captured import captured
from tests.support.servers import serve_app, serve_backend, wait_until

FASTAPI = """
import asyncio
import contextvars
import os
import time
from datetime import datetime
from pathlib import Path

from fastapi import FastAPI, Header, HTTPException

from noukai_sdk import AsyncNoukai, Noukai
from noukai_sdk.adapters.fastapi import instrument

noukai = AsyncNoukai(org="acme", project="samples")
app = instrument(FastAPI(), client=noukai, capture_requests=True)


@app.post("/grade")
async def grade(texts: list[str]) -> dict:
    flow = noukai.flow("hello-world")
    first = (await flow.execute(message=f"Check {texts[0]}")).result
    others = await asyncio.gather(*(flow.execute(message=text) for text in texts))
    return {"grade": len(texts), "first": first, "others": [each.result for each in others]}


@app.get("/boom")
async def boom() -> None:
    await noukai.flow("hello-world").execute(message="boom")
    raise RuntimeError("a bug")


@app.post("/held")
async def held(body: dict) -> dict:
    with open("served.txt", "a") as served:
        print(os.getpid(), body["texts"][0], file=served)
    while Path("hold").exists() and not body["texts"][0].startswith("0"):
        await asyncio.sleep(0.01)
    return {"results": [await one(text) for text in body["texts"]]}


async def one(text: str) -> str:
    return (await AsyncNoukai(org="acme", project="p").flow("upper").execute(message=text)).result


@app.post("/all")
async def all_texts(body: dict) -> dict:
    return {"results": [await one(text) for text in body["texts"]]}


@app.post("/private")
async def private(body: dict, authorization: str = Header("")) -> dict:
    if authorization != "Bearer test":
        raise HTTPException(401)
    return await all_texts(body)


@app.post("/clock")
async def clock(body: dict) -> dict:
    return {**await all_texts(body), "year": datetime.now().year}


@app.post("/exits")
async def exits(body: dict) -> dict:
    print("out of memory")
    os._exit(3)


@app.post("/blocks")
async def blocks(body: dict) -> dict:
    time.sleep(60)
    return {}


async def wait_for(name):
    while not Path(name).exists():
        await asyncio.sleep(0.01)


@app.post("/busy")
async def busy(body: dict) -> dict:
    alone = Path("began").exists()
    Path("began").touch()
    return {**await all_texts(body), **({} if alone else {"first": True})}


@app.post("/loses")
async def loses(body: dict) -> dict:
    await wait_for("beside")
    results = await all_texts(body)
    call = Noukai(org="acme", project="p").flow("upper").execute
    try:
        contextvars.Context().run(call, message="lost")
    except Exception:
        Path("lost").touch()
    return results


@app.post("/beside")
async def beside(body: dict) -> dict:
    Path("beside").touch()
    await wait_for("lost")
    return await all_texts(body)
"""

FLASK = """
from flask import Flask, request

from noukai_sdk import Noukai
from noukai_sdk.adapters.flask import init_noukai_trace

app = Flask(__name__)
noukai = Noukai(org="acme", project="p")
init_noukai_trace(app, client=noukai, capture_requests=True)


@app.post("/all")
def all_texts():
    flow = noukai.flow("upper")
    return {"results": [flow.execute(message=text).result for text in request.get_json()["texts"]]}
"""


@pytest.fixture(scope="module")
def backend_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server.api


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a project, the current one, with an app of each kind."""
    (tmp_path / "main.py").write_text(FASTAPI)
    (tmp_path / "flask_app.py").write_text(FLASK)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words: str, exit_code: int = 0, stdin: str | None = None) -> Result:
    words = ("sessions", "replay", "--workers", "1", *words)
    # pytest-xdist sets a narrow one.
    result = CliRunner(env={"COLUMNS": "160"}).invoke(
        noukai, words, catch_exceptions=False, input=stdin
    )
    assert result.exit_code == exit_code, result.output
    return result


def run_json(*words: str, exit_code: int = 0, stdin: str | None = None) -> Any:
    return json.loads(run(*words, "--json", "-", exit_code=exit_code, stdin=stdin).stdout)


def causes(found: Any) -> list[tuple[int, str, str]]:
    return [(each["count"], each["status"], each["text"]) for each in found["causes"]]


def app_of(folder: Path) -> Any:
    spec = util.spec_from_file_location("captured_main", folder / "main.py")
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def edit(folder: Path, before: str, after: str) -> None:
    path = folder / "main.py"
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def line_of(folder: Path, text: str) -> str:
    lines = (folder / "main.py").read_text().splitlines()
    return f"main.py:{next(number for number, line in enumerate(lines, 1) if text in line)}"


def write_sessions(folder: Path, *paths: str, masked: tuple[str, ...] = ()) -> list[str]:
    names = []
    for number, path in enumerate(paths):
        file = captured(number, path)
        name = f"{number}.jsonl"
        assert file.exchange is not None
        request = file.exchange.request.model_copy(update={"redacted": masked})
        exchange = file.exchange.model_copy(update={"request": request})
        write_cassette(folder / name, f"s-{number}", file.recordings, exchange=exchange)
        names.append(name)
    return names


def test_30_sessions_are_equal_until_an_edit_whose_causes_are_counted(
    backend_url: str, use_service: Callable[[str], None], folder: Path
) -> None:
    use_service(backend_url)
    run("--app", "main:app", "--flow", "no-such-flow", exit_code=2)
    hostile = "<script>alert(1)</script>\x1b[31m"
    with serve_app(app_of(folder)) as url, httpx.Client(base_url=url) as client:
        for number in range(28):
            client.post("/grade", json=[f"{number} {hostile}", "b", "c", "d"])
        client.get("/boom")
    with trace_scope_sync(), Noukai(org="acme", project="samples") as plain:
        plain.flow("hello-world").execute(message="no request")
    sessions = f"{backend_url}/seq/sessions?limit=100"
    headers = {"Authorization": "Bearer nk_dev"}

    def stored() -> tuple[int, int]:
        rows = httpx.get(sessions, headers=headers).json()["sessions"]
        done = [each for each in rows if each["request"] and each["status"] != "running"]
        return len(done), sum(each["calls"] for each in done)

    wait_until(lambda: stored() == (29, 28 * 5 + 1))

    files = ("--junit", "r.xml", "--html", "r.html")
    found = run_json("--app", "main:app", "--since", "1h", *files)
    assert (found["counts"]["equal"], found["counts"]["skipped"]) == (29, 1), causes(found)
    assert causes(found) == [(1, "skipped", "captured without its request")]

    edit(folder, "Check {", "Please check {")
    edit(folder, '"grade": len(texts)', '"grade": len(texts) + 1')
    edit(
        folder,
        '    return {"grade"',
        '    assert "3" not in texts[0].split()[0]\n    return {"grade"',
    )
    shown = run("--app", "main:app", "--limit", "28", *files, "--json", "r.json", exit_code=1)
    found = json.loads((folder / "r.json").read_text())
    site = line_of(folder, "Please check")
    drift = f"call 1 of acme/samples/hello-world: message differs at {site}"
    failure = f"AssertionError at {line_of(folder, 'assert')}"
    # Of 3, 13 and 23; the newest of the 29 sessions is /boom.
    assert causes(found) == [
        (3, "error", failure),
        (27, "drifted", drift),
        (24, "changed", "$.grade differs"),
        (1, "skipped", "captured without its request"),
    ]
    assert (found["counts"]["drifted"], found["counts"]["error"]) == (24, 3)
    assert f"27  drifted  {drift}" in shown.stdout
    assert "--only-failed" in shown.stdout
    assert "\x1b" not in shown.stdout

    suite = ElementTree.parse(folder / "r.xml").getroot()  # our own file
    assert (suite.tag, suite.get("tests"), suite.get("failures")) == ("testsuites", "29", "24")
    cases = suite.findall("testsuite/testcase")
    assert len(cases) == len({each.get("name") for each in cases}) == 29
    assert {each.get("classname") for each in cases} == {"POST /grade", "GET /boom", "session"}
    kinds = [child.tag for each in cases for child in each]
    assert (kinds.count("failure"), kinds.count("error"), len(kinds)) == (24, 3, 28)
    page = (folder / "r.html").read_text()
    assert drift in page
    assert "<script" not in page
    assert "&lt;script&gt;" in page

    edit(folder, "Please check {", "Check {")
    fixed = run_json("--only-failed", "--ignore", "$.grade", "--fail-on", "drifted,changed")
    assert (fixed["counts"]["equal"], fixed["counts"]["error"]) == (24, 3)
    named = [each["session"] for each in fixed["sessions"] if each["result"] == "error"]
    state = (folder / ".noukai" / "sessions-replay.jsonl").read_bytes()
    # Few sessions are shown in full, and leave the state as it is.
    alone = run("-", "--app", "main:app", stdin=f"{named[0]}\n", exit_code=1)
    assert "texts[0].split()[0]" in alone.stdout
    assert (folder / ".noukai" / "sessions-replay.jsonl").read_bytes() == state


def test_flask_app_replays_cassette_files_without_a_service(folder: Path) -> None:
    names = write_sessions(folder, "/all", "/all", "/all")
    found = run_json(*names, "--app", "flask_app:app", "--concurrency", "3")
    assert found["counts"]["equal"] == 3
    (folder / "flask_app.py").write_text(FLASK.replace("message=text", "message=text[::-1]"))
    found = run_json(*names, "--app", "flask_app:app", exit_code=1)
    place = f"flask_app.py:{FLASK[: FLASK.index('flow.execute')].count(chr(10)) + 1}"
    expected = f"calls 1-4 of upper: message differs at {place}"
    assert causes(found) == [(3, "drifted", expected)]


def test_removed_header_is_named_and_can_be_given_and_freeze_holds_the_clock(folder: Path) -> None:
    (name,) = write_sessions(folder, "/private", masked=("header authorization",))
    shown = run(name, "--app", "main:app", exit_code=1)
    assert "missed  the app responded with 401" in shown.stdout
    assert "missed  calls 1-4 of upper: removed" in shown.stdout
    assert "removed or masked at capture: header authorization (-H adds a header)" in shown.stdout
    for number in (1, 2):
        results = [f"R{number}-{call}" for call in range(4)]
        file = captured(number, "/clock", answer={"results": results, "year": 1970})
        write_cassette(f"{number}.jsonl", f"s-{number}", file.recordings, exchange=file.exchange)
    header = ("-H", "Authorization: Bearer test")
    found = run_json(name, "1.jsonl", "2.jsonl", "--app", "main:app", "--freeze", *header)
    assert found["counts"]["equal"] == 3


def test_running_app_replays_only_if_it_says_that_it_does(
    backend_url: str,
    use_service: Callable[[str], None],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use_service(backend_url)
    app = app_of(folder)
    with serve_app(app) as url:
        session_id = httpx.post(f"{url}/grade", json=["a"]).headers["X-Noukai-Session"]
        stored = f"{backend_url}/seq/sessions/{session_id}/exchange"
        headers = {"Authorization": "Bearer nk_dev"}
        wait_until(lambda: httpx.get(stored, headers=headers).status_code == 200)
        refused = run(session_id, "--against", url, exit_code=2)
        assert "does not replay, so no request was sent" in refused.stderr
        monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
        found = run_json(session_id, "no-such-session", "--against", url)
        assert (found["counts"]["equal"], found["counts"]["skipped"]) == (1, 1)
    assert "cannot be reached" in run(session_id, "--against", url, exit_code=2).stderr


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_run_that_was_ended_goes_on_with_what_is_left(folder: Path, how: signal.Signals) -> None:
    names = write_sessions(folder, *["/held"] * 5)
    (folder / "hold").touch()
    served = folder / "served.txt"
    words = [sys.executable, "-m", "noukai_sdk.cli", "sessions", "replay", *names]
    state = folder / ".noukai" / "sessions-replay.jsonl"
    with subprocess.Popen(
        [*words, "--app", "main:app", "--workers", "1", "--concurrency", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        wait_until(
            lambda: state.exists() and len(state.read_bytes().splitlines()) == 2, deadline=90
        )
        wait_until(lambda: len(served.read_text().splitlines()) == 3, deadline=90)
        process.send_signal(how)
        output, _ = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 2
        assert "1 session in" in output
        assert "interrupted after 1 of 5 sessions: --resume goes on" in output
    worker = int(served.read_text().split()[0])
    wait_until(lambda: not _runs(worker), what="the worker ends with its parent")
    (folder / "hold").unlink()
    served.unlink()
    if how == signal.SIGINT:
        edit(folder, "a bug", "another bug")
    else:
        with state.open("ab") as file:
            file.write(b'{"source": "1.js')  # a line that was cut
    resumed = run("--resume", "--json", "r.json")
    assert json.loads((folder / "r.json").read_text())["counts"]["equal"] == 5
    again = sorted(line.split()[1] for line in served.read_text().splitlines())
    first = 0 if how == signal.SIGINT else 1
    assert again == [f"{number}-0" for number in range(first, 5)]
    assert ("the app has changed since" in resumed.stderr) == (how == signal.SIGINT)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_app_that_exits_or_blocks_is_told_and_the_other_sessions_go_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = write_sessions(folder, "/all", "/exits", "/all")
    found = run_json(*names, "--app", "main:app", exit_code=1)
    assert causes(found) == [(1, "error", "the app ended its process: out of memory")]
    assert found["counts"]["equal"] == 2
    monkeypatch.setattr(workers, "HEARTBEAT", 0.5)
    blocked = write_sessions(folder, "/blocks")
    found = run_json(*blocked, "--app", "main:app", "--timeout", "0.5", exit_code=1)
    assert causes(found) == [(1, "error", "the app blocked its event loop for 3 seconds")]


def test_sessions_that_differ_only_beside_others_are_replayed_again_alone(folder: Path) -> None:
    names = write_sessions(folder, "/loses", "/beside", "/busy")
    found = run_json(*names, "--app", "main:app", exit_code=1)
    place = line_of(folder, "Context().run")
    expected = f"call 1 of upper: made outside of the scope at {place}"
    assert causes(found) == [(1, "missed", expected)]
    assert [each["result"] for each in found["sessions"]] == ["missed", "equal", "equal"]


def test_service_that_is_not_reached_is_told_once_and_nothing_is_kept(
    use_service: Callable[[str], None], folder: Path
) -> None:
    use_service("http://127.0.0.1:9/api/v1")
    ended = run("s-1", "s-2", "s-3", "s-4", "--app", "main:app", exit_code=2)
    assert "4  error   the service cannot be reached" in ended.stdout
    assert "4 sessions could not be fetched: --resume tries again" in ended.stderr
    state = folder / ".noukai" / "sessions-replay.jsonl"
    assert len(state.read_text().splitlines()) == 1


def test_wrong_words_and_apps_are_explained(folder: Path) -> None:
    (name,) = write_sessions(folder, "/all")
    for words, message in (
        ((name,), "name the app: --app main:app"),
        ((name, "--freeze", "--against", "http://localhost"), "--freeze needs --app"),
        ((name, "--app", "main:nothing"), "module main has no nothing"),
        ((name, "--app", "main:app", "--failed"), "--failed selects sessions, and so does"),
        (("--resume",), "there is no earlier run to go on with"),
        (("--resume", name), "--resume repeats the sessions of the last run"),
        ((name, "--app", "main:app", "--fail-on", "all"), "all: use changed, drifted"),
        (("missing.jsonl", "--app", "main:app"), "missing.jsonl: no such file"),
    ):
        assert message in run(*words, exit_code=2).stderr
