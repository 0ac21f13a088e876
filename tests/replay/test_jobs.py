"""Recorded jobs, look by look, on a clock of the test."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import APITimeoutError, FlowExecutionError, JobStatus, ReplayDisabledError
from noukai_sdk.protocol.jobs import JobBackend, LiveJob
from noukai_sdk.protocol.program import Program, Response, SendRequest
from noukai_sdk.replay.cassette import Cassette
from noukai_sdk.replay.player import Player
from noukai_sdk.replay.recorder import Recorder
from noukai_sdk.replay.recording import Recording
from noukai_sdk.replay.redaction import Redactor
from tests.replay.stepping import SERVICE, Clock, call, ok

SUBMITTED = (0.0, ok(executionId="j", status="pending"))
RUNNING = (0.0, ok(executionId="j", status="running"))
DONE = (0.0, ok(executionId="j", status="completed", result=1))
BROKEN = (0.0, Response(500, {}, b'{"detail": {"code": "INTERNAL_ERROR", "message": "oh"}}'))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


class Recorded:
    """A job that was submitted and is being recorded."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.recorder = Recorder()
        self.job: JobBackend = self.last(
            self.recorder.listen(call("job"), call("job").live()), SUBMITTED
        )

    def last(self, program: Program[Any], *answers: Any) -> Any:
        """What a program came to."""
        return self.clock.run(program, answers)[-1][1]

    def replayed(self) -> JobBackend:
        """The job, from what was recorded."""
        player = Player(Cassette("s", self.recorder.recordings()))
        job: JobBackend = self.last(player.play(call("job"), player.claim(call("job"))))
        return job


@pytest.fixture
def recorded(clock: Clock) -> Recorded:
    return Recorded(clock)


def test_a_look_that_failed_fails_again(recorded: Recorded) -> None:
    seen = [
        recorded.last(recorded.job.poll(), RUNNING),
        recorded.last(recorded.job.poll(), BROKEN),
        recorded.last(recorded.job.poll(), RUNNING),
        recorded.last(recorded.job.wait(60, 2), RUNNING, BROKEN),
        recorded.last(recorded.job.wait(60, 2), DONE),
    ]
    assert seen[1] is seen[3] is FlowExecutionError
    assert isinstance(seen[4], JobStatus)
    job = recorded.replayed()
    again = [recorded.last(job.poll()) for _ in range(3)]
    again += [recorded.last(job.wait(60, 2)) for _ in range(2)]
    assert [getattr(each, "status", each) for each in again] == [
        getattr(each, "status", each) for each in seen
    ]


def test_a_job_that_had_not_ended(recorded: Recorded) -> None:
    recorded.last(recorded.job.poll(), RUNNING)
    job = recorded.replayed()
    assert recorded.last(job.poll()).status == "running"
    assert recorded.last(job.poll()).status == "running"
    assert recorded.last(recorded.replayed().wait(60, 2)) is APITimeoutError


def test_other_jobs_are_not_recorded(recorded: Recorded) -> None:
    other = LiveJob(SERVICE, call("job").flow, "other")
    assert recorded.recorder.job(other) is other
    same = recorded.recorder.job(LiveJob(SERVICE, call("job").flow, "j"))
    assert recorded.last(same.poll(), DONE).is_done
    assert recorded.last(recorded.replayed().poll()).is_done


def refused() -> Program[Any]:
    yield SendRequest(None)  # type: ignore[arg-type]  # nobody looks at it here
    raise ReplayDisabledError("no request may leave")


def test_what_was_refused_here_is_no_answer_of_the_service(clock: Clock) -> None:
    recorder = Recorder()
    for kind in ("execute", "step", "job"):
        seen = clock.run(recorder.listen(call(kind), refused()), [(0, None)])
        assert seen == [(0, ReplayDisabledError)]
    assert recorder.recordings() == []
    assert not recorder.has_news


def test_a_look_that_was_refused_here_is_none(recorded: Recorded) -> None:
    class Refusing:
        execution_id = "j"
        session_id = None

        def poll(self, timeout: float | None = None) -> Program[JobStatus]:
            return refused()

        wait = poll

    job = recorded.recorder.job(Refusing())  # type: ignore[arg-type]  # as much as is needed here
    assert recorded.last(job.poll(), (0, None)) is ReplayDisabledError
    (recording,) = recorded.recorder.recordings()
    assert recording.poll_errors == ()


def test_a_hook_that_drops_the_rounds_has_nothing_to_compare() -> None:
    def dropped(recording: dict[str, Any]) -> dict[str, Any]:
        recording.pop("rounds", None)
        return recording

    redactor = Redactor(hook=dropped)
    assert redactor.tool_results({"message": "m"}, 1, [{"content": "x"}]) is None


def test_what_a_job_came_to() -> None:
    job = Recording(slug="s", kind="job", statuses=({"status": "completed", "result": 5},))
    assert job.output == 5
    assert str(job) == "s [job] "
