"""Jobs, run traces, step traces and the live stream."""

from __future__ import annotations

import json
import threading
from typing import Any

from tests.support.servers import wait_until

from .conftest import Backend
from .streams import WEATHER, answered, lines, parse, step, types

MESSAGE = {"message": "The cat sat on the mat."}


def submit(backend: Backend, flow: str, body: dict[str, Any] = MESSAGE) -> str:
    response = backend.post(f"{flow}/jobs", body)
    assert response.status_code == 202, response.text
    answer = response.json()
    assert answer["status"] == "pending"
    assert {"flowId", "blockCount"} < set(answer)
    return str(answer["executionId"])


def finished(backend: Backend, flow: str, job: str) -> dict[str, Any]:
    def poll() -> dict[str, Any] | None:
        answer: dict[str, Any] = backend.get(f"/seq/acme/{flow}/jobs/{job}").json()
        return answer if answer["status"] in ("completed", "failed") else None

    return wait_until(poll, what="the job")  # type: ignore[return-value]  # it waits for one


def test_a_job_completes(backend: Backend) -> None:
    job = submit(backend, "samples/two-step")
    answer = finished(backend, "samples/two-step", job)
    assert answer["status"] == "completed"
    direct = backend.post("samples/two-step/execute", MESSAGE).json()["result"]
    assert answer == {"executionId": job, "status": "completed", "result": direct}


def test_a_job_fails(backend: Backend) -> None:
    answer = finished(backend, "tests/broken", submit(backend, "tests/broken"))
    assert answer["status"] == "failed"
    assert answer["error"]["code"] == "MODEL_ERROR"
    assert "result" not in answer


def test_a_job_keeps_its_result_in_every_capture_mode(backend: Backend) -> None:
    body = {"message": "password: hunter2"}
    for flow in ("tests/redacted", "tests/nothing"):
        job = submit(backend, flow, body)
        assert "hunter2" in finished(backend, flow, job)["result"]


def test_a_running_job(fresh: Backend) -> None:
    job = submit(fresh, "tests/gated")
    wait_until(fresh.fakes.reached.is_set)
    path = f"/seq/acme/tests/gated/jobs/{job}"
    assert fresh.get(path).json() == {"executionId": job, "status": "running"}
    trace = fresh.get(f"/seq/acme/tests/gated/runs/{job}/trace").json()
    assert trace["flowRun"]["status"] == "running"
    assert trace["flowRun"]["completedAt"] is None
    assert [(s["stepId"], s["status"]) for s in trace["steps"]] == [
        ("before", "completed"),
        ("held", "running"),
    ]
    fresh.fakes.opened.set()
    assert finished(fresh, "tests/gated", job)["status"] == "completed"


def test_a_run_that_is_no_job_cannot_be_polled(backend: Backend) -> None:
    run = backend.post("samples/hello-world/execute", MESSAGE).json()["executionId"]
    response = backend.get(f"/seq/acme/samples/hello-world/jobs/{run}")
    assert (response.status_code, response.json()["detail"]["code"]) == (404, "RUN_NOT_FOUND")


def test_the_trace_of_a_run(backend: Backend) -> None:
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
    }
    assert trace["flowRun"]["id"] == run
    assert trace["flowRun"]["durationMs"] > 0
    draft, polish = trace["steps"]
    assert (draft["stepId"], polish["stepId"]) == ("draft", "polish")
    assert draft["modelUsed"] == "offline"
    assert draft["tokens"]["total"] > 0
    assert draft["inputContext"]["messages"][-1]["role"] == "user"
    assert draft["outputContext"] in str(polish["inputContext"])
    assert draft["outputSizeBytes"] == len(json.dumps(draft["outputContext"]))
    assert draft["startedAt"] < draft["completedAt"] < polish["startedAt"]
    assert (draft["errorContext"], draft["truncated"], draft["loopIndex"]) == (None, False, None)


def test_the_trace_of_a_step_and_its_attempts(fresh: Backend) -> None:
    fresh.fakes.failures = 2
    run = fresh.post("tests/retried/execute", MESSAGE).json()["executionId"]
    path = f"/seq/acme/tests/retried/runs/{run}/steps/shaky/trace"
    assert fresh.get(path).json()["attempt"] == 3
    assert fresh.get(f"{path}?attempt=latest").json()["attempt"] == 3
    assert fresh.get(f"{path}?attempt=2").json()["status"] == "failed"
    every = fresh.get(f"{path}?attempt=all").json()
    assert every["stepId"] == "shaky"
    assert [a["attempt"] for a in every["attempts"]] == [1, 2, 3]
    for query in ("attempt=4", "loop_index=0", "attempt=all&loop_index=0"):
        response = fresh.get(f"{path}?{query}")
        assert response.status_code == 404, query
        assert response.json()["detail"]["code"] == "STEP_NOT_FOUND"
    for query in ("attempt=first", "loop_index=x"):
        response = fresh.get(f"{path}?{query}")
        assert response.status_code == 400, query
        assert response.json()["detail"]["code"] == "INVALID_REQUEST"


