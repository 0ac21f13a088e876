"""Parts of a recording that a service session never holds: exact errors, polls, malformed fields."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    APITimeoutError,
    FlowExecutionError,
    InsufficientCreditsError,
    JobStatus,
    RateLimitError,
    ReplayDisabledError,
    ReplayError,
    ReplayInvalidSessionError,
    ReplayMissError,
)
from noukai_sdk.models.sessions import RecordedError
from noukai_sdk.protocol.jobs import LiveJob
from noukai_sdk.protocol.program import Program, SendRequest
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.pacing import InstantPace
from noukai_sdk.replay.recorder import Recorder
from noukai_sdk.replay.recording import Recording
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import active
from tests.replay.timed import live_program, replay, timeline
from tests.support.replays import SyncSide
from tests.support.stepping import Clock, make_call, respond

pytestmark = pytest.mark.anyio


def recording(kind: Any = "execute", **fields: Any) -> Recording:
    return Recording(slug="grade-3", kind=kind, request={"message": "m0"}, **fields)


@contextmanager
def replaying(*recordings: Recording) -> Iterator[ReplayScope]:
    scope = ReplayScope(Cassette(None, recordings))
    try:
        with active(scope):
            yield scope
        scope.verify()
    finally:
        scope.end()


@pytest.mark.parametrize("kind", ["execute", "step"])
async def test_recorded_error_is_raised_with_its_class_and_attributes(
    side: SyncSide, kind: str
) -> None:
    call = side.execute if kind == "execute" else side.events
    error = RecordedError(
        type="RateLimitError", message="slow down", status_code=429, details={"retry_after": 2.5}
    )
    with replaying(recording(kind, error=error)), pytest.raises(RateLimitError) as caught:
        await call()
    assert str(caught.value) == "slow down"
    assert (caught.value.retry_after, caught.value.status_code) == (2.5, 429)

    error = RecordedError(type="APIConnectionError", details={"request_sent": False})
    with replaying(recording(kind, error=error)), pytest.raises(APIConnectionError) as lost:
        await call()
    assert not lost.value.request_sent


async def test_recorded_error_that_is_not_one_of_ours(side: SyncSide) -> None:
    error = RecordedError(type="Sequence", code="CREDITS_EXHAUSTED", message="empty")
    with replaying(recording(error=error)), pytest.raises(InsufficientCreditsError) as caught:
        await side.execute()
    assert str(caught.value) == "CREDITS_EXHAUSTED: empty"

    error = RecordedError(type="RateLimitError", details={"colour": "red"})
    malformed = pytest.raises(ReplayInvalidSessionError, match="malformed: RateLimitError")
    with malformed, replaying(recording(error=error)) as scope, suppress(ReplayError):
        await side.execute()
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


async def test_stream_that_the_service_just_closed_ends_the_same_way(side: SyncSide) -> None:
    events = [{"eventType": "run_started"}, {"eventType": "step_started", "stepId": "a"}]
    with replaying(recording("step", events=events, closed=True)) as scope:
        assert [event.type for event in await side.events()] == ["run_started", "step_started"]
    assert scope.report.clean


@pytest.mark.parametrize(
    ("kind", "fields", "problem"),
    [
        ("job", {"result": {}}, "JobAccepted"),
        ("job", {"result": {"executionId": 7}}, "JobAccepted"),
        ("job", {"result": {"executionId": "e"}, "statuses": [{}]}, "a poll of the job"),
        ("execute", {"result": {"status": "unheard of"}}, "ExecuteResult: status"),
    ],
)
async def test_malformed_job_or_result_is_refused(
    side: SyncSide, kind: str, fields: dict[str, Any], problem: str
) -> None:
    malformed = pytest.raises(ReplayInvalidSessionError, match=f"malformed: {problem}")
    with malformed, replaying(recording(kind, **fields)):
        await (side.submit() if kind == "job" else side.execute())


async def test_request_of_messages_and_cassette_without_session(side: SyncSide) -> None:
    turns = [{"role": "user", "content": "hello"}]
    result = {"status": "completed", "result": 1}
    messages = Recording(slug="grade-3", kind="execute", request={"messages": turns}, result=result)
    with replaying(messages) as scope:
        assert (await side.execute(None, messages=turns)).result == 1
    assert scope.report.clean
    with pytest.raises(ReplayMissError) as caught, replaying() as scope:
        assert scope.session_id is None
        await side.execute()
    assert caught.value.recorded == 0


def test_recording_describes_itself() -> None:
    assert str(recording(execution_id="e-1")) == "grade-3 [execute] e-1"
    assert str(Recording(slug=None, kind=None)) == "(deleted flow) [any kind] "
    assert recording("job", statuses=({"status": "completed", "result": 5},)).output == 5


JOB = make_call("job")
RUNNING, DONE = (
    respond({"executionId": "j", "status": status, "result": 1})
    for status in ("running", "completed")
)
BROKEN = respond({"detail": {"code": "INTERNAL_ERROR", "message": "oh"}}, 500)


class RecordedJobs:
    """A job that was submitted and is being recorded."""

    def __init__(self) -> None:
        self.recorder = Recorder()
        submitted = respond({"executionId": "j", "status": "pending"})
        self.job = self.last(self.recorder.listen(JOB, live_program(JOB)), submitted)

    def last(self, program: Program[Any], *outcomes: Any) -> Any:
        """The result of a program, or the class of its error."""
        return timeline(Clock(), program, outcomes)[-1][1]

    def replayed(self) -> Any:
        """The job, served from the recording so far."""
        (recorded,) = self.recorder.recordings()
        return replay(Clock(), JOB, recorded, InstantPace)[-1][1]


@pytest.fixture
def jobs() -> RecordedJobs:
    return RecordedJobs()


def test_job_polls_are_replayed_in_order_with_their_errors(jobs: RecordedJobs) -> None:
    # Four requests: a read is sent again after a 500, once.
    seen = [
        jobs.last(jobs.job.poll(), RUNNING),
        jobs.last(jobs.job.poll(), BROKEN, BROKEN),
        jobs.last(jobs.job.poll(), RUNNING),
        jobs.last(jobs.job.wait(60, 2), RUNNING, BROKEN, BROKEN),
        jobs.last(jobs.job.wait(60, 2), DONE),
    ]
    assert seen[1] is seen[3] is FlowExecutionError
    assert isinstance(seen[4], JobStatus)
    job = jobs.replayed()
    again = [jobs.last(job.poll()) for _ in range(3)]
    again += [jobs.last(job.wait(60, 2)) for _ in range(2)]
    assert [getattr(each, "status", each) for each in again] == [
        getattr(each, "status", each) for each in seen
    ]


def test_job_that_had_not_ended_keeps_its_last_status_and_wait_times_out(
    jobs: RecordedJobs,
) -> None:
    jobs.last(jobs.job.poll(), RUNNING)
    job = jobs.replayed()
    assert [jobs.last(job.poll()).status for _ in range(2)] == ["running"] * 2
    assert jobs.last(jobs.replayed().wait(60, 2)) is APITimeoutError


def test_job_found_by_id_is_recorded_only_if_submitted_here(jobs: RecordedJobs) -> None:
    other = LiveJob(JOB.service, JOB.flow, "other")
    assert jobs.recorder.job(other) is other
    same = jobs.recorder.job(LiveJob(JOB.service, JOB.flow, "j"))
    assert jobs.last(same.poll(), DONE).is_done
    assert jobs.last(jobs.replayed().poll()).is_done


def refused() -> Program[Any]:
    yield SendRequest(None)  # type: ignore[arg-type]  # never read here
    raise ReplayDisabledError("no request may leave")


def test_call_or_poll_refused_in_this_process_is_not_recorded(jobs: RecordedJobs) -> None:
    recorder = Recorder()
    for kind in ("execute", "step", "job"):
        program = recorder.listen(make_call(kind), refused())  # type: ignore[arg-type]  # a kind
        assert jobs.last(program, respond()) is ReplayDisabledError
    assert recorder.recordings() == []
    assert not recorder.has_news

    class Refusing:
        execution_id = "j"
        session_id = flow_id = None

        def poll(self, timeout: float | None = None) -> Program[JobStatus]:
            return refused()

        wait = poll

    job = jobs.recorder.job(Refusing())  # type: ignore[arg-type]  # as much as is needed here
    assert jobs.last(job.poll(), respond()) is ReplayDisabledError
    (recorded,) = jobs.recorder.recordings()
    assert recorded.poll_errors == ()
