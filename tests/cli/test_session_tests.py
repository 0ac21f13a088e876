"""Test ``noukai session test``: the tests that it writes pass, and fail when the code is broken."""

from __future__ import annotations

import ast
import asyncio
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    CapturedRequestError,
    Noukai,
    ReplayLeftoverError,
    trace_scope_sync,
)
from noukai_sdk.models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replaying.apps import interface_of, load_app
from noukai_sdk.testing import AppError, send_captured_request
from tests.cli.commands import run, run_json
from tests.support.servers import ROOT, serve_backend, serve_command, wait_until

FASTAPI = """
import asyncio
import time
from contextlib import asynccontextmanager

from fastapi import BackgroundTasks, FastAPI, Request
from fastapi.responses import StreamingResponse

from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import instrument

noukai = AsyncNoukai(org="acme", project="samples")


@asynccontextmanager
async def lifespan(app):
    yield {"greeting": "hello"}


app = instrument(FastAPI(lifespan=lifespan), client=noukai, capture_requests=True)


@app.post("/grade")
async def grade(texts: list[str], request: Request, tasks: BackgroundTasks) -> dict:
    flow = noukai.flow("hello-world")
    results = await asyncio.gather(*(flow.execute(message=text) for text in texts))

    async def later():
        await flow.execute(message="later")

    tasks.add_task(later)
    return {"greeting": request.state.greeting, "grades": [each.result for each in results]}


@app.get("/stream")
async def stream() -> StreamingResponse:
    async def parts():
        async for event in noukai.flow("hello-world").events(message="a"):
            yield f"data: {event.type}\\n\\n"

    return StreamingResponse(parts(), media_type="text/event-stream")


@app.get("/timed")
async def timed() -> dict:
    await noukai.flow("hello-world").execute(message=f"It is {time.time()}.")
    return {"ok": True}


@app.get("/boom")
async def boom() -> None:
    await noukai.flow("hello-world").execute(message="boom")
    raise RuntimeError("a bug")
"""

FLASK = """
from flask import Flask, request

from noukai_sdk import Noukai
from noukai_sdk.adapters.flask import init_noukai_trace


def create_app(greeting):
    noukai = Noukai(org="acme", project="samples")
    app = Flask(__name__)
    init_noukai_trace(app, client=noukai, capture_requests=True)

    @app.post("/förm")
    def form():
        result = noukai.flow("hello-world").execute(message=request.form["text"])
        return {"greeting": greeting, "result": result.result}

    return app


app = create_app("hello")
"""

# What is broken in the FastAPI app, and what the test then says.
BROKEN = (
    ("each.result for", 'each.result + "!" for', '$.grades[0]: captured "'),
    ("for text in texts", 'for text in [*texts, "more"]', "ReplayMissError: no recording answers"),
    ("tasks.add_task", "id", "ReplayLeftoverError: the replay ended with 1 recording unplayed"),
    ("message=text", "message=text.upper()", "+ ONE"),
    ("flow = noukai", 'raise KeyError("broken"); flow = noukai', "KeyError: 'broken'"),
)


