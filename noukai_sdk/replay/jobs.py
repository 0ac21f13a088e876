"""A job from a recording."""

from __future__ import annotations

from ..errors import APITimeoutError, ReplayMissError
from ..models.results import JobStatus
from ..protocol.program import Program, Sleep
from .recording import Recording


class RecordedJob:
    """Gives the recorded looks at a job in their order; the last one again from there on."""

    def __init__(self, recording: Recording, session_id: str | None) -> None:
        assert recording.result is not None  # a job without a submission is never served
        self.execution_id: str = recording.result["executionId"]
        self.session_id = session_id
        self._slug = recording.slug
        self._statuses = [JobStatus.model_validate(status) for status in recording.statuses]
        self._looks = 0

    def poll(self, timeout: float | None = None) -> Program[JobStatus]:
        """The next recorded look."""
        yield Sleep(0)
        if not self._statuses:
            raise ReplayMissError(
                f"job {self.execution_id} of flow {self._slug!r} was never looked at when it was "
                "recorded: there is no status to give",
                slug=self._slug,
                kind="job",
            )
        status = self._statuses[min(self._looks, len(self._statuses) - 1)]
        self._looks += 1
        return self._tagged(status)

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """The recorded end of the job, at once."""
        last = yield from self.poll()
        last = self._tagged(self._statuses[-1])
        if not last.is_done:
            raise APITimeoutError(
                f"job {self.execution_id} had not ended when it was recorded",
                execution_id=self.execution_id,
            )
        return last

    def _tagged(self, status: JobStatus) -> JobStatus:
        return status.model_copy(update={"session_id": self.session_id})
