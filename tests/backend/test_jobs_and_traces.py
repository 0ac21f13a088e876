"""Jobs, run traces and step traces."""

from __future__ import annotations

import json

from tests.support.servers import wait_until

from .backends import MESSAGE, Backend


def test_job_poll_has_its_result_or_error(backend: Backend) -> None:
    job = backend.submit("samples/two-step")
    poll = backend.finished("samples/two-step", job)
    result = backend.post("samples/two-step/execute", MESSAGE).json()["result"]
    assert poll == {"executionId": job, "status": "completed", "result": result}
    poll = backend.finished("tests/broken", backend.submit("tests/broken"))
    assert poll["status"] == "failed"
    assert poll["error"]["code"] == "MODEL_ERROR"
    assert "result" not in poll


def test_job_poll_has_its_result_in_every_capture_mode(backend: Backend) -> None:
    for flow in ("tests/redacted", "tests/nothing"):
        job = backend.submit(flow, {"message": "password: hunter2"})
        assert "hunter2" in backend.finished(flow, job)["result"]


def test_job_running_is_running_in_poll_and_trace(fresh: Backend) -> None:
    job = fresh.submit("tests/gated")
    wait_until(fresh.fakes.reached.is_set)
    poll = fresh.get(f"/seq/acme/tests/gated/jobs/{job}")
    assert poll.json() == {"executionId": job, "status": "running"}
    trace = fresh.get(f"/seq/acme/tests/gated/runs/{job}/trace").json()
    assert trace["flowRun"]["status"] == "running"
    assert trace["flowRun"]["completedAt"] is None
    steps = [(s["stepId"], s["status"]) for s in trace["steps"]]
    assert steps == [("before", "completed"), ("held", "running")]
    fresh.fakes.opened.set()
    assert fresh.finished("tests/gated", job)["status"] == "completed"


def test_run_trace_has_the_run_and_its_steps(backend: Backend) -> None:
    run = backend.post("samples/two-step/execute", MESSAGE).json()["executionId"]
    trace = backend.get(f"/seq/acme/samples/two-step/runs/{run}/trace").json()
    assert set(trace["flowRun"]) == {
        "id",
        "flowId",
        "status",
        "triggerType",
        "startedAt",
        "completedAt",
        "durationMs",
        "stepCount",
        "version",
        "contentHash",
        "sessionId",
        "error",
    }
    assert trace["flowRun"]["id"] == run
    assert trace["flowRun"]["durationMs"] > 0
    draft, polish = trace["steps"]
    assert (draft["stepId"], polish["stepId"]) == ("draft", "polish")
    assert draft["modelUsed"] == "offline"
    assert draft["tokens"]["total"] > 0
    assert draft["inputContext"]["messages"][-1]["role"] == "user"
    output = draft["outputContext"]["output"]
    assert output in str(polish["inputContext"])
    assert draft["outputSizeBytes"] == len(json.dumps(output))
    assert draft["startedAt"] < draft["completedAt"] < polish["startedAt"]
    assert (draft["errorContext"], draft["truncated"], draft["loopIndex"]) == (None, False, None)


def test_step_trace_selects_an_attempt(fresh: Backend) -> None:
    fresh.fakes.failures = 2
    response = fresh.post("tests/retried/execute", MESSAGE).json()
    assert response["result"] == "at last"
    path = f"/seq/acme/tests/retried/runs/{response['executionId']}/steps/shaky/trace"
    assert fresh.get(path).json()["attempt"] == 3
    assert fresh.get(f"{path}?attempt=latest").json()["attempt"] == 3
    assert fresh.get(f"{path}?attempt=2").json()["status"] == "failed"
    attempts = fresh.get(f"{path}?attempt=all").json()
    assert attempts["stepId"] == "shaky"
    statuses = [(a["attempt"], a["status"]) for a in attempts["attempts"]]
    assert statuses == [(1, "failed"), (2, "failed"), (3, "completed")]
    for query, status, code in [
        ("attempt=4", 404, "RUN_NOT_FOUND"),
        ("loop_index=0", 404, "RUN_NOT_FOUND"),
        ("attempt=all&loop_index=0", 404, "RUN_NOT_FOUND"),
        ("attempt=first", 400, "INVALID_REQUEST"),
        ("loop_index=x", 400, "INVALID_REQUEST"),
    ]:
        error = fresh.get(f"{path}?{query}")
        assert (error.status_code, error.json()["detail"]["code"]) == (status, code), query
