"""Clients that go away, and a backend that stops: each run ends or is marked as ended."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from noukai_sdk.backend.access import Access
from noukai_sdk.backend.bodies import parse_body
from noukai_sdk.backend.routes.flows import step
from noukai_sdk.local.engine.step_context import Emit
from noukai_sdk.models.events import StepStarted
from tests.support.servers import wait_until

from .backends import Backend, lines, parse, serving

MESSAGE = {"message": "hello"}
GATED = "/seq/acme/tests/gated"
STEP = {"json": {**MESSAGE, "runRemaining": True}, "headers": {"X-Session-Id": "left"}}


def ended(backend: Backend, session_id: str) -> dict[str, Any]:
    """Return the one run of a session, when it has ended."""

    def look() -> dict[str, Any] | None:
        [execution] = backend.session(session_id)
        return execution if execution["completedAt"] else None

    return wait_until(look, what="the run's end") or {}


def send_part(backend: Backend, length: int, body: str) -> socket.socket:
    """Send an execute call whose body may be shorter than its Content-Length."""
    host, port = backend.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)))
    connection.sendall(
        f"POST /api/v1{GATED}/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nk_dev\r\n"
        f"X-Session-Id: gone\r\nContent-Length: {length}\r\n\r\n{body}".encode()
    )
    return connection


def test_step_stream_abandoned_cancels_run_and_model(fresh: Backend) -> None:
    seen = []
    with fresh.client.stream("POST", f"{GATED}/step", **STEP) as response:
        for event in lines(response):
            seen.append(event)
            if event.get("outputData") == "waiting ":
                break
    execution = ended(fresh, "left")
    assert execution["status"] == "cancelled"
    assert execution["errorAtStep"] == "held"
    assert execution["events"] == seen
    assert [s["status"] for s in execution["steps"]] == ["completed", "failed"]
    assert fresh.fakes.left.wait(30)
    assert fresh.service.runs.active(execution["executionId"]) is None
    response = fresh.post("tests/gated/step", {"executionId": execution["executionId"]})
    assert response.status_code == 409
    live = fresh.get(f"{GATED}/runs/{execution['executionId']}/trace/stream")
    assert parse(live.text) == seen


def test_step_stream_closed_at_flow_completed_is_completed(fresh: Backend) -> None:
    """Our client does not read past flow_completed."""
    with fresh.client.stream("POST", "/seq/acme/tests/three/step", **STEP) as response:
        for event in lines(response):
            if event["eventType"] == "flow_completed":
                break
    [execution] = fresh.session("left")
    assert execution["status"] == "completed"


def test_step_stream_never_started_cancels_run(fresh: Backend) -> None:
    names = {"org": "acme", "project": "tests", "slug": "three"}
    headers = {"authorization": "Bearer nk_dev", "x-session-id": "never"}
    scope = {
        "type": "http",
        "asgi": {"spec_version": "2.4"},
        "app": fresh.app,
        "path_params": names,
        "state": {"access": Access("acme")},
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b'{"message": "hello"}'}

    async def gone(*_: Any) -> Any:
        raise OSError("the connection is closed")

    async def call() -> None:
        response = await step(Request(scope, receive))
        await response(scope, gone, gone)

    loop = fresh.service.store._writer._task.get_loop()
    asyncio.run_coroutine_threadsafe(call(), loop).result(20)
    execution = ended(fresh, "never")
    assert execution["status"] == "cancelled"
    assert fresh.service.runs.active(execution["executionId"]) is None


def test_step_stream_backend_bug_cuts_it_off(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, emit: Emit, **__: Any) -> None:
        await emit(StepStarted(step_id="one"))
        raise RuntimeError("a bug")

    monkeypatch.setattr("noukai_sdk.backend.runs.run_flow", fail)
    with pytest.raises(httpx.TransportError):
        fresh.post("tests/three/step", MESSAGE, "broke")
    execution = ended(fresh, "broke")
    assert (execution["status"], execution["errorAtStep"]) == ("failed", "one")
    assert "a bug" in caplog.text


def test_execute_abandoned_runs_to_its_end(fresh: Backend) -> None:
    with send_part(fresh, 17, '{"message": "hi"}'):
        wait_until(fresh.fakes.reached.is_set)
    fresh.fakes.opened.set()
    assert ended(fresh, "gone")["status"] == "completed"


def test_execute_abandoned_in_its_request_begins_no_run(
    fresh: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    send_part(fresh, 1000, '{"message"').close()
    assert fresh.post("samples/hello-world/execute", MESSAGE).status_code == 200
    assert fresh.stats()["executions"] == 1
    assert "failed" not in caplog.text


def test_backend_stopped_hands_its_jobs_to_the_next_one(tmp_path: Path) -> None:
    with serving(tmp_path) as backend:
        jobs = [backend.submit("tests/gated", MESSAGE, "stopped") for _ in range(2)]
        wait_until(backend.fakes.reached.is_set)
        # A job whose request ended before it was in the queue.
        flow = backend.service.catalog.get("acme", "tests", "three")
        body = parse_body(b'{"message": "hello"}', backend.settings)
        options: Any = {"trigger": "job", "session_id": "stopped", "started_at": 1}
        begun = backend.service.runs.begin(flow, None, body, **options)
        loop = backend.service.jobs._pump.get_loop()
        early = asyncio.run_coroutine_threadsafe(begun, loop).result(30).id
    with serving(tmp_path) as backend:
        backend.fakes.opened.set()
        assert backend.finished("tests/three", early)["status"] == "completed"
        for job in jobs:
            assert backend.finished("tests/gated", job)["status"] == "completed"
        steps = [step for run in backend.session("stopped") for step in run["steps"]]
        # Finished steps are not repeated, the interrupted one is.
        attempts = sorted((s["stepId"], s["status"]) for s in steps if s["attempt"] > 1)
        assert set(attempts) <= {("held", "completed")}
