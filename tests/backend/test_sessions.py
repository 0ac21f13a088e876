"""GET /seq/sessions/{id}: the data that a replay reads."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import httpx
from sqlalchemy import create_engine, update

from noukai_sdk.backend.store.tables import executions, sessions
from noukai_sdk.models.sessions import Session
from tests.support.servers import wait_until

from .backends import ASKS_WEATHER, MESSAGE, Backend, answered, code_of, resume_body, serving

CONTRACT = {
    "executionId",
    "flowId",
    "slug",
    "triggerType",
    "status",
    "startedAt",
    "completedAt",
    "traceCaptureMode",
    "snapshotsAvailable",
    "errorAtStep",
    "steps",
}
EXTENSIONS = {"version", "contentHash"}
SNAPSHOT_EXTENSIONS = {"call", "result", "error", "events", "toolRounds", "usage"}
SECRET = {
    "message": "Log in with password: hunter2 and Bearer abcdef12, please",
    "parameters": {"api_key": "k-123", "city": "Paris"},
}


def test_session_has_the_fields_of_the_contract_and_ours(backend: Backend) -> None:
    body = {**MESSAGE, "parameters": {"a": 1}, "trace": False, "executionId": None}
    backend.post("tests/pinned/v2/execute", body, "shape")
    body = backend.get("/seq/sessions/shape").json()
    assert set(body) == {"sessionId", "executions"}
    assert body["sessionId"] == "shape"
    [execution] = body["executions"]
    assert set(execution) == CONTRACT | EXTENSIONS | SNAPSHOT_EXTENSIONS
    assert execution["slug"] == "pinned"
    assert execution["triggerType"] == "execute"
    assert execution["traceCaptureMode"] == "full"
    assert execution["snapshotsAvailable"] is True
    assert execution["call"] == {
        "org": "acme",
        "project": "tests",
        "slug": "pinned",
        "version": 2,
        "request": {**MESSAGE, "parameters": {"a": 1}, "trace": False},
    }
    assert set(execution["steps"][0]) == {
        "stepId",
        "attempt",
        "loopIndex",
        "status",
        "startedAt",
        "completedAt",
        "durationMs",
        "inputSnapshot",
        "outputSnapshot",
        "errorSnapshot",
        "truncated",
    }
    assert execution["steps"][1]["outputSnapshot"] == execution["result"]
    assert execution["events"][-1]["result"] == execution["result"]
    assert execution["error"] is None
    assert execution["toolRounds"] == []
    assert Session.model_validate(body).executions[0]["call"] is not None


def test_session_times_of_sequential_calls_never_overlap(backend: Backend) -> None:
    for _ in range(3):
        backend.post("samples/hello-world/execute", MESSAGE, "in-order")
    backend.step("tests/three", {**MESSAGE, "runRemaining": True}, "in-order")
    runs = backend.session("in-order")
    times = [time for run in runs for time in (run["startedAt"], run["completedAt"])]
    assert times == sorted(set(times))
    for time in times:
        assert len(time) == len("2026-11-20T16:36:24.944263+00:00")
        assert datetime.fromisoformat(time).utcoffset() is not None


def test_session_run_keeps_its_tool_rounds_through_every_resume(backend: Backend) -> None:
    asked = {**ASKS_WEATHER, "message": "Paris and Rome?"}
    pause = backend.post("samples/weather/execute", asked, "resumed").json()
    [waiting] = backend.session("resumed")
    assert waiting["status"] == "running"
    assert waiting["completedAt"] is None
    assert waiting["steps"][0]["status"] == "running"
    assert waiting["toolRounds"] == [{"paused": pause, "toolResults": None}]
    pauses = []
    while pause["status"] == "tool_calls_required":
        pauses.append(pause)
        pause = backend.post("samples/weather/execute", resume_body(pause), "resumed").json()
    [execution] = backend.session("resumed")
    assert [r["paused"] for r in execution["toolRounds"]] == pauses
    assert [r["toolResults"] for r in execution["toolRounds"]] == [answered(p)[-1:] for p in pauses]
    assert execution["call"]["request"] == asked
    assert execution["result"] == pause["result"]
    assert len(execution["steps"]) == 1


def test_capture_without_snapshots_stores_no_data(backend: Backend) -> None:
    for flow, mode, count in [("metadata", "metadata_only", 1), ("nothing", "off", 0)]:
        run = backend.post(f"tests/{flow}/execute", SECRET, mode).json()["executionId"]
        [execution] = backend.session(mode)
        assert set(execution) == CONTRACT | EXTENSIONS
        assert execution["snapshotsAvailable"] is False
        assert execution["traceCaptureMode"] == mode
        assert len(execution["steps"]) == count
        trace = backend.get(f"/seq/acme/tests/{flow}/runs/{run}/trace").json()
        assert [step["status"] for step in trace["steps"]] == ["completed"] * count
        for step in trace["steps"]:
            assert step["inputContext"] is step["outputContext"] is None
            assert step["inputSizeBytes"] is step["outputSizeBytes"] is None
        for text in (json.dumps(execution), json.dumps(trace)):
            assert "hunter2" not in text
            assert "Log in" not in text


def test_capture_redacted_masks_the_session_and_not_the_run(fresh: Backend) -> None:
    response = fresh.post("tests/redacted/execute", SECRET, "masked")
    assert "hunter2" in response.json()["result"]
    [execution] = fresh.session("masked")
    text = json.dumps(execution)
    for secret in ("hunter2", "abcdef", "k-123"):
        assert secret not in text
    assert execution["snapshotsAvailable"] is True
    assert execution["call"]["request"]["parameters"] == {"api_key": "[redacted]", "city": "Paris"}
    assert execution["result"] == "Log in with password: [redacted] and [redacted], please"
    chunks = [e["outputData"] for e in execution["events"] if e["eventType"] == "step_output"]
    assert "".join(chunks) == execution["result"]
    assert len(chunks) == -(-len(SECRET["message"]) // 3)
    assert execution["steps"][0]["outputSnapshot"] == execution["result"]
    # A later call continues with the unmasked values.
    fresh.write_flow(
        "three", "{capture: redacted, steps: [{id: one, model: echo}, {id: two, model: echo}]}"
    )
    first = fresh.step("tests/three", SECRET)
    body = {"executionId": first[0]["executionId"], "stepIndex": 1}
    assert "hunter2" in fresh.step("tests/three", body)[-1]["result"]


def test_session_invalid_or_unknown_id_is_an_error(backend: Backend) -> None:
    for name in ("a b", "x" * 129, "%2E%2E", "a%00b", "a:b", "ü"):
        assert code_of(backend.get(f"/seq/sessions/{name}")) == (400, "SESSION_ID_INVALID")
    assert code_of(backend.get("/seq/sessions/nobody")) == (404, "SESSION_NOT_FOUND")


def test_session_of_another_organisation_is_unknown(backend: Backend) -> None:
    other = {"Authorization": "Bearer nk_other"}
    backend.post("samples/hello-world/execute", MESSAGE, "acmes-own")
    response = backend.get("/seq/sessions/acmes-own", **other)
    assert code_of(response) == (404, "SESSION_NOT_FOUND")
    message = backend.get("/seq/sessions/nobodys-own", **other).json()["detail"]["message"]
    assert response.json()["detail"]["message"] == message.replace("nobodys-own", "acmes-own")
    # If both use the same id, each sees its own runs, and nk_dev sees all.
    path = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
    httpx.post(path, json=MESSAGE, headers={**other, "X-Session-Id": "acmes-own"})
    seen = backend.get("/seq/sessions/acmes-own", **other).json()["executions"]
    assert [run["slug"] for run in seen] == ["hello"]
    assert [run["slug"] for run in backend.session("acmes-own")] == ["hello-world", "hello"]


def test_session_of_a_deleted_flow_has_no_slug(fresh: Backend) -> None:
    for flow in ("three", "pinned", "picky"):
        body = {**MESSAGE, "parameters": {"style": "verse"}}
        fresh.post(f"tests/{flow}/execute", body, "deleted")
    (fresh.settings.flows[0] / "acme/tests/three.yaml").unlink()
    # A file with errors is not deleted.
    fresh.write_flow("pinned", "steps: 7")
    runs = fresh.session("deleted")
    assert [run["slug"] for run in runs] == [None, "pinned", "picky"]
    assert runs[0]["call"]["slug"] == "three"


def test_session_outlives_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        before.post("tests/three/execute", MESSAGE, "kept")
        pause = before.post("samples/weather/execute", ASKS_WEATHER, "kept").json()
        runs = before.session("kept")
    # Its slug stays, even if the backend has never read a valid file of the flow.
    (tmp_path / "flows/acme/tests/three.yaml").write_text("steps: 7")
    with serving(tmp_path, write=False) as after:
        assert after.session("kept") == runs
        response = after.post("samples/weather/execute", resume_body(pause))
        assert response.json()["status"] == "completed"
        assert after.session("kept")[1]["status"] == "completed"


def age(backend: Backend, **columns: int) -> None:
    """Set columns of every run, such as times in 1970."""
    engine = create_engine(f"sqlite:///{backend.settings.database}")
    with engine.begin() as connection:
        connection.execute(update(executions).values(**columns))
        if "started_at" in columns:
            connection.execute(update(sessions).values(started_at=columns["started_at"]))
    engine.dispose()


def test_session_past_its_retention_is_410_and_its_data_deleted(tmp_path: Path) -> None:
    with serving(tmp_path, retention_days=1) as backend:
        backend.post("samples/hello-world/execute", MESSAGE, "old")
        assert backend.get("/seq/sessions/old").status_code == 200
        age(backend, started_at=1)
        assert code_of(backend.get("/seq/sessions/old")) == (410, "SESSION_EXPIRED")
    with serving(tmp_path, retention_days=1) as backend:
        # The backend deletes its data when it starts, and keeps its rows.
        assert backend.get("/seq/sessions/old").status_code == 410
    with serving(tmp_path) as backend:
        assert code_of(backend.get("/seq/sessions/old")) == (410, "SESSION_EXPIRED")


def test_run_left_paused_is_cancelled_with_its_waiting_step(tmp_path: Path) -> None:
    with serving(tmp_path) as backend:
        run = backend.step("tests/three", MESSAGE, "stepped")[0]["executionId"]
        backend.post("samples/weather/execute", ASKS_WEATHER, "tools")
        [before] = backend.session("tools")[0]["steps"]
        age(backend, updated_at=1)
    with serving(tmp_path) as backend:
        for session in ("stepped", "tools"):  # the first sweep may take a moment
            wait_until(lambda name=session: backend.session(name)[0]["status"] == "cancelled")
        [stepped] = backend.session("stepped")
        assert stepped["error"]["code"] == "CANCELLED"
        assert stepped["errorAtStep"] is None
        assert [s["status"] for s in stepped["steps"]] == ["completed"]
        response = backend.post("tests/three/step", {"executionId": run, "stepIndex": 1})
        assert response.status_code == 409
        [execution] = backend.session("tools")
        [step] = execution["steps"]
        assert execution["errorAtStep"] == step["stepId"]
        assert (before["status"], step["status"]) == ("running", "failed")
        assert step["inputSnapshot"] == before["inputSnapshot"] is not None
        assert step["errorSnapshot"] == {"code": "CANCELLED", "message": "the run was left paused"}
