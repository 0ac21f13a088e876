"""Jobs: submit, poll, wait."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import APITimeoutError, FlowNotFoundError
from ..models.results import JobStatus, JobSubmission
from .answers import decode
from .call import FlowCall, FlowRef, Service
from .exchange import send
from .paths import job_path
from .program import Now, Program, Sleep
from .requests import get, post

# The hosted service can answer 404 for a few seconds after it took a job (WIRE.md, "Jobs").
EARLY_404_GRACE = 5.0


@dataclass(frozen=True)
class JobRef:
    """A submitted job. ``submitted_at`` is a monotonic time, None where it is not known here."""

    flow: FlowRef
    execution_id: str
    submitted_at: float | None = None
    session_id: str | None = None


def submit(call: FlowCall) -> Program[JobSubmission]:
    """Put a call into the service's queue."""
    response = yield from send(call.service, post(call, call.request))
    submission = decode(JobSubmission, response)
    submission._submitted_at = yield Now()
    submission._session_id = call.session_id
    return submission


def poll(service: Service, job: JobRef, timeout: float | None = None) -> Program[JobStatus]:
    """One look at the job."""
    request = get(service, job_path(job.flow, job.execution_id), timeout=timeout)
    try:
        response = yield from send(service, request)
    except FlowNotFoundError:
        now: float = yield Now()
        if job.submitted_at is None or now - job.submitted_at >= EARLY_404_GRACE:
            raise
        status = JobStatus(execution_id=job.execution_id, status="pending")
    else:
        status = decode(JobStatus, response)
    status.session_id = job.session_id
    return status


def wait(service: Service, job: JobRef, timeout: float, poll_interval: float) -> Program[JobStatus]:
    """Poll until the job is done. Raises APITimeoutError after ``timeout`` seconds."""
    now: float = yield Now()
    deadline = now + timeout
    while True:
        # No single poll may outlive the deadline by much, nor be cut off before it had a chance.
        allowed = min(service.timeout, max(deadline - now, 1.0))
        status = yield from poll(service, job, allowed)
        if status.is_done:
            return status
        now = yield Now()
        if now >= deadline:
            raise APITimeoutError(
                f"job {job.execution_id} is still {status.status} after {timeout:g} s; "
                "it goes on: wait() or poll() again",
                execution_id=job.execution_id,
            )
        yield Sleep(min(poll_interval, deadline - now))
        now = yield Now()