def run_pytest(folder: Path, *words: str) -> str:
    """Run the tests in a folder, without a service or a key, and return the output."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:asyncio"]
    # From another folder: the app is found beside the test.
    env = {"PYTHONPATH": str(ROOT), "PATH": "", "NOUKAI_BASE_URL": "http://127.0.0.1:9"}
    result = subprocess.run(
        [*command, *words, str(folder)], cwd=folder, env=env, capture_output=True, text=True
    )
    return result.stdout + result.stderr


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as backend:
        yield backend.api


@pytest.fixture
def project(
    tmp_path: Path, api: str, use_service: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """A folder with two apps; it is the current folder, and the apps can be imported anew."""
    use_service(api)
    (tmp_path / "spelling_app.py").write_text(FASTAPI)
    (tmp_path / "flask_app.py").write_text(FLASK)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in ("spelling_app", "flask_app"):
        sys.modules.pop(name, None)


def stored_session(api: str, response: httpx.Response) -> str:
    """Return the session of a response, when its request is stored."""
    session_id = response.headers["X-Noukai-Session"]
    stored = f"{api}/seq/sessions/{session_id}/exchange"
    headers = {"Authorization": "Bearer nk_dev"}
    wait_until(lambda: httpx.get(stored, headers=headers).status_code == 200)
    return session_id


def test_written_tests_pass_and_fail_when_the_app_is_broken(project: Path, api: str) -> None:
    uvicorn = ["python", "-m", "uvicorn", "spelling_app:app", "--port", "{port}"]
    flask = ["python", "-m", "flask", "--app", "flask_app", "run", "--port", "{port}"]
    env = {"PYTHONPATH": str(ROOT)}
    with (
        serve_command(uvicorn, cwd=project, env=env) as spelling,
        serve_command(flask, cwd=project, env=env) as forms,
    ):
        requests = {
            "grade": httpx.post(f"{spelling.url}/grade", json=["one", "two"]),
            "stream": httpx.get(f"{spelling.url}/stream"),
            "boom": httpx.get(f"{spelling.url}/boom"),
            "timed": httpx.get(f"{spelling.url}/timed"),
            "form": httpx.post(f"{forms.url}/förm", data={"text": "thrée"}),
        }
        ids = {name: stored_session(api, response) for name, response in requests.items()}
    for name, session_id in ids.items():
        app = 'flask_app:create_app("hello")' if name == "form" else "spelling_app:app"
        written = run_json("test", session_id, "--app", app, "-o", f"tests/test_{name}.py")
        assert written["passes"], written
        source = (project / written["test"]).read_text()
        # An input that differs from run to run must not fail the test: the clock is held.
        assert (written["drift"], written["freeze"]) == ([], name == "timed")
        assert 'drift="error"' in source
        assert ("freeze=True" in source) == (name == "timed")
        assert read_cassette(written["cassette"]).exchange is not None
        assert written["command"] == f"python -m pytest tests/test_{name}.py"
    tests = project / "tests"
    ruff = [
        sys.executable,
        "-m",
        "ruff",
        "check",
        "--isolated",
        "--select",
        "E,F,I,UP,PT",
        str(tests),
    ]
    subprocess.run(ruff, check=True, capture_output=True)
    ruff[3:] = ["format", "--isolated", "--check", str(tests)]
    subprocess.run(ruff, check=True, capture_output=True)
    assert "5 passed" in run_pytest(tests)

    # One run for all the ways in which the code is broken: each has a project of its own.
    broken = project / "broken"
    for number, (old, new, _) in enumerate(BROKEN):
        folder = broken / str(number)
        shutil.copytree(tests / "cassettes" / "test_grade", folder / "cassettes" / f"test_{number}")
        source = (tests / "test_grade.py").read_text().replace("spelling_app", f"spelling_{number}")
        (folder / f"test_{number}.py").write_text(source)
        (folder / f"spelling_{number}.py").write_text(FASTAPI.replace(old, new))
    output = run_pytest(broken, "--tb=short")
    assert f"{len(BROKEN)} failed" in output
    for _, _, text in BROKEN:
        assert text in output


def test_written_test_takes_headers_body_and_ignored_paths(project: Path) -> None:
    (project / "plain_app.py").write_text(
        "import itertools\n"
        "numbers = itertools.count()\n"
        "async def app(scope, receive, send):\n"
        "    body = (await receive())['body'].decode()\n"
        "    headers = {name.decode(): value.decode() for name, value in scope['headers']}\n"
        '    text = f\'{{"id": {next(numbers)}, "by": "{headers["authorization"]}"}}\'\n'
        "    start = {'type': 'http.response.start', 'status': 200, 'headers': []}\n"
        "    await send(start)\n"
        "    await send({'type': 'http.response.body', 'body': text.encode()})\n"
    )
    request = CapturedRequest(
        method="POST",
        origin="http://a",
        path='/"""\\x',
        body=CapturedBody(text='{"pin": "[redacted]"}', size=20),
        redacted=("header authorization", "body $.pin"),
    )
    response = CapturedResponse(status=200, body=CapturedBody(text='{"id": 7, "by": "me"}', size=3))
    write_cassette("a.jsonl", "s-1", [], exchange=Exchange(request=request, response=response))

    words = ("test", "a.jsonl", "--app", "plain_app:app", "-o", "tests/test_a.py")
    assert "secrets were masked in the request" in run(*words, exit_code=2).stderr
    assert not (project / "tests").exists()
    (project / "body.json").write_text('{"pin": "it\'s 1"}')
    words += ("-d", "@body.json")
    failed = run(*words, exit_code=1).stdout
    assert "The test does not pass:\n  POST" in failed
    assert "KeyError: 'authorization'" in failed
    assert "removed or masked at capture: header authorization" in failed
    assert failed.endswith("Run it: python -m pytest tests/test_a.py\n")
    assert "exists: use --force" in run(*words, exit_code=2).stderr
    words += ("--force", "-H", "Authorization: me", "--ignore", "$.id")
    assert run_json(*words)["passes"]
    source = (project / "tests/test_a.py").read_text()
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    [call] = [each for each in calls if isinstance(each.func, ast.Name)]
    assert ast.literal_eval(call.keywords[1].value) == '{"pin": "it\'s 1"}'
    assert "1 passed" in run_pytest(project / "tests")


