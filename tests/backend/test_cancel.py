"""Jobs are cancelled while they wait or run, by whichever process; what has ended stays."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import URL

from noukai_sdk import JobCancelledError, Noukai, trace_scope_sync
from tests.support.servers import wait_until

from .backends import MESSAGE, Backend, code_of, serving

GATED = "tests/gated"
OTHER = {"Authorization": "Bearer nk_other"}
CANCELLED = {"code": "CANCELLED", "message": "the job was cancelled by a caller"}


def cancel(backend: Backend, flow: str, job: str) -> Any:
    return backend.client.delete(f"/seq/acme/{flow}/jobs/{job}")


def test_running_job_is_cancelled_and_its_model_call_stopped(stored: Backend) -> None:
    job = stored.submit(GATED, MESSAGE, "cancelled")
    assert stored.fakes.reached.wait(30)
    path = f"/seq/acme/{GATED}/runs/{job}/trace"
    events: list[str] = []
    follower = threading.Thread(
        target=lambda: events.append(stored.client.get(f"{path}/stream", timeout=20).text)
    )
    follower.start()
    for _ in range(2):
        response = cancel(stored, GATED, job)
        assert response.status_code == 200, response.text
        assert response.json() == {"executionId": job, "status": "failed", "error": CANCELLED}
    assert stored.fakes.left.wait(30)
    assert stored.get(f"/seq/acme/{GATED}/jobs/{job}").json()["error"] == CANCELLED
    [run] = stored.session("cancelled")
    assert (run["status"], run["errorAtStep"]) == ("cancelled", "held")
    assert [step["status"] for step in run["steps"]] == ["completed", "failed"]
    assert stored.get(path).json()["flowRun"]["status"] == "cancelled"
    follower.join(30)
    assert '"step_started"' in events[0]
    # The process goes on.
    stored.fakes.opened.set()
    assert stored.finished(GATED, stored.submit(GATED))["status"] == "completed"


def test_run_of_a_caller_is_cancelled_and_its_stream_cut_off(
    stored: Backend, caplog: pytest.LogCaptureFixture
) -> None:
    def read() -> None:
        with pytest.raises(httpx.RemoteProtocolError):
            stored.post("tests/gated/step", {**MESSAGE, "runRemaining": True}, "stopped")
        ended.set()

    ended = threading.Event()
    threading.Thread(target=read).start()
    assert stored.fakes.reached.wait(30)
    [running] = stored.session("stopped")
    path = f"/seq/acme/{GATED}/runs/{running['executionId']}"
    for wrong, headers in ((f"{path}x", {}), (path, OTHER)):
        assert code_of(stored.client.delete(wrong, headers=headers)) == (404, "RUN_NOT_FOUND")
    for _ in range(2):
        body = {"executionId": running["executionId"], "status": "cancelled"}
        assert stored.client.delete(path).json() == body
    assert stored.fakes.left.wait(30)
    assert ended.wait(30)
    [run] = stored.session("stopped")
    assert (run["status"], run["errorAtStep"]) == ("cancelled", "held")
    assert not [record for record in caplog.records if record.exc_info]


def test_ended_unknown_and_other_runs_cannot_be_cancelled(stored: Backend) -> None:
    job = stored.submit("tests/three")
    done = stored.finished("tests/three", job)
    assert done["status"] == "completed"
    assert cancel(stored, "tests/three", job).json() == done
    run = stored.post("tests/three/execute", MESSAGE).json()["executionId"]
    for flow, execution_id in (
        ("tests/three", "unknown"),
        ("tests/three", run),
        ("tests/fan", job),
    ):
        assert code_of(cancel(stored, flow, execution_id)) == (404, "RUN_NOT_FOUND")
    path = f"/seq/acme/tests/three/jobs/{job}"
    response = stored.client.delete(path, headers={"Authorization": "Bearer nk_other"})
    assert code_of(response) == (404, "RUN_NOT_FOUND")


def test_waiting_and_running_jobs_are_cancelled_through_another_process(
    new_database: Callable[[], URL], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a machine so busy that no heart beats, the jobs would be taken over.
    monkeypatch.setattr("noukai_sdk.backend.heartbeat.DEAD_AFTER", 120.0)
    database = new_database().render_as_string(hide_password=False)
    with (
        serving(tmp_path, database=database, role="serve") as web,
        serving(
            tmp_path, write=False, database=database, role="worker", max_running_jobs=1
        ) as worker,
    ):
        running = web.submit(GATED)
        assert worker.fakes.reached.wait(30)
        waiting = web.submit("tests/three", MESSAGE, "waiting")
        assert web.get(f"/seq/acme/tests/three/jobs/{waiting}").json()["status"] == "pending"
        assert cancel(web, "tests/three", waiting).json()["error"] == CANCELLED
        assert cancel(web, GATED, running).json()["error"] == CANCELLED
        # In the middle of the model call.
        assert worker.fakes.left.wait(30)
        wait_until(lambda: not worker.service.runs.all_active(), what="the run's end")
        # The worker goes on with the next job, and has run nothing of the one that was cancelled.
        after = web.submit("tests/three")
        assert web.finished("tests/three", after)["status"] == "completed"
        [run] = web.session("waiting")
        assert (run["status"], run["steps"]) == ("cancelled", [])
        assert worker.get(f"/seq/acme/{GATED}/jobs/{running}").json()["error"] == CANCELLED


def test_job_cancel_of_the_client_is_recorded_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")

    def cancelled(client: Noukai, wait: Callable[[], object] = lambda: None) -> list[Any]:
        job = client.flow("acme/tests/gated").execute_async("hold this")
        wait()
        seen: list[Any] = [job.poll().is_done, job.cancel().is_cancelled]
        try:
            job.wait(poll_interval=0.01)
        except JobCancelledError as error:
            seen += [error.code, error.execution_id == job.execution_id]
        return [*seen, job.poll().is_cancelled, job.cancel().status]

    expected = [False, True, "CANCELLED", True, True, "failed"]
    file = tmp_path / "cancelled.jsonl"
    with serving(tmp_path) as backend:
        client = Noukai(api_key="nk_dev", base_url=backend.url)
        with client, trace_scope_sync(client=client, record=file):
            assert cancelled(client, lambda: backend.fakes.reached.wait(20)) == expected
    # The backend is gone: nothing can be sent.
    client = Noukai(api_key="nk_dev", base_url=backend.url, max_retries=0)
    with client, trace_scope_sync(client=client, cassette=file):
        assert cancelled(client) == expected