def test_traces_of_flows_that_store_less(backend: Backend) -> None:
    traces = {}
    for flow in ("metadata", "nothing"):
        run = backend.post(f"tests/{flow}/execute", MESSAGE).json()["executionId"]
        traces[flow] = backend.get(f"/seq/acme/tests/{flow}/runs/{run}/trace").json()["steps"]
    assert traces["nothing"] == []
    [step_trace] = traces["metadata"]
    assert step_trace["status"] == "completed"
    for name in ("inputContext", "outputContext", "inputSizeBytes", "outputSizeBytes"):
        assert step_trace[name] is None


def test_the_live_trace_of_a_run_that_has_ended(backend: Backend) -> None:
    events = step(backend, "tests/three", {**MESSAGE, "runRemaining": True})
    path = f"/seq/acme/tests/three/runs/{events[0]['executionId']}/trace/stream"
    assert parse(backend.get(path).text) == events


def test_the_live_trace_goes_on_until_the_end(fresh: Backend) -> None:
    """A follower from the middle of a chunk on sees each event once, in order."""
    job = submit(fresh, "tests/gated")
    wait_until(fresh.fakes.reached.is_set)
    path = f"/seq/acme/tests/gated/runs/{job}/trace/stream"
    with fresh.client.stream("GET", path) as response:
        seen = []
        for event in lines(response):
            seen.append(event)
            if event.get("outputData") == "waiting ":
                fresh.fakes.opened.set()
    assert seen == parse(fresh.get(path).text)
    assert types(seen)[0] == "run_started"
    assert types(seen)[-1] == "flow_completed"


def test_the_live_trace_follows_a_run_through_its_pauses(backend: Backend) -> None:
    asked = {"message": "Paris?", "tools": WEATHER}
    pause = backend.post("samples/weather/execute", asked).json()
    path = f"/seq/acme/samples/weather/runs/{pause['executionId']}/trace/stream"
    seen: list[dict[str, Any]] = []

    def follow() -> None:
        with backend.client.stream("GET", path) as response:
            seen.extend(lines(response))

    follower = threading.Thread(target=follow)
    follower.start()
    followers = backend.service.channels._followers
    wait_until(lambda: pause["executionId"] in followers, what="the follower")
    body = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "toolCallMessages": answered(pause),
        "tools": WEATHER,
    }
    backend.post("samples/weather/execute", body)
    follower.join(20)
    assert types(seen) == [
        "run_started",
        "step_started",
        "step_input",
        "step_paused_for_tool_calls",
        "step_started",
        "step_input",
        "step_completed",
        "flow_completed",
    ]
    wait_until(lambda: pause["executionId"] not in followers, what="the channel is let go")


def test_the_live_trace_of_a_flow_that_stores_nothing_ends_with_the_run(fresh: Backend) -> None:
    (fresh.settings.flows[0] / "acme/tests/gated.yaml").write_text(
        "{capture: 'off', steps: [{id: held, model: gate}]}"
    )
    job = submit(fresh, "tests/gated")
    wait_until(fresh.fakes.reached.is_set)
    path = f"/seq/acme/tests/gated/runs/{job}/trace/stream"
    with fresh.client.stream("GET", path) as response:
        wait_until(lambda: job in fresh.service.channels._followers)
        fresh.fakes.opened.set()
        assert list(lines(response)) == []


def test_the_live_trace_masks_what_a_redacted_flow_says(fresh: Backend) -> None:
    (fresh.settings.flows[0] / "acme/tests/gated.yaml").write_text(
        "{capture: redacted, steps: [{id: held, model: gate}]}"
    )
    job = submit(fresh, "tests/gated", {"message": "my password: hunter2"})
    wait_until(fresh.fakes.reached.is_set)
    with fresh.client.stream("GET", f"/seq/acme/tests/gated/runs/{job}/trace/stream") as response:
        wait_until(lambda: job in fresh.service.channels._followers)
        fresh.fakes.opened.set()
        text = str(list(lines(response)))
    assert "password: ***" in text
    assert "hunter2" not in text
