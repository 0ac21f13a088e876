"""Serve a job from its recording."""

from __future__ import annotations

import copy
from collections.abc import Callable

from ..errors import APITimeoutError, NoukaiError
from ..models.results import JobStatus
from ..models.sessions import RecordedError
from ..protocol.jobs import raise_if_cancelled
from ..protocol.program import CHECKPOINT, Program, Sleep, Timeout
from .recording import Recording


class RecordedJob:
    """A job that returns the recorded polls in their order, and then the last one again.

    Args:
        recording: The recording of the submission.
        session_id: The session that it was recorded in.
        paced: ``wait`` sleeps between two polls; otherwise it returns at once.
        to_error: Turns a recorded error into an exception.
        to_miss: Turns a reason into the error for a poll that was not recorded.
    """

    def __init__(
        self,
        recording: Recording,
        session_id: str | None,
        *,
        paced: bool,
        to_error: Callable[[RecordedError], NoukaiError],
        to_miss: Callable[[str], NoukaiError],
    ) -> None:
        assert recording.result is not None  # a job without a submission is never served
        self.execution_id: str = recording.result["executionId"]
        self.flow_id: str | None = recording.result.get("flowId")
        self.session_id = session_id
        self._polls = _Polls(recording)
        self._paced = paced
        self._to_error = to_error
        self._to_miss = to_miss

    def by_id(self) -> RecordedJob:
        """Return the same job as found by its id: then it does not know its session or its flow."""
        job = copy.copy(self)
        job.session_id = job.flow_id = None
        return job

    def poll(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Return the next recorded status, or raise the next recorded error."""
        yield CHECKPOINT
        poll = self._polls.next()
        if poll is None:
            raise self._to_miss(
                f"Job {self.execution_id} was never polled when it was recorded, so there is no "
                "status to return."
            )
        if isinstance(poll, RecordedError):
            raise self._to_error(poll)
        return poll.model_copy(update={"session_id": self.session_id})

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """Return the recorded end of the job."""
        while True:
            status = yield from self.poll()
            if status.is_done:
                raise_if_cancelled(status)
                return status
            if self._polls.used_up:
                raise APITimeoutError(
                    f"job {self.execution_id} had not ended when it was recorded",
                    execution_id=self.execution_id,
                )
            if self._paced:
                yield Sleep(poll_interval)

    def cancel(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Return the next recorded status: the recorder takes the state after a cancel for a poll."""
        return self.poll(timeout)


class _Polls:
    """The polls of one job, shared by all objects that stand for it."""

    def __init__(self, recording: Recording) -> None:
        self._polls: list[JobStatus | RecordedError] = []
        self._taken = 0
        errors = list(recording.poll_errors)
        for number, status in enumerate([*recording.statuses, None]):
            while errors and errors[0][0] <= number:
                self._polls.append(errors.pop(0)[1])
            if status is not None:
                self._polls.append(JobStatus.model_validate(status))

    def next(self) -> JobStatus | RecordedError | None:
        """Return the next poll, or the last one again; None if there is none."""
        if not self._polls:
            return None
        self._taken += 1
        return self._polls[min(self._taken, len(self._polls)) - 1]

    @property
    def used_up(self) -> bool:
        """Whether every poll was returned."""
        return self._taken >= len(self._polls)
