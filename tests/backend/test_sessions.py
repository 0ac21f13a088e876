"""GET /seq/sessions/{id}: what a replay reads."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, update

from noukai_sdk.backend.store.tables import executions
from noukai_sdk.models.sessions import Session

from .conftest import Backend, serving
from .streams import WEATHER, answered, step

MESSAGE = {"message": "The cat sat on the mat."}
PLAIN = {
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
OURS = {"call", "result", "error", "events", "toolRounds"}
SECRET = {
    "message": "Log in with password: hunter2 and Bearer abcdef, please",
    "parameters": {"api_key": "k-123", "city": "Paris"},
}


def test_the_shape(backend: Backend) -> None:
    body = {**MESSAGE, "parameters": {"a": 1}, "trace": False, "executionId": None}
    backend.post("tests/pinned/v2/execute", body, **{"X-Session-Id": "shape"})
    answer = backend.get("/seq/sessions/shape").json()
    assert set(answer) == {"sessionId", "executions"}
    assert answer["sessionId"] == "shape"
    [execution] = answer["executions"]
    assert set(execution) == PLAIN | OURS
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
    assert Session.model_validate(answer).executions[0].call is not None


def test_sequential_calls_never_overlap(backend: Backend) -> None:
    for _ in range(3):
        backend.post("samples/hello-world/execute", MESSAGE, **{"X-Session-Id": "in-order"})
    step(backend, "tests/three", {**MESSAGE, "runRemaining": True}, **{"X-Session-Id": "in-order"})
    runs = backend.session("in-order")
    times = [time for run in runs for time in (run["startedAt"], run["completedAt"])]
    assert times == sorted(set(times))
    for time in times:
        assert len(time) == len("2026-11-20T16:36:24.944263+00:00")
        assert datetime.fromisoformat(time).utcoffset() is not None


def test_a_run_belongs_to_its_session_through_every_resume(backend: Backend) -> None:
    in_session = {"X-Session-Id": "resumed"}
    asked = {"message": "Paris and Rome?", "tools": WEATHER}
    pause = backend.post("samples/weather/execute", asked, **in_session).json()
    [waiting] = backend.session("resumed")
    assert waiting["status"] == "running"
    assert waiting["completedAt"] is None
    assert waiting["steps"][0]["status"] == "running"
    assert waiting["toolRounds"] == [{"paused": pause, "toolResults": None}]
    pauses = []
    while pause["status"] == "tool_calls_required":
        pauses.append(pause)
        body = {
            "executionId": pause["executionId"],
            "pausedAtStep": pause["pausedAtStep"],
            "toolCallMessages": answered(pause),
            "tools": WEATHER,
        }
        pause = backend.post("samples/weather/execute", body, **in_session).json()
    [execution] = backend.session("resumed")
    assert [r["paused"] for r in execution["toolRounds"]] == pauses
    assert [r["toolResults"] for r in execution["toolRounds"]] == [answered(p)[-1:] for p in pauses]
    assert execution["call"]["request"] == asked
    assert execution["result"] == pause["result"]
    assert len(execution["steps"]) == 1


@pytest.mark.parametrize("flow", ["metadata", "nothing"])
def test_capture_without_snapshots(backend: Backend, flow: str) -> None:
    backend.post(f"tests/{flow}/execute", SECRET, **{"X-Session-Id": f"mode-{flow}"})
    [execution] = backend.session(f"mode-{flow}")
    assert set(execution) == PLAIN
    assert execution["snapshotsAvailable"] is False
    assert execution["traceCaptureMode"] == {"metadata": "metadata_only", "nothing": "off"}[flow]
    assert len(execution["steps"]) == {"metadata": 1, "nothing": 0}[flow]
    text = json.dumps(execution)
    assert "hunter2" not in text
    assert "Log in" not in text


def test_redacted_capture_masks_everywhere(backend: Backend) -> None:
    answer = backend.post("tests/redacted/execute", SECRET, **{"X-Session-Id": "masked"})
    assert "hunter2" in answer.json()["result"]
    [execution] = backend.session("masked")
    text = json.dumps(execution)
    for secret in ("hunter2", "abcdef", "k-123"):
        assert secret not in text
    assert execution["snapshotsAvailable"] is True
    assert execution["call"]["request"]["parameters"] == {"api_key": "***", "city": "Paris"}
    assert execution["result"] == "Log in with password: *** and Bearer ***, please"
    chunks = [e["outputData"] for e in execution["events"] if e["eventType"] == "step_output"]
    assert "".join(chunks) == execution["result"]
    assert len(chunks) == -(-len(SECRET["message"]) // 3)
    assert execution["steps"][0]["outputSnapshot"] == execution["result"]


def test_a_redacted_run_goes_on_with_what_was_really_said(fresh: Backend) -> None:
    (fresh.settings.flows[0] / "acme/tests/three.yaml").write_text(
        "{capture: redacted, steps: [{id: one, model: echo}, {id: two, model: echo}]}"
    )
    first = step(fresh, "tests/three", SECRET)
    body = {"executionId": first[0]["executionId"], "stepIndex": 1}
    assert "hunter2" in step(fresh, "tests/three", body)[-1]["result"]


@pytest.mark.parametrize("name", ["a b", "x" * 129, "%2E%2E", "a%00b", "a:b", "ü"])
def test_malformed_ids(backend: Backend, name: str) -> None:
    response = backend.get(f"/seq/sessions/{name}")
    assert response.status_code == 400
    assert response.json()["detail"]["code"] == "SESSION_ID_INVALID"


def test_an_unknown_session(backend: Backend) -> None:
    response = backend.get("/seq/sessions/nobody")
    assert response.status_code == 404
    assert response.json()["detail"]["code"] == "SESSION_NOT_FOUND"


def test_another_organisations_session(backend: Backend) -> None:
    other = {"Authorization": "Bearer nk_other"}
    backend.post("samples/hello-world/execute", MESSAGE, **{"X-Session-Id": "acmes-own"})
    refused = backend.get("/seq/sessions/acmes-own", **other)
    assert refused.status_code == 403
    assert refused.json()["detail"]["code"] == "SESSION_FORBIDDEN"
    # The same id, used by both: each sees its own runs, nk_dev sees all.
    path = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
    httpx.post(path, json=MESSAGE, headers={**other, "X-Session-Id": "acmes-own"})
    seen = backend.get("/seq/sessions/acmes-own", **other).json()["executions"]
    assert [run["slug"] for run in seen] == ["hello"]
    assert [run["slug"] for run in backend.session("acmes-own")] == ["hello-world", "hello"]


def test_a_deleted_flow_has_no_slug(fresh: Backend) -> None:
    flows = fresh.settings.flows[0]
    for flow in ("three", "pinned", "picky"):
        body = {**MESSAGE, "parameters": {"style": "verse"}}
        fresh.post(f"tests/{flow}/execute", body, **{"X-Session-Id": "deleted"})
    (flows / "acme/tests/three.yaml").unlink()
    # A file that is only bad is still there.
    (flows / "acme/tests/pinned.yaml").write_text("steps: 7")
    runs = fresh.session("deleted")
    assert [run["slug"] for run in runs] == [None, "pinned", "picky"]
    assert runs[0]["call"]["slug"] == "three"


def test_a_session_of_a_flow_whose_file_was_never_good_here(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        before.post("tests/three/execute", MESSAGE, **{"X-Session-Id": "bad-now"})
    (tmp_path / "flows/acme/tests/three.yaml").write_text("steps: 7")
    with serving(tmp_path, write=False) as after:
        assert [run["slug"] for run in after.session("bad-now")] == ["three"]


def test_sessions_outlive_a_restart(tmp_path: Path) -> None:
    with serving(tmp_path) as before:
        before.post("samples/hello-world/execute", MESSAGE, **{"X-Session-Id": "kept"})
        pause = before.post(
            "samples/weather/execute",
            {"message": "Paris?", "tools": WEATHER},
            **{"X-Session-Id": "kept"},
        ).json()
        seen = before.session("kept")
    with serving(tmp_path) as after:
        assert after.session("kept") == seen
        body = {
            "executionId": pause["executionId"],
            "pausedAtStep": pause["pausedAtStep"],
            "toolCallMessages": answered(pause),
            "tools": WEATHER,
        }
        assert after.post("samples/weather/execute", body).json()["status"] == "completed"
        assert after.session("kept")[1]["status"] == "completed"


def age(backend: Backend, **columns: int) -> None:
    """Make every run look as if it were from 1970."""
    engine = create_engine(f"sqlite:///{backend.settings.database}")
    with engine.begin() as connection:
        connection.execute(update(executions).values(**columns))
    engine.dispose()


def test_retention(tmp_path: Path) -> None:
    in_session: dict[str, Any] = {"X-Session-Id": "old"}
    with serving(tmp_path, retention_days=1) as backend:
        backend.post("samples/hello-world/execute", MESSAGE, **in_session)
        assert backend.get("/seq/sessions/old").status_code == 200
        age(backend, started_at=1)
        response = backend.get("/seq/sessions/old")
        assert response.status_code == 410
        assert response.json()["detail"]["code"] == "SESSION_EXPIRED"
    with serving(tmp_path, retention_days=1) as backend:
        # What it held is deleted when the backend starts; that it was is still known.
        assert backend.get("/seq/sessions/old").status_code == 410
    with serving(tmp_path) as backend:
        [execution] = backend.session("old")
        assert (execution["steps"], execution["events"], execution["result"]) == ([], [], None)


def test_a_run_that_was_left_paused_is_cancelled(tmp_path: Path) -> None:
    with serving(tmp_path) as backend:
        left = step(backend, "tests/three", MESSAGE, **{"X-Session-Id": "left"})[0]["executionId"]
        age(backend, updated_at=1)
    with serving(tmp_path) as backend:
        [execution] = backend.session("left")
        assert execution["status"] == "cancelled"
        assert execution["error"]["code"] == "CANCELLED"
        assert execution["errorAtStep"] is None
        assert [s["status"] for s in execution["steps"]] == ["completed"]
        response = backend.post("tests/three/step", {"executionId": left, "stepIndex": 1})
        assert response.status_code == 409


def test_a_run_that_was_left_waiting_for_tools_keeps_its_step(tmp_path: Path) -> None:
    asked = {"message": "Paris?", "tools": WEATHER}
    with serving(tmp_path) as backend:
        backend.post("samples/weather/execute", asked, **{"X-Session-Id": "left"})
        [before] = backend.session("left")[0]["steps"]
        age(backend, updated_at=1)
    with serving(tmp_path) as backend:
        [execution] = backend.session("left")
        [step] = execution["steps"]
        assert execution["errorAtStep"] == step["stepId"]
        assert (before["status"], step["status"]) == ("running", "failed")
        assert step["inputSnapshot"] == before["inputSnapshot"] is not None
        assert step["errorSnapshot"] == {"code": "CANCELLED", "message": "the run was left paused"}
