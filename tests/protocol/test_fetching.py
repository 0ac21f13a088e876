"""Run traces, live traces and sessions, stepped by hand."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import FlowExecutionError, RunNotFoundError, StepTrace, errors
from noukai_sdk.protocol.fetching import fetch_session, live_trace, run_trace, step_trace
from tests.support.stepping import FLOW, frames, make_service, play, respond

BASE = "/seq/acme/spelling/grade-3/runs/e"
STEP = {
    "stepId": "a", "attempt": 2, "loopIndex": 0, "status": "completed", "startedAt": "t0",
    "completedAt": "t1", "durationMs": 12, "modelUsed": "m",
    "tokens": {"prompt": 1, "completion": 2, "total": 3}, "costUsd": "0.001",
    "inputContext": {"i": 1}, "outputContext": [1], "errorContext": None,
    "inputSizeBytes": 7, "outputSizeBytes": 8, "truncated": True,
}  # fmt: skip
RUN = {"id": "e", "flowId": "f", "status": "completed", "triggerType": "execute", "stepCount": 1}


def test_run_trace_is_parsed() -> None:
    played = play(
        run_trace(make_service(), FLOW, "e", 5.0), [respond({"flowRun": RUN, "steps": [STEP]})]
    )
    assert (played.requests[0].path, played.requests[0].timeout) == (f"{BASE}/trace", 5.0)
    trace = played.result
    assert trace.summary is trace.flow_run
    assert (trace.summary.id, trace.summary.step_count) == ("e", 1)
    (step,) = trace.steps
    assert (step.model_used, step.tokens.total, step.cost_usd, step.truncated) == (
        "m",
        3,
        "0.001",
        True,
    )
    assert (step.input_context, step.output_context, step.duration_ms) == ({"i": 1}, [1], 12)


@pytest.mark.parametrize(
    ("attempt", "loop_index", "query"),
    [
        ("latest", None, ""),
        ("latest", 0, "?loop_index=0"),
        (3, None, "?attempt=3"),
        (3, 2, "?attempt=3&loop_index=2"),
    ],
)
def test_step_trace_query_names_attempt_and_loop_index(
    attempt: Any, loop_index: int | None, query: str
) -> None:
    program = step_trace(make_service(), FLOW, "e", "a", attempt, loop_index, None)
    played = play(program, [respond(STEP)])
    assert played.requests[0].path == f"{BASE}/steps/a/trace{query}"
    assert played.result == StepTrace.model_validate(STEP)


def test_step_trace_of_all_attempts_is_parsed() -> None:
    program = step_trace(make_service(), FLOW, "e", "a", "all", None, None)
    played = play(program, [respond({"stepId": "a", "attempts": [STEP, STEP]})])
    assert played.requests[0].path == f"{BASE}/steps/a/trace?attempt=all"
    assert [attempt.attempt for attempt in played.result.attempts] == [2, 2]


def test_run_trace_failure_names_run() -> None:
    with pytest.raises(RunNotFoundError) as missing:
        play(run_trace(make_service(), FLOW, "e", None), [respond({"detail": "no"}, 404)])
    with pytest.raises(FlowExecutionError, match="not a valid Trace") as malformed:
        play(run_trace(make_service(), FLOW, "e", None), [respond({})])
    assert missing.value.execution_id == malformed.value.execution_id == "e"


def test_live_trace_yields_events_until_stream_ends() -> None:
    events = [
        {"eventType": "run_started", "executionId": "e"},
        {"eventType": "step_started", "stepId": "a", "stepIndex": 0},
        {"eventType": "step_output", "stepId": "a", "outputData": "x"},
        {"eventType": "step_paused", "executionId": "e"},
        {"eventType": "step_completed", "stepId": "b", "output": 1, "stepIndex": 0},
        {
            "eventType": "step_paused_for_tool_calls",
            "executionId": "e",
            "stepId": "b",
            "stepIndex": 0,
        },
        {"eventType": "step_completed", "stepId": "b", "output": 1},
        {"eventType": "flow_completed"},
        {"eventType": "step_output", "stepId": "late", "outputData": 1},
    ]
    played = play(
        live_trace(make_service(), FLOW, "e", 9.0), [[frames(*events[:2]), frames(*events[2:])]]
    )
    assert [event.event_type for event in played.events] == [event["eventType"] for event in events]
    numbers = [getattr(event, "step_index", "-") for event in played.events]
    assert numbers == ["-", 0, "-", 0, 1, 1, 1, "-", "-"]
    (request,) = played.requests
    assert (request.path, request.timeout) == (f"{BASE}/trace/stream", 9.0)
    assert request.headers == {"Accept": "text/event-stream"}


def test_session_is_parsed_after_retry() -> None:
    body = {
        "sessionId": "s1",
        "executions": [
            {"executionId": "e", "slug": None, "status": "completed", "steps": [
                {"stepId": "a", "status": "completed", "outputSnapshot": [1]}
            ]}
        ],
    }  # fmt: skip
    played = play(fetch_session(make_service(), "s1"), [respond(None, 503), respond(body)])
    assert played.requests[0].path == "/seq/sessions/s1"
    assert played.result.executions[0]["steps"][0]["outputSnapshot"] == [1]


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.ReplayInvalidSessionError),
        (403, errors.ReplayForbiddenError),
        (404, errors.ReplaySessionNotFoundError),
        (410, errors.ReplaySessionExpiredError),
        (401, errors.AuthenticationError),
        (422, errors.FlowExecutionError),
    ],
)
def test_session_error_status_raises_its_class(status: int, kind: type[errors.NoukaiError]) -> None:
    with pytest.raises(errors.NoukaiError) as caught:
        play(
            fetch_session(make_service(), "s1"),
            [
                respond(
                    {"detail": {"code": "C", "message": "secret org"}}, status, x_request_id="r1"
                )
            ],
        )
    error = caught.value
    assert type(error) is kind
    assert (error.status_code, error.code, error.request_id) == (status, "C", "r1")
    if isinstance(error, errors.ReplayError):
        assert "s1" in str(error)
        assert "secret org" not in str(error)


def test_session_not_valid_raises() -> None:
    with pytest.raises(errors.ReplayInvalidSessionError, match="bad session id"):
        next(fetch_session(make_service(), "../x"))
    with pytest.raises(errors.ReplayInvalidSessionError, match="malformed") as caught:
        play(fetch_session(make_service(), "s1"), [respond(b"\xff")])
    assert caught.value.response_body == "\ufffd"


@pytest.mark.parametrize(
    "fields",
    [
        {"executionId": None},
        {"status": 1},
        {"startedAt": 1.5},
        {"snapshotsAvailable": None},
        {"steps": None},
        {"steps": [{"status": "completed"}]},
        {"steps": [{"stepId": "a", "attempt": "x"}]},
        {"call": {"request": []}},
        {"error": {"statusCode": "x"}},
        {"events": ["run_started"]},
        {"toolRounds": [{"toolResults": []}]},
    ],
    ids=str,
)
def test_session_with_field_of_wrong_type_raises(fields: dict[str, Any]) -> None:
    body = {"sessionId": "s1", "executions": [{"executionId": "e", "status": "failed", **fields}]}
    with pytest.raises(errors.ReplayInvalidSessionError, match="malformed"):
        play(fetch_session(make_service(), "s1"), [respond(body)])
