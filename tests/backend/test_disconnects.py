"""Clients that go away: a run ends or is marked cancelled, and never runs on for ever."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk.backend.bodies import parse_body
from noukai_sdk.backend.routes.responses import EventStream
from noukai_sdk.models.events import StepStarted
from tests.support.servers import wait_until

from .conftest import Backend, serving
from .streams import lines, parse, step

MESSAGE = {"message": "hello"}
GATED = "/seq/acme/tests/gated"


def ended(backend: Backend, session_id: str) -> dict[str, Any]:
    def look() -> dict[str, Any] | None:
        [execution] = backend.session(session_id)
        return execution if execution["completedAt"] else None

    return wait_until(look, what="the run's end")  # type: ignore[return-value]  # it waits for one


def test_a_stream_that_is_left_cancels_the_run_and_stops_the_model(fresh: Backend) -> None:
    body = {**MESSAGE, "runRemaining": True}
    headers = {"X-Session-Id": "left"}
    seen = []
    with fresh.client.stream("POST", f"{GATED}/step", json=body, headers=headers) as response:
        for event in lines(response):
            seen.append(event)
            if event.get("outputData") == "waiting ":
                break
    execution = ended(fresh, "left")
    assert execution["status"] == "cancelled"
    assert execution["errorAtStep"] == "held"
    assert execution["events"] == seen
    assert [s["status"] for s in execution["steps"]] == ["completed", "failed"]
    assert fresh.fakes.left.wait(10)
    assert fresh.service.runs.active(execution["executionId"]) is None
    response = fresh.post("tests/gated/step", {"executionId": execution["executionId"]})
    assert response.status_code == 409
    live = fresh.get(f"{GATED}/runs/{execution['executionId']}/trace/stream")
    assert parse(live.text) == seen


def test_a_stream_that_is_closed_at_its_last_event_has_ended_well(fresh: Backend) -> None:
    """Our client does that: after flow_completed it reads no further."""
    body = {**MESSAGE, "runRemaining": True}
    headers = {"X-Session-Id": "whole"}
    with fresh.client.stream(
        "POST", "/seq/acme/tests/three/step", json=body, headers=headers
    ) as response:
        for event in lines(response):
            if event["eventType"] == "flow_completed":
                break
    [execution] = fresh.session("whole")
    assert execution["status"] == "completed"


def test_an_execute_whose_client_is_gone_is_finished(fresh: Backend) -> None:
    host, port = fresh.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /api/v1{GATED}/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nk_dev\r\n"
            'X-Session-Id: gone\r\nContent-Length: 17\r\n\r\n{"message": "hi"}'.encode()
        )
        wait_until(fresh.fakes.reached.is_set)
    fresh.fakes.opened.set()
    assert ended(fresh, "gone")["status"] == "completed"


def test_a_client_that_goes_away_in_its_own_request(
    fresh: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    host, port = fresh.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /api/v1{GATED}/execute HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer nk_dev\r\n"
            'Content-Length: 1000\r\n\r\n{"message"'.encode()
        )
    assert fresh.post("samples/hello-world/execute", MESSAGE).status_code == 200
    assert fresh.stats()["executions"] == 1
    assert "failed" not in caplog.text


def test_a_live_trace_that_is_left_is_forgotten(fresh: Backend) -> None:
    run = step(fresh, "tests/three", MESSAGE)[0]["executionId"]
    path = f"/seq/acme/tests/three/runs/{run}/trace/stream"
    followers = fresh.service.channels._followers
    with fresh.client.stream("GET", path) as response:
        events = lines(response)
        assert next(events)["eventType"] == "run_started"
        wait_until(lambda: run in followers)
    wait_until(lambda: run not in followers, what="the channel is let go")
    # It had no part in the run itself.
    assert step(fresh, "tests/three", {"executionId": run, "stepIndex": 1})


def test_what_is_in_progress_when_the_backend_stops(tmp_path: Path) -> None:
    with serving(tmp_path) as backend:
        body = {"json": MESSAGE, "headers": {"X-Session-Id": "stopped"}}
        jobs = [backend.client.post(f"{GATED}/jobs", **body).json() for _ in range(2)]
        wait_until(backend.fakes.reached.is_set)
        # One that nobody has taken up yet: its answer was lost on the way.
        lost = backend.service.runs
        flow = backend.service.catalog.get("acme", "tests", "three")
        parsed = parse_body(b'{"message": "hello"}', backend.settings)
        lost.begin(flow, None, parsed, trigger="job", session_id="stopped", started_at=1)
    with serving(tmp_path) as backend:
        runs = backend.session("stopped")
        assert [run["status"] for run in runs] == ["failed"] * 3
        assert {run["error"]["code"] for run in runs} == {"INTERNAL_ERROR"}
        for job in jobs:
            answer = backend.get(f"{GATED}/jobs/{job['executionId']}").json()
            assert "the backend was stopped" in answer["error"]["message"]


def test_a_stream_that_breaks_off_by_an_error_of_ours(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        yield StepStarted(step_id="one")
        raise RuntimeError("a bug")

    monkeypatch.setattr("noukai_sdk.backend.runs.run_steps", fail)
    with pytest.raises(httpx.TransportError):
        fresh.post("tests/three/step", MESSAGE, **{"X-Session-Id": "broke"})
    execution = ended(fresh, "broke")
    assert (execution["status"], execution["errorAtStep"]) == ("failed", "one")
    assert "a bug" in caplog.text


def test_a_stream_whose_reader_left_before_it_began(fresh: Backend) -> None:
    """The answer is never started, so that nothing in it can notice."""
    runs = fresh.service.runs
    flow = fresh.service.catalog.get("acme", "tests", "three")
    parsed = parse_body(b'{"message": "hello"}', fresh.settings)
    run = runs.begin(flow, None, parsed, trigger="step", session_id=None, started_at=1)
    stream = EventStream(runs.advance(run), on_end=lambda: runs.release(run))

    async def gone(*_: Any) -> Any:
        raise OSError("the connection is closed")

    asyncio.run(stream({"type": "http", "asgi": {"spec_version": "2.4"}}, gone, gone))
    assert run.status == "cancelled"
    assert runs.active(run.id) is None