def test_session_that_no_test_can_send_is_refused(project: Path) -> None:
    (project / "no_app.py").write_text("import json\nvalue = 1\ndef make():\n    return 1 / 0\n")
    (project / "bad_app.py").write_text('import os\nos.environ["DATABASE_URL"]\n')
    with Noukai() as client, trace_scope_sync(client=client) as scope:
        client.flow("acme/samples/hello-world").execute(message="a")
    words = ("--app", "spelling_app:app", "-o", "tests/test_a.py")
    message = run("test", str(scope.session_id), *words, exit_code=2).stderr
    assert "was captured without its request: pass capture_requests=True" in message

    def captured(**fields: Any) -> str:
        request = CapturedRequest(method="GET", origin="http://a", path="/a", **fields)
        exchange = Exchange(request=request, response=CapturedResponse(status=200))
        write_cassette("a.jsonl", "s-1", [], exchange=exchange)
        return "a.jsonl"

    cut = captured(body=CapturedBody(text="a", size=9, truncated=True))
    assert "only the first part of its body" in run("test", cut, *words, exit_code=2).stderr
    captured()
    for app, problem in (
        ("main", "does not name an app: write 'module:attribute'"),
        ("main:", "does not name an app"),
        ("main:app[0]", "does not name an app"),
        ("main:app(x)", "does not name an app"),
        ("../main:app", "does not name an app"),
        ("no_such_module:app", "No module named 'no_such_module'"),
        ("bad_app:app", "KeyError: 'DATABASE_URL'"),
        ("no_app:app", "has no app"),
        ("no_app:value", "neither an ASGI nor a WSGI app"),
        ("no_app:make", "write its call"),
        ("no_app:make()", "ZeroDivisionError"),
    ):
        options = ("--app", app, "-o", "tests/test_a.py")
        assert problem in run("test", "a.jsonl", *options, exit_code=2).stderr
    not_python = run("test", "a.jsonl", "--app", "spelling_app:app", "-o", "tests", exit_code=2)
    assert "not the name of a Python file" in not_python.stderr
    assert not (project / "tests").exists()


def test_interfaces_of_apps_are_told_apart(project: Path) -> None:
    class Asgi:
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    class Wsgi:
        def __call__(self, environ: Any, start_response: Any, /, debug: bool = False) -> Any: ...

    def double(scope: Any, receive: Any, send: Any) -> Any: ...

    for app in (Asgi(), Asgi().__call__, double, load_app("spelling_app:app")):
        assert interface_of(app) == "asgi"
    for app in (
        Wsgi(),
        Wsgi().__call__,
        load_app("flask_app:app"),
        load_app("flask_app:app.wsgi_app"),
    ):
        assert interface_of(app) == "wsgi"
    for app in (Asgi, lambda: None, object()):
        with pytest.raises(AppError, match="neither"):
            interface_of(app)


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    """A cassette with one call, and a request that failed before it had a response."""
    call = Recording(
        slug="hello-world", kind="execute", result={"result": "r", "status": "completed"}
    )
    request = CapturedRequest(method="GET", origin="http://a", path="/a")
    exchange = Exchange(request=request, response=CapturedResponse())
    write_cassette(tmp_path / "one.jsonl", "s-1", [call], exchange=exchange)
    return tmp_path / "one.jsonl"


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_send_captured_request_without_marker_replays_in_a_scope_of_its_own(
    interface: str, cassette: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 1

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            raise NotImplementedError
        for _ in range(calls):
            await AsyncNoukai().flow("acme/samples/hello-world").execute(message="a")
        raise RuntimeError("a bug")

    def wsgi(environ: Any, start_response: Any) -> Any:
        for _ in range(calls):
            Noukai().flow("acme/samples/hello-world").execute(message="a")
        raise RuntimeError("a bug")

    app = asgi if interface == "asgi" else wsgi
    replayed = send_captured_request(app, cassette)
    replayed.assert_unchanged()
    assert repr(replayed.failure) == "RuntimeError('a bug')"

    async def in_event_loop() -> None:
        send_captured_request(app, cassette).assert_unchanged()

    asyncio.run(in_event_loop())
    calls = 0
    with pytest.raises(ReplayLeftoverError):
        send_captured_request(app, cassette)
    with pytest.raises(TypeError, match="which cassette"):
        send_captured_request(app)
    write_cassette(cassette, None, [])
    with pytest.raises(CapturedRequestError, match="no captured request"):
        send_captured_request(app, cassette)


def test_app_that_does_not_start_is_an_error(cassette: Path) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "no database"})

    with pytest.raises(AppError, match="does not start: no database"):
        send_captured_request(app, cassette)


@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_stream_that_client_left_is_left_again(interface: str, tmp_path: Path) -> None:
    closed = []

    async def asgi(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            while True:
                await send({"type": "http.response.body", "body": b"tick\n", "more_body": True})
        finally:
            closed.append((await receive(), await receive())[1]["type"])

    def wsgi(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        try:
            while True:
                yield b"tick\n"
        finally:
            closed.append("http.disconnect")

    body = CapturedBody(text="tick\ntick\n", size=10, complete=False)
    request = CapturedRequest(method="GET", origin="http://a", path="/a")
    exchange = Exchange(request=request, response=CapturedResponse(status=200, body=body))
    write_cassette(tmp_path / "a.jsonl", "s-1", [], exchange=exchange)
    app = asgi if interface == "asgi" else wsgi
    replayed = send_captured_request(app, tmp_path / "a.jsonl")
    replayed.assert_unchanged()
    assert replayed.response.content == b"tick\ntick\n"
    assert closed == ["http.disconnect"]
