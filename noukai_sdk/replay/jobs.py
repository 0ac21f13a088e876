"""A job from a recording."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..errors import APITimeoutError, NoukaiError
from ..models.results import JobStatus
from ..models.sessions import RecordedError
from ..protocol import jobs
from ..protocol.call import FlowCall
from ..protocol.program import Program, Sleep
from .recording import Recording

Look = JobStatus | RecordedError


class RecordedJob:
    """Gives the recorded looks at a job in their order; the last one again from there on.

    Args:
        call: The submission.
        recording: The one that answers it.
        session_id: The session that it was recorded in.
        paced: Waiting takes the time that it took; otherwise it is over at once.
        error_of: Makes an exception of a recorded error.
        missed: Makes the error for a look that was not recorded, of its reason.
    """

    def __init__(
        self,
        call: FlowCall,
        recording: Recording,
        session_id: str | None,
        *,
        paced: bool,
        error_of: Callable[[RecordedError], NoukaiError],
        missed: Callable[[str], NoukaiError],
    ) -> None:
        assert recording.result is not None  # a job without a submission is never served
        self.execution_id: str = recording.result["executionId"]
        self.session_id = session_id
        self._looks = list(_looks(recording))
        self._next = 0
        self._longest_poll = call.service.timeout
        self._paced = paced
        self._error_of = error_of
        self._missed = missed

    def poll(self, timeout: float | None = None) -> Program[JobStatus]:
        """The next recorded look."""
        yield Sleep(0)
        if not self._looks:
            raise self._missed(
                f"Job {self.execution_id} was never looked at when it was recorded: there is no "
                "status to give."
            )
        look = self._looks[min(self._next, len(self._looks) - 1)]
        self._next += 1
        if isinstance(look, RecordedError):
            raise self._error_of(look)
        return look.model_copy(update={"session_id": self.session_id})

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """The recorded end of the job."""
        if self._paced:
            return (yield from jobs.wait(self, self._longest_poll, timeout, poll_interval))
        while True:
            status = yield from self.poll()
            if status.is_done:
                return status
            if self._next >= len(self._looks):
                raise APITimeoutError(
                    f"job {self.execution_id} had not ended when it was recorded",
                    execution_id=self.execution_id,
                )


def _looks(recording: Recording) -> Iterator[Look]:
    errors = list(recording.look_errors)
    for number, status in enumerate([*recording.statuses, None]):
        while errors and errors[0][0] <= number:
            yield errors.pop(0)[1]
        if status is not None:
            yield JobStatus.model_validate(status)
