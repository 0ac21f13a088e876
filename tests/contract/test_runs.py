"""Runs of every kind of flow, in every way to call and to look at them, read by the strict models."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.backend.backends import Backend, lines
from tests.contract import wire
from tests.contract.clients import RESULT_FORMS, WEATHER, ResultForm, StrictClient
from tests.support.servers import wait_until

CAT: dict[str, Any] = {"message": "The cat sat on the mat."}
CITY = {"message": "What is the weather in Paris?", "tools": WEATHER}
FLOWS = {
    "acme/samples/hello-world": CAT,
    "acme/samples/two-step": CAT,
    "acme/samples/weather": {"message": "Good morning."},
    "acme/spelling/grade-3": {**CAT, "parameters": {"difficulty": "hard"}},
    "acme/tests/fan": {**CAT, "parameters": {"words": ["a", "b"]}},
    "acme/contract/kinds": CAT,
    "acme/contract/flaky": CAT,
}


@pytest.mark.parametrize("flow", FLOWS)
def test_completed_run_fits_the_contract(backend: Backend, client: StrictClient, flow: str) -> None:
    body = FLOWS[flow]
    backend.fakes.failures = 1  # of the flow that has a shaky step
    completed, _ = client.execute(flow, body)
    assert client.run_job(flow, body).result == completed.result
    stepped = client.step_through(flow, body)
    at_once = client.stream("POST", f"/seq/{flow}/step", {**body, "runRemaining": True})
    assert stepped[-1].result == at_once[-1].result == completed.result

    executions = client.session()
    kinds = [(execution.trigger_type, execution.status) for execution in executions]
    assert kinds == [(kind, "completed") for kind in ("execute", "job", "step", "step")]
    assert executions[2].events == stepped
    assert executions[3].events == at_once
    for execution in executions:
        trace = client.trace(flow, execution.execution_id)
        assert (trace.flow_run.status, trace.flow_run.flow_id) == ("completed", execution.flow_id)
        assert client.live_trace(flow, execution.execution_id) == execution.events
        for event in execution.events:
            assert event.run_id == event.execution_id == execution.execution_id
        for traced, recorded in zip(trace.steps, execution.steps[-len(trace.steps) :], strict=True):
            output = recorded.output_snapshot
            is_object = output is None or isinstance(output, dict)
            assert traced.output_context == (output if is_object else {"output": output})
            assert traced.input_context == recorded.input_snapshot


def test_steps_without_a_model_have_objects_as_inputs(client: StrictClient) -> None:
    flow = "acme/contract/kinds"
    completed, _ = client.execute(flow, CAT)
    steps = client.trace(flow, completed.execution_id).steps
    by_id = {step.step_id: step for step in steps if step.loop_index is None}
    words = ["The", "cat", "sat", "on", "the", "mat."]
    assert by_id["split"].input_context == {"input": CAT["message"]}
    assert by_id["split"].output_context == {"output": words}
    shouted = [step for step in steps if step.step_id == "shout" and step.loop_index is not None]
    assert [step.input_context for step in shouted] == [{"input": word} for word in words]
    assert by_id["count"].input_context == {"model": 5, "words": words}
    assert by_id["count"].model_used is None
    assert by_id["count"].output_context == {"output": 6}
    assert by_id["text"].input_context == {"input": "6 words"}
    assert by_id["left"].output_context is None
    assert by_id["end"].input_context == {"input": None}
    assert by_id["end"].output_context == {"length": 4}
    assert (by_id["many"].status, by_id["many"].input_context) == ("skipped", None)


@pytest.mark.parametrize(
    ("flow", "code"),
    [("acme/tests/broken", "MODEL_ERROR"), ("acme/contract/raises", "STEP_FAILED")],
)
def test_failed_run_fits_the_contract(client: StrictClient, flow: str, code: str) -> None:
    response = client.send("POST", f"/seq/{flow}/execute", CAT)
    error = wire.ErrorBody.model_validate_json(response.text).detail
    assert (response.status >= 500, error.code) == (True, code)
    poll = client.run_job(flow, CAT)
    assert (poll.status, poll.error.code) == ("failed", code)
    assert poll.error.message == error.message
    stepped = client.step_through(flow, CAT)
    assert (stepped[-1].event_type, stepped[-1].error.code) == ("step_error", code)
    executions = client.session()
    assert [execution.status for execution in executions] == ["failed"] * 3
    assert executions[0].execution_id == error.execution_id
    for execution in executions:
        last = client.trace(flow, execution.execution_id).steps[-1]
        assert last.error_context == execution.steps[-1].error_snapshot
        assert last.error_context is not None
        assert last.error_context.code == code
        assert client.live_trace(flow, execution.execution_id) == execution.events


@pytest.mark.parametrize("form", RESULT_FORMS.values(), ids=RESULT_FORMS)
@pytest.mark.parametrize("flow", ["acme/samples/weather", "acme/tests/asks"])
def test_tool_results_are_accepted_in_every_form(
    client: StrictClient, flow: str, form: ResultForm
) -> None:
    completed, [pause] = client.execute(flow, CITY, form)
    stepped = client.step_through(flow, CITY, form)
    [paused] = [e for e in stepped if e.event_type == "step_paused_for_tool_calls"]
    assert paused.tool_calls == pause.tool_calls
    assert stepped[-1].result == completed.result
    for execution in client.session():
        [tool_round] = execution.tool_rounds
        [result] = tool_round.tool_results or []
        assert result.content in ("sunny", '{"sky":"sunny"}')
        outputs = {step.step_id: step.output_snapshot for step in execution.steps}
        assert "sunny" in (outputs.get("ask") or outputs["answer"])
        assert client.live_trace(flow, execution.execution_id) == execution.events
        client.trace(flow, execution.execution_id)


def test_run_that_waits_for_tools_fits_the_contract(client: StrictClient, backend: Backend) -> None:
    flow = "acme/tests/asks"
    pause = client.read(wire.Paused, "POST", f"/seq/{flow}/execute", CITY)
    [execution] = client.session()
    assert (execution.status, execution.completed_at) == ("running", None)
    trace = client.trace(flow, pause.execution_id)
    assert (trace.flow_run.status, trace.flow_run.duration_ms) == ("running", None)
    assert (trace.steps[-1].status, trace.steps[-1].duration_ms) == ("running", None)
    url = f"/seq/{flow}/runs/{pause.execution_id}/trace/stream"
    with backend.client.stream("GET", url) as response:
        live = next(e for e in lines(response) if e["eventType"] == "step_paused_for_tool_calls")
    assert live["runId"] == live["executionId"] == pause.execution_id


def test_job_in_progress_fits_the_contract(client: StrictClient, backend: Backend) -> None:
    flow = "acme/tests/gated"
    job = client.read(wire.Submitted, "POST", f"/seq/{flow}/jobs", CAT, 202)
    try:
        wait_until(backend.fakes.reached.is_set)
        poll = client.read(wire.Poll, "GET", f"/seq/{flow}/jobs/{job.execution_id}")
        assert poll.status == "running"
        assert client.trace(flow, job.execution_id).flow_run.status == "running"
        [execution] = client.session()
        assert [step.status for step in execution.steps] == ["completed", "running"]
    finally:
        backend.fakes.opened.set()
    path = f"/seq/{flow}/jobs/{job.execution_id}"
    wait_until(lambda: client.read(wire.Poll, "GET", path).status == "completed")


@pytest.mark.parametrize("mode", ["redacted", "metadata", "nothing"])
def test_run_in_every_capture_mode_fits_the_contract(client: StrictClient, mode: str) -> None:
    flow = f"acme/tests/{mode}"
    completed, _ = client.execute(flow, CAT)
    [execution] = client.session()
    assert execution.snapshots_available is (mode == "redacted")
    assert (execution.events is None) is (mode != "redacted")
    trace = client.trace(flow, completed.execution_id)
    assert len(trace.steps) == (0 if mode == "nothing" else 1)
    if mode == "metadata":
        assert trace.steps[0].input_context is trace.steps[0].output_context is None


TWO_STEP, WEATHER_FLOW = "acme/samples/two-step", "acme/samples/weather"
UNKNOWN_RUN = f"{TWO_STEP}/runs/x"
SYSTEM = {"messages": [{"role": "system", "content": "x"}]}
LONG = {"message": "x" * 2_000_000}

ERRORS: list[tuple[int, str, str, str, Any]] = [
    (404, "FLOW_NOT_FOUND", "POST", "acme/samples/none/execute", CAT),
    (404, "FLOW_NOT_FOUND", "POST", "acme/samples/none/step", CAT),
    (404, "FLOW_NOT_FOUND", "POST", "acme/samples/none/jobs", CAT),
    (404, "FLOW_NOT_FOUND", "POST", f"{TWO_STEP}/v7/execute", CAT),
    (404, "RUN_NOT_FOUND", "GET", f"{UNKNOWN_RUN}/trace", None),
    (404, "RUN_NOT_FOUND", "GET", f"{UNKNOWN_RUN}/trace/stream", None),
    (404, "RUN_NOT_FOUND", "GET", f"{UNKNOWN_RUN}/steps/draft/trace", None),
    (404, "RUN_NOT_FOUND", "GET", "acme/samples/none/runs/x/trace", None),
    (404, "RUN_NOT_FOUND", "GET", f"{TWO_STEP}/jobs/x", None),
    (404, "SESSION_NOT_FOUND", "GET", "sessions/never", None),
    (404, "ROUTE_NOT_FOUND", "GET", "nothing", None),
    (405, "METHOD_NOT_ALLOWED", "DELETE", f"{TWO_STEP}/execute", None),
    (400, "SESSION_ID_INVALID", "GET", "sessions/a%20b", None),
    (400, "INVALID_VERSION", "POST", f"{TWO_STEP}/v0/step", CAT),
    (400, "INVALID_REQUEST", "POST", f"{TWO_STEP}/execute", "{"),
    (400, "MISSING_MESSAGE", "POST", f"{TWO_STEP}/execute", {}),
    (400, "INVALID_FIRST_CALL", "POST", f"{TWO_STEP}/step", {**CAT, "stepIndex": 1}),
    (400, "INVALID_STEP_INDEX", "POST", f"{TWO_STEP}/step", {**CAT, "stepIndex": "1"}),
    (400, "EXECUTION_ID_INVALID", "POST", f"{TWO_STEP}/execute", {"executionId": "x"}),
    (400, "MESSAGES_ROLE_INVALID", "POST", f"{TWO_STEP}/execute", SYSTEM),
    (413, "MESSAGES_TOO_LARGE", "POST", f"{TWO_STEP}/execute", LONG),
    (400, "TOOLS_NOT_ENABLED", "POST", f"{TWO_STEP}/execute", CITY),
    (400, "TOOLS_INVALID", "POST", f"{WEATHER_FLOW}/execute", {**CITY, "tools": [{}]}),
    (400, "TOOLS_REQUIRE_SYNC_EXECUTE", "POST", f"{WEATHER_FLOW}/jobs", CITY),
    (400, "TEMPLATE_UNRESOLVED", "POST", "acme/tests/picky/execute", CAT),
    (422, "INVALID_TREE", "POST", "acme/tests/bad/execute", CAT),
]


@pytest.mark.parametrize(("status", "code", "method", "path", "body"), ERRORS)
def test_error_fits_the_contract(
    client: StrictClient, status: int, code: str, method: str, path: str, body: Any
) -> None:
    assert client.read(wire.ErrorBody, method, f"/seq/{path}", body, status).detail.code == code


def test_unknown_step_of_a_run_is_run_not_found(client: StrictClient) -> None:
    completed, _ = client.execute(TWO_STEP, CAT)
    path = f"/seq/{TWO_STEP}/runs/{completed.execution_id}/steps/none/trace"
    error = client.read(wire.ErrorBody, "GET", path, None, 404).detail
    assert (error.code, "'none'" in error.message) == ("RUN_NOT_FOUND", True)


def test_error_of_a_key_fits_the_contract(client: StrictClient) -> None:
    for key, status, code in (
        ("", 401, "UNAUTHENTICATED"),
        ("nk_wrong", 401, "UNAUTHENTICATED"),
        ("nk_other", 404, "FLOW_NOT_FOUND"),
    ):
        response = client.send("POST", f"/seq/{TWO_STEP}/execute", CAT, key)
        error = wire.ErrorBody.model_validate_json(response.text).detail
        assert (response.status, error.code) == (status, code)
        assert ("www-authenticate" in response.headers) is (status == 401)


def test_resume_with_wrong_results_fits_the_contract(client: StrictClient) -> None:
    flow = "acme/samples/weather"
    pause = client.read(wire.Paused, "POST", f"/seq/{flow}/execute", CITY)
    resume = {
        "executionId": pause.execution_id,
        "pausedAtStep": pause.paused_at_step,
        "iterationsUsed": pause.iterations_used,
        "toolCallMessages": [{"tool_call_id": "other", "output": 1}],
    }
    path = f"/seq/{flow}/execute"
    wrong_ids = client.read(wire.ErrorBody, "POST", path, resume, 400)
    wrong_step = client.read(wire.ErrorBody, "POST", path, {**resume, "pausedAtStep": "x"}, 400)
    assert wrong_ids.detail.code == "TOOL_RESULTS_MISMATCH"
    assert wrong_step.detail.code == "PAUSED_STEP_INVALID"
    assert wrong_ids.detail.execution_id == pause.execution_id


def test_what_clients_store_of_a_session_fits_the_contract(client: StrictClient) -> None:
    client.execute(TWO_STEP, CAT)
    session = f"/seq/sessions/{client.session_id}"
    pages = Path(__file__).parents[2] / "docs/wire.md"
    examples = re.findall(r"^```json\n(.*?)^```", pages.read_text(), re.MULTILINE | re.DOTALL)
    outcomes, boundaries, report = (
        next(json.loads(text) for text in examples if text.startswith(start))
        for start in ('{"outcomes"', '{"boundaries"', '{"replayId"')
    )
    outcomes["parent"]["sessionId"] = report["replayId"] = "an-id"
    request = {"method": "GET", "origin": "http://localhost", "path": "/"}
    exchange = {"request": request, "response": {"status": 500}}
    for method, name, body in [
        ("PUT", "outcomes", outcomes),
        ("PUT", "boundaries", {**boundaries, "total": 2}),
        ("PUT", "exchange", exchange),
        ("POST", "replays", report),
    ]:
        response = client.send(method, f"{session}/{name}", body)
        assert (response.status, json.loads(response.text)["sessionId"]) == (200, client.session_id)
    stored = client.read(wire.Session, "GET", session)
    assert [outcome.error.code for outcome in stored.outcomes] == ["CREDITS_EXHAUSTED"]
    assert stored.total_calls == outcomes["totalCalls"]
    assert [boundary.result for boundary in stored.boundaries] == [{"title": "Dune"}]
    assert stored.total_boundaries == 2
    assert len(stored.executions) == 1
    assert client.read(wire.Exchange, "GET", f"{session}/exchange").response.status == 500
    [kept] = client.read(wire.ReplayList, "GET", f"{session}/replays").replays
    assert kept == client.read(wire.StoredReport, "GET", "/seq/replays/an-id")
    assert kept.summary == report["summary"]
    assert kept.sent is not None
    unknown = client.read(wire.ErrorBody, "GET", "/seq/replays/other-id", status=404)
    assert unknown.detail.code == "REPLAY_NOT_FOUND"
    page = client.read(wire.SessionPage, "GET", f"/seq/sessions?limit=1&q={client.session_id}")
    assert [(row.request, row.status, row.parent) for row in page.sessions] == [
        ("GET /", "failed", "an-id")
    ]
    other = {**exchange, "response": {"status": 200}}
    error = client.read(wire.ErrorBody, "PUT", f"{session}/exchange", other, 409)
    assert error.detail.code == "EXCHANGE_EXISTS"


def test_flows_and_published_versions_fit_the_contract(client: StrictClient) -> None:
    flow = "acme/samples/weather"
    client.send("POST", f"/flows/{flow}/publish")
    published = client.read(wire.PublishedVersion, "POST", f"/flows/{flow}/publish")
    assert (published.slug, published.version, published.is_new) == ("weather", 1, False)
    described = client.read(wire.FlowDescription, "GET", f"/flows/{flow}")
    assert [version.version for version in described.versions] == [1]
    assert described.content_hash == published.content_hash
    assert len(described.steps) == described.block_count
    page = client.read(wire.FlowPage, "GET", "/flows?limit=2")
    assert (len(page.flows), page.next_cursor is None) == (2, False)
    error = client.read(wire.ErrorBody, "POST", "/flows/acme/samples/none/publish", None, 404)
    assert error.detail.code == "FLOW_NOT_FOUND"


def test_jobs_and_workers_fit_the_contract(client: StrictClient) -> None:
    flow = "acme/tests/broken"
    failed = client.run_job(flow, CAT)
    path = f"/seq/{flow}/jobs/{failed.execution_id}/retry"
    again = client.read(wire.Submitted, "POST", path, None, 202)
    page = client.read(wire.JobPage, "GET", "/seq/jobs?flow=broken&limit=2")
    assert [job.execution_id for job in page.jobs] == [again.execution_id, failed.execution_id]
    assert (page.jobs[0].retry_of, page.jobs[1].retried_as) == (
        failed.execution_id,
        again.execution_id,
    )
    trace = client.trace(flow, failed.execution_id)
    assert trace.flow_run.session_id == client.session_id
    assert trace.flow_run.error == failed.error == page.jobs[1].error
    [worker] = client.read(wire.WorkerList, "GET", "/workers").workers
    assert worker.role == "dev"


def test_cancelled_job_polls_as_failed(client: StrictClient) -> None:
    submitted = client.read(wire.Submitted, "POST", f"/seq/{TWO_STEP}/jobs", CAT, 202)
    path = f"/seq/{TWO_STEP}/jobs/{submitted.execution_id}"
    poll = client.read(wire.Poll, "DELETE", path)
    # It may have ended before.
    assert poll.status in ("completed", "failed")
    assert poll.status == "completed" or poll.error.code == "CANCELLED"
    assert client.read(wire.Poll, "GET", path) == poll
    assert client.read(wire.Poll, "DELETE", path) == poll
