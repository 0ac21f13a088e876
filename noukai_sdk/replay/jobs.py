"""A job from a recording."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator

from ..errors import APITimeoutError, NoukaiError
from ..models.results import JobStatus
from ..models.sessions import RecordedError
from ..protocol.program import Program, Sleep
from .recording import Recording

Look = JobStatus | RecordedError


class RecordedJob:
    """Gives the recorded looks at a job in their order; the last one again from there on.

    Args:
        recording: The submission's.
        session_id: The session that it was recorded in.
        paced: Waiting sleeps between two looks; otherwise it is over at once.
        error_of: Makes an exception of a recorded error.
        missed: Makes the error for a look that was not recorded, of its reason.
    """

    def __init__(
        self,
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
        self._looks = _Looks(recording)
        self._paced = paced
        self._error_of = error_of
        self._missed = missed

    def by_id(self) -> RecordedJob:
        """The same job, as one that was found by its id: it does not know its session."""
        found = copy.copy(self)
        found.session_id = None
        return found

    def poll(self, timeout: float | None = None) -> Program[JobStatus]:
        """The next recorded look."""
        yield Sleep(0)
        look = self._looks.take()
        if look is None:
            raise self._missed(
                f"Job {self.execution_id} was never looked at when it was recorded: there is no "
                "status to give."
            )
        if isinstance(look, RecordedError):
            raise self._error_of(look)
        return look.model_copy(update={"session_id": self.session_id})

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """The recorded end of the job."""
        while True:
            status = yield from self.poll()
            if status.is_done:
                return status
            if self._looks.are_over:
                raise APITimeoutError(
                    f"job {self.execution_id} had not ended when it was recorded",
                    execution_id=self.execution_id,
                )
            if self._paced:
                yield Sleep(poll_interval)


class _Looks:
    """The looks at one job, whoever takes them."""

    def __init__(self, recording: Recording) -> None:
        self._all = list(_looks(recording))
        self._taken = 0

    def take(self) -> Look | None:
        if not self._all:
            return None
        self._taken += 1
        return self._all[min(self._taken, len(self._all)) - 1]

    @property
    def are_over(self) -> bool:
        return self._taken >= len(self._all)


def _looks(recording: Recording) -> Iterator[Look]:
    errors = list(recording.look_errors)
    for number, status in enumerate([*recording.statuses, None]):
        while errors and errors[0][0] <= number:
            yield errors.pop(0)[1]
        if status is not None:
            yield JobStatus.model_validate(status)
