"""Test the recipes: Django on ASGI and WSGI, a Celery worker, a notebook; each captured and replayed."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.servers import (
    ROOT,
    Server,
    serve_backend,
    serve_command,
    settings_of,
    start_process,
    wait_until,
)

DJANGO = "example_apps.django_grader.main"
COMMANDS = {
    "asgi": ["python", "-m", "uvicorn", f"{DJANGO}:asgi_app", "--lifespan", "off"],
    "wsgi": ["python", "-m", "gunicorn", f"{DJANGO}:wsgi_app"],
}


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve_backend(tmp_path_factory.mktemp("backend")) as server:
        yield server


@pytest.fixture
def env(backend: Server) -> dict[str, str]:
    return {**os.environ, **settings_of(backend.api), "NOUKAI_REPLAY_ENABLED": "true"}


def model_calls(backend: Server) -> int:
    return int(httpx.get(f"{backend.url}/dev/stats").json()["modelCalls"])


@pytest.mark.parametrize("kind", COMMANDS)
def test_django_request_is_captured_and_replayed(
    kind: str, backend: Server, env: dict[str, str], tmp_path: Path
) -> None:
    port = ["--port", "{port}"] if kind == "asgi" else ["--bind", "127.0.0.1:{port}"]
    env["HOME"] = str(tmp_path)  # gunicorn makes a socket there
    with (
        serve_command([*COMMANDS[kind], *port], env=env) as server,
        httpx.Client(base_url=server.url, timeout=30, trust_env=False) as http,
    ):
        for path in ("/grade", "/grade-async", "/stream"):
            captured = http.get(path, params={"text": "Teh cat."})
            assert captured.status_code == 200, captured.text
            before = model_calls(backend)
            headers = {"X-Noukai-Replay": captured.headers["X-Noukai-Session"]}
            replayed = http.get(path, params={"text": "Teh cat."}, headers=headers)
            assert replayed.text == captured.text, replayed.text
            assert "X-Noukai-Replay-Id" in replayed.headers
            assert model_calls(backend) == before


def test_celery_task_is_session_and_header_replays_it(
    backend: Server, env: dict[str, str], tmp_path: Path
) -> None:
    env |= {"CELERY_FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-m", "celery", "-A", "example_apps.celery_worker.tasks", "worker"]
    log = tmp_path / "worker.log"
    worker = start_process(
        [*words, "--pool", "solo", "--loglevel", "INFO"], env=env, cwd=ROOT, log=log
    )

    def send(*arguments: str) -> dict[str, Any]:
        command = [sys.executable, "-m", "example_apps.celery_worker", *arguments]
        done = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr + log.read_text()
        sent: dict[str, Any] = json.loads(done.stdout)
        return sent

    try:
        captured = send("Teh cat.")
        assert captured["session"] != captured["sender"]
        assert captured["hits"] == 0
        line = f"session {captured['session']}, sent by session {captured['sender']}"
        wait_until(lambda: line in log.read_text())
        before = model_calls(backend)
        replayed = send("Teh cat.", captured["session"])
        assert (replayed["result"], replayed["hits"]) == (captured["result"], 1)
        assert model_calls(backend) == before
    finally:
        worker.terminate()
        worker.wait(30)


def test_notebook_cells_run(
    backend: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in settings_of(backend.api).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    notebook = json.loads((ROOT / "example_apps/notebook/grading.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    namespace: dict[str, Any] = {}

    async def run() -> None:
        # As Jupyter does: in an event loop, with await at the top level.
        for cell in cells:
            code = compile(cell, "cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            value = eval(code, namespace)
            if inspect.isawaitable(value):
                await value

    asyncio.run(run())
    assert namespace["replay"].report.summary().startswith("hits=2; misses=0")
    assert capsys.readouterr().out.startswith("correct ")
