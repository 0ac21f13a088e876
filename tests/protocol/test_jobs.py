"""Jobs, stepped by hand: submit, poll, the early 404, wait."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import (
    APITimeoutError,
    FlowExecutionError,
    JobCancelledError,
    JobStatus,
    RunNotFoundError,
)
from noukai_sdk.protocol.jobs import LiveJob, submit
from tests.support.stepping import FLOW, Clock, make_call, make_service, play, respond

NOT_FOUND = respond({"detail": {"code": "RUN_NOT_FOUND"}}, 404)


def status(word: str, **more: Any) -> Any:
    return respond({"executionId": "e", "status": word, **more})


def make_job(submitted_at: float | None = 100.0, **changes: Any) -> LiveJob:
    return LiveJob(make_service(**changes), FLOW, "e", submitted_at, "s1")


def test_submit_posts_request_and_returns_job() -> None:
    call = make_call("job", request={"message": "hi", "trace": True}, session_id="s1")
    accepted = respond(
        {"executionId": "e", "status": "pending", "flowId": "f", "blockCount": 2}, 202
    )
    played = play(submit(call), [accepted], clock=Clock(100.0))
    job = played.result
    assert (job.execution_id, job.session_id, job.submitted_at) == ("e", "s1", 100.0)
    assert played.bodies == [{"message": "hi", "trace": True}]
    assert played.requests[0].path == "/seq/acme/spelling/grade-3/jobs"
    assert played.requests[0].headers["X-Session-Id"] == "s1"
    with pytest.raises(FlowExecutionError, match="executionId"):
        play(submit(call), [respond({}, 202)])


@pytest.mark.parametrize("word", ["pending", "running", "completed", "failed"])
def test_poll_returns_status(word: str) -> None:
    played = play(make_job().poll(3.0), [status(word, result={"x": 1}, error={"code": "X"})])
    assert played.result == JobStatus(
        execution_id="e",
        status=word,  # type: ignore[arg-type]  # one of the four
        result={"x": 1},
        error={"code": "X"},
        session_id="s1",
    )
    assert played.result.is_done == (word in ("completed", "failed"))
    (request,) = played.requests
    assert (request.method, request.path) == ("GET", "/seq/acme/spelling/grade-3/jobs/e")
    assert (request.timeout, request.body) == (3.0, None)


def test_poll_without_id_returns_status_of_its_job() -> None:
    played = play(make_job().poll(), [respond({"status": "running"})])
    assert (played.result.status, played.result.execution_id) == ("running", "e")


def test_poll_of_unknown_job_is_pending_only_after_submission() -> None:
    pending = play(make_job(100.0).poll(), [NOT_FOUND], clock=Clock(104.9)).result
    assert (pending.status, pending.session_id) == ("pending", "s1")
    for submitted_at, now in ((100.0, 105.0), (None, 100.0)):
        with pytest.raises(RunNotFoundError) as caught:
            play(make_job(submitted_at).poll(), [NOT_FOUND], clock=Clock(now))
        assert caught.value.execution_id == "e"


@pytest.mark.parametrize("end", ["completed", "failed"])
def test_wait_polls_until_done(end: str) -> None:
    outcomes = [NOT_FOUND, status("pending"), status("running"), status(end, result=1)]
    played = play(make_job().wait(300.0, 2.0), outcomes, clock=Clock(100.0))
    assert (played.result.status, played.result.result) == (end, 1)
    assert played.slept == [2.0, 2.0, 2.0]


def test_wait_past_deadline_raises() -> None:
    # Polls at 0 and at 2 seconds, and once at the deadline itself.
    with pytest.raises(APITimeoutError, match="still running after 3 s") as caught:
        play(make_job().wait(3.0, 2.0), [status("running")] * 3)
    assert caught.value.execution_id == "e"


@pytest.mark.parametrize(
    ("deadline", "client", "poll"), [(600.0, 300.0, 300.0), (10.0, 300.0, 10.0), (0.1, 300.0, 1.0)]
)
def test_wait_limits_timeout_of_each_poll(deadline: float, client: float, poll: float) -> None:
    played = play(make_job(timeout=client).wait(deadline, 2.0), [status("completed")])
    assert played.requests[0].timeout == poll


CANCELLED = {"code": "CANCELLED", "message": "cancelled by its caller"}


def test_cancel_is_sent_again_after_503_and_returns_state() -> None:
    busy = respond({"detail": "busy"}, 503)
    played = play(make_job(max_retries=1).cancel(3.0), [busy, status("failed", error=CANCELLED)])
    assert played.result.is_cancelled
    assert (played.result.session_id, played.result.is_done) == ("s1", True)
    for request in played.requests:
        assert (request.method, request.path) == ("DELETE", "/seq/acme/spelling/grade-3/jobs/e")
    for word, error in (("completed", None), ("failed", {"code": "MODEL_ERROR"}), ("failed", "x")):
        ended = play(make_job().cancel(), [status(word, error=error)]).result
        assert (ended.status, ended.is_cancelled) == (word, False)


def test_cancel_without_endpoint_raises_what_the_service_lacks() -> None:
    for code in (404, 405, 501):
        with pytest.raises(FlowExecutionError, match="cannot cancel jobs") as caught:
            play(make_job().cancel(), [respond({"detail": "Not Found"}, code)])
        assert (caught.value.code, caught.value.execution_id) == ("CANCEL_NOT_SUPPORTED", "e")
    with pytest.raises(RunNotFoundError):
        play(make_job().cancel(), [NOT_FOUND])


def test_wait_for_cancelled_job_raises() -> None:
    with pytest.raises(JobCancelledError, match="cancelled by its caller") as caught:
        play(make_job().wait(300.0, 2.0), [status("running"), status("failed", error=CANCELLED)])
    assert (caught.value.code, caught.value.execution_id) == ("CANCELLED", "e")
