"""Jobs and run traces, over a real server."""

from __future__ import annotations

import re
from typing import Any

import pytest

from noukai_sdk import (
    APITimeoutError,
    JobCancelledError,
    RunNotFoundError,
    StepAttempts,
    StepTrace,
    Trace,
)
from tests.support.service import COMPLETED, STARTED, Reply, Service, finished, stream
from tests.support.sides import Side

BASE = "/api/v1/seq/acme/spelling/grade-3"
ACCEPTED = Reply({"executionId": "e/1", "status": "pending", "flowId": "f", "blockCount": 2}, 202)
NOT_FOUND = Reply({"detail": {"code": "RUN_NOT_FOUND", "message": "no"}}, 404)
STEP = {"stepId": "a", "attempt": 1, "status": "completed"}


def status(word: str, **more: Any) -> Reply:
    return Reply({"executionId": "e/1", "status": word, **more})


async def submit(side: Side, flow: Any, **options: Any) -> Any:
    return await side.call(flow.execute_async, message="long", **options)


async def test_job_is_submitted_and_waited_for(side: Side, service: Service) -> None:
    service.reply(
        ACCEPTED,
        NOT_FOUND,
        NOT_FOUND,
        status("running"),
        status("completed", result={"x": 1}),
    )
    async with side.flow() as flow:
        job = await submit(side, flow, trace=True, version=3, session_id="s1")
        assert (job.execution_id, job.session_id, job.flow_id) == ("e/1", "s1", "f")
        assert (await side.call(job.poll, timeout=5.0)).status == "pending"
        done = await side.call(job.wait, timeout=30.0, poll_interval=0.01)
    assert (done.status, done.result, done.session_id, done.is_done) == (
        "completed",
        {"x": 1},
        "s1",
        True,
    )
    first, *polls = service.requests
    assert (first.method, first.path) == ("POST", f"{BASE}/v3/jobs")
    assert first.body == {"message": "long", "trace": True}
    assert first.headers["x-session-id"] == "s1"
    assert [(poll.method, poll.path) for poll in polls] == [("GET", f"{BASE}/jobs/e%2F1")] * 4


async def test_job_by_id_is_polled(side: Side, service: Service) -> None:
    service.reply(status("completed", result=1), NOT_FOUND)
    async with side.flow() as flow:
        job = flow.job("e/1")
        assert (await side.call(job.wait)).result == 1
        with pytest.raises(RunNotFoundError) as caught:
            await side.call(job.poll)
    assert caught.value.execution_id == "e/1"


async def test_job_is_cancelled(side: Side, service: Service) -> None:
    cancelled = status("failed", error={"code": "CANCELLED", "message": "by a caller"})
    service.reply(ACCEPTED, cancelled, cancelled)
    async with side.flow() as flow:
        job = await submit(side, flow, session_id="s1")
        state = await side.call(job.cancel, timeout=5.0)
        assert (state.status, state.is_cancelled, state.session_id) == ("failed", True, "s1")
        with pytest.raises(JobCancelledError, match="by a caller"):
            await side.call(job.wait)
    assert (service.requests[1].method, service.requests[1].path) == (
        "DELETE",
        f"{BASE}/jobs/e%2F1",
    )


async def test_job_wait_past_timeout_raises(side: Side, service: Service) -> None:
    service.reply(ACCEPTED, status("running"))
    async with side.flow() as flow:
        job = await submit(side, flow)
        with pytest.raises(APITimeoutError, match="still running after") as caught:
            await side.call(job.wait, timeout=0.05, poll_interval=0.01)
    assert caught.value.execution_id == "e/1"


async def test_run_and_step_traces_are_read(side: Side, service: Service) -> None:
    whole = {"flowRun": {"id": "e", "status": "completed"}, "steps": [STEP]}
    service.reply(whole, STEP, STEP, {"stepId": "a", "attempts": [STEP]})
    async with side.flow() as flow:
        run = flow.run("e")
        trace = await side.call(run.trace, timeout=5.0)
        latest = await side.call(run.step_trace, "a b")
        second = await side.call(run.step_trace, "a", attempt=2, loop_index=0)
        every = await side.call(run.step_trace, "a", attempt="all")
    assert isinstance(trace, Trace)
    assert (trace.summary.status, trace.steps[0].step_id) == ("completed", "a")
    assert isinstance(latest, StepTrace)
    assert isinstance(second, StepTrace)
    assert isinstance(every, StepAttempts)
    assert [request.path for request in service.requests] == [
        f"{BASE}/runs/e/trace",
        f"{BASE}/runs/e/steps/a%20b/trace",
        f"{BASE}/runs/e/steps/a/trace?attempt=2&loop_index=0",
        f"{BASE}/runs/e/steps/a/trace?attempt=all",
    ]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"attempt": 0}, 'attempt must be "latest", "all" or a number ≥ 1, not 0'),
        ({"attempt": True}, "not True"),
        ({"attempt": "first"}, "not 'first'"),
        ({"attempt": 1.0}, "not 1.0"),
        ({"loop_index": -1}, "loop_index must be a number ≥ 0, not -1"),
        ({"loop_index": "0"}, "loop_index must be a number ≥ 0"),
        ({"step_id": ".."}, "bad step_id '..'"),
        ({"timeout": 0}, "timeout must be a positive number"),
    ],
)
async def test_step_trace_argument_not_valid_raises(
    side: Side, service: Service, arguments: dict[str, Any], problem: str
) -> None:
    async with side.flow() as flow:
        with pytest.raises(ValueError, match=re.escape(problem)):
            await side.call(flow.run("e").step_trace, **{"step_id": "a", **arguments})
    assert not service.requests


async def test_job_argument_not_valid_raises(side: Side, service: Service) -> None:
    async with side.flow() as flow:
        job = flow.job("e")
        bad: dict[str, Any]
        for bad in ({"timeout": 0}, {"poll_interval": -1}, {"timeout": "1"}):
            with pytest.raises((ValueError, TypeError), match=f"{next(iter(bad))} must be"):
                await side.call(job.wait, **bad)
        with pytest.raises(ValueError, match="timeout must be"):
            await side.call(job.poll, timeout=0)
    assert not service.requests


async def test_live_trace_yields_events(side: Side, service: Service) -> None:
    service.reply(
        stream(STARTED, finished("a", 0), {"eventType": "step_paused"}, finished("b", 0), COMPLETED)
    )
    async with side.flow() as flow:
        events = await side.collect(flow.run("e").live_trace(timeout=5.0))
    assert [event.type for event in events] == [
        "run_started", "step_completed", "step_paused", "step_completed", "flow_completed",
    ]  # fmt: skip
    assert [event.step_index for event in events if event.type == "step_completed"] == [0, 1]
    assert service.last.path == f"{BASE}/runs/e/trace/stream"
    assert (service.last.method, service.last.headers["accept"]) == ("GET", "text/event-stream")


async def test_run_unknown_raises(side: Side, service: Service) -> None:
    service.reply(NOT_FOUND)
    async with side.flow() as flow:
        run = flow.run("e")
        for method in (run.trace, lambda: run.step_trace("a")):
            with pytest.raises(RunNotFoundError) as caught:
                await side.call(method)
            assert caught.value.execution_id == "e"
        with pytest.raises(RunNotFoundError) as caught:
            await side.collect(run.live_trace())
        assert caught.value.execution_id == "e"
