"""Jobs, stepped by hand: submit, poll, the early 404, wait."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import APITimeoutError, FlowExecutionError, FlowNotFoundError, JobStatus
from noukai_sdk.protocol.jobs import LiveJob, submit
from tests.support.stepping import FLOW, a_call, a_service, answer, play

NOT_FOUND = answer({"detail": {"code": "RUN_NOT_FOUND"}}, 404)


def status(word: str, **more: Any) -> Any:
    return answer({"executionId": "e", "status": word, **more})


def a_job(submitted_at: float | None = 100.0, **changes: Any) -> LiveJob:
    return LiveJob(a_service(**changes), FLOW, "e", submitted_at, "s1")


def test_a_submission() -> None:
    call = a_call("job", request={"message": "hi", "trace": True}, session_id="s1")
    accepted = answer(
        {"executionId": "e", "status": "pending", "flowId": "f", "blockCount": 2}, 202
    )
    played = play(submit(call), [accepted], times=[100.0])
    job = played.result
    assert (job.execution_id, job.session_id, job.submitted_at) == ("e", "s1", 100.0)
    assert played.bodies == [{"message": "hi", "trace": True}]
    assert played.requests[0].path == "/seq/acme/spelling/grade-3/jobs"
    assert played.requests[0].headers["X-Session-Id"] == "s1"


def test_a_submission_without_an_id_is_refused() -> None:
    with pytest.raises(FlowExecutionError, match="executionId"):
        play(submit(a_call("job")), [answer({}, 202)])


@pytest.mark.parametrize("word", ["pending", "running", "completed", "failed"])
def test_a_poll(word: str) -> None:
    played = play(a_job().poll(3.0), [status(word, result={"x": 1}, error={"code": "X"})])
    assert played.result == JobStatus(
        execution_id="e", status=word, result={"x": 1}, error={"code": "X"}, session_id="s1"
    )
    assert played.result.is_done == (word in ("completed", "failed"))
    (request,) = played.requests
    assert (request.method, request.path) == ("GET", "/seq/acme/spelling/grade-3/jobs/e")
    assert (request.timeout, request.body) == (3.0, None)


def test_a_job_that_is_not_known_yet_is_pending() -> None:
    assert play(a_job().poll(), [NOT_FOUND], times=[104.9]).result.status == "pending"


@pytest.mark.parametrize(("submitted_at", "now"), [(100.0, 105.0), (None, 100.0)])
def test_a_job_that_is_not_known_any_more(submitted_at: float | None, now: float) -> None:
    with pytest.raises(FlowNotFoundError):
        play(a_job(submitted_at).poll(), [NOT_FOUND], times=[now])


def test_waiting() -> None:
    outcomes = [NOT_FOUND, status("pending"), status("running"), status("completed", result=1)]
    times = [100.0, 100.0, 100.0, 102.0, 102.0, 104.0, 104.0, 106.0]
    played = play(a_job().wait(300.0, 2.0), outcomes, times=times)
    assert played.result.result == 1
    assert played.slept == [2.0, 2.0, 2.0]


def test_a_failed_job_is_a_status() -> None:
    played = play(a_job().wait(300.0, 2.0), [status("failed", error="no")], times=[0.0])
    assert (played.result.status, played.result.error) == ("failed", "no")


def test_the_wait_ends_in_time() -> None:
    # A look at 0 and at 2 seconds, and one at the deadline itself.
    times = [0.0, 0.0, 2.0, 2.0, 3.0, 3.0]
    with pytest.raises(APITimeoutError, match="still running after 3 s") as caught:
        play(a_job().wait(3.0, 2.0), [status("running")] * 3, times=times)
    assert caught.value.execution_id == "e"


@pytest.mark.parametrize(
    ("deadline", "client", "poll"), [(600.0, 300.0, 300.0), (10.0, 300.0, 10.0), (0.1, 300.0, 1.0)]
)
def test_no_look_takes_longer_than_the_wait(deadline: float, client: float, poll: float) -> None:
    job = a_job(timeout=client)
    played = play(job.wait(deadline, 2.0), [status("completed")], times=[0.0])
    assert played.requests[0].timeout == poll
