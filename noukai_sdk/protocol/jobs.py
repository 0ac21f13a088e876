"""Jobs: submit, poll, wait, cancel."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from ..errors import (
    APITimeoutError,
    FlowExecutionError,
    JobCancelledError,
    NotFoundError,
    NoukaiError,
)
from ..models.results import JobAccepted, JobStatus
from .call import FlowCall, FlowRef, Service
from .decoding import decode
from .exchange import errors_name_run, exchange
from .program import Now, Program, Sleep, Timeout, longest
from .requests import delete, get, job_path, post

# The hosted service can respond 404 for a few seconds after it took a job (docs/wire.md, "Jobs").
EARLY_404_GRACE = 5.0

_NO_ENDPOINT = (404, 405, 501)
_UNKNOWN = ("FLOW_NOT_FOUND", "RUN_NOT_FOUND")


class JobBackend(Protocol):
    """A submitted job, live or recorded."""

    @property
    def execution_id(self) -> str:
        """The id of the run."""
        ...

    @property
    def flow_id(self) -> str | None:
        """The id of the flow, None if it is not known."""
        ...

    @property
    def session_id(self) -> str | None:
        """The session that the job was submitted in."""
        ...

    def poll(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Look at the job once."""
        ...

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """Poll until the job is done. Raises APITimeoutError after ``timeout`` seconds."""
        ...

    def cancel(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Cancel the job, and return its state."""
        ...


def submit(call: FlowCall) -> Program[JobBackend]:
    """Put a call into the service's queue."""
    try:
        response = yield from exchange(call.service, post(call, call.request))
        submission = decode(JobAccepted, response)
    except BaseException as error:
        call.failed(error, run=None)
        raise
    now: float = yield Now()
    return LiveJob(
        call.service,
        call.flow,
        submission.execution_id,
        now,
        call.session_id,
        submission.flow_id,
    )


class LiveJob(NamedTuple):
    """A job of the service. ``submitted_at`` is a monotonic time, None for a job known by its id alone."""

    service: Service
    flow: FlowRef
    execution_id: str
    submitted_at: float | None = None
    session_id: str | None = None
    flow_id: str | None = None

    def poll(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Look at the job once."""
        request = get(self.service, job_path(self.flow, self.execution_id), timeout=timeout)
        try:
            with errors_name_run(self.execution_id):
                response = yield from exchange(self.service, request)
        except NotFoundError:
            now: float = yield Now()
            if self.submitted_at is None or now - self.submitted_at >= EARLY_404_GRACE:
                raise
            status = JobStatus(execution_id=self.execution_id, status="pending")
        else:
            status = decode(JobStatus, response)
            status.execution_id = status.execution_id or self.execution_id
        status.session_id = self.session_id
        return status

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """Poll until the job is done."""
        return wait(self, longest(self.service.timeout), timeout, poll_interval)

    def cancel(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Cancel the job, and return its state."""
        request = delete(self.service, job_path(self.flow, self.execution_id), timeout=timeout)
        try:
            with errors_name_run(self.execution_id):
                response = yield from exchange(self.service, request)
        except (NotFoundError, FlowExecutionError) as error:
            if error.status_code in _NO_ENDPOINT and error.code not in _UNKNOWN:
                raise _cannot_cancel(error) from error
            raise
        status = decode(JobStatus, response)
        status.execution_id = status.execution_id or self.execution_id
        status.session_id = self.session_id
        return status


def _cannot_cancel(error: NoukaiError) -> FlowExecutionError:
    """Return the error of a service without the endpoint."""
    return FlowExecutionError(
        f"the service cannot cancel jobs (HTTP {error.status_code}): only `noukai dev` and `noukai serve` "
        f"can. The job {error.execution_id} keeps running",
        status_code=error.status_code,
        code="CANCEL_NOT_SUPPORTED",
        execution_id=error.execution_id,
        request_id=error.request_id,
        response_body=error.response_body,
    )


def wait(
    job: JobBackend, longest_poll: float, timeout: float, poll_interval: float
) -> Program[JobStatus]:
    """Poll until the job is done.

    Raises:
        JobCancelledError: It was cancelled.
        APITimeoutError: It is not done after ``timeout`` seconds.
    """
    now: float = yield Now()
    deadline = now + timeout
    while True:
        # No single poll may outlive the deadline by much, nor be cut off before it had a chance.
        status = yield from job.poll(min(longest_poll, max(deadline - now, 1.0)))
        if status.is_done:
            raise_if_cancelled(status)
            return status
        now = yield Now()
        if now >= deadline:
            raise APITimeoutError(
                f"job {job.execution_id} is still {status.status} after {timeout:g} s; "
                "it keeps running: wait() or poll() again",
                execution_id=job.execution_id,
            )
        yield Sleep(min(poll_interval, deadline - now))
        now = yield Now()


def raise_if_cancelled(status: JobStatus) -> None:
    """Raise JobCancelledError if this is the state of a cancelled job."""
    if not status.is_cancelled:
        return
    message = status.error.get("message") if isinstance(status.error, dict) else None
    raise JobCancelledError(
        f"job {status.execution_id} was cancelled" + (f": {message}" if message else ""),
        code="CANCELLED",
        execution_id=status.execution_id,
    )
