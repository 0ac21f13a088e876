"""The list of jobs, and the processes that run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from ...models.job_lists import JobPage, JobSummary, WorkerList
from .times import duration, milliseconds_between
from .versions import version_of

_MOST_COUNTED = 10_000

_EXAMPLE = """curl -s {base_url}/seq/acme/samples/two-step/jobs \\
  -H "Authorization: Bearer $NOUKAI_API_KEY" \\
  -d '{{"message": "Hello"}}'"""


@dataclass(frozen=True)
class JobRow:
    """One job of the list.

    Attributes:
        url: Of the page of the run.
        action_url: Its forms are sent to this with ``/cancel`` or ``/retry``.
        retry_url: Of the run that retries it, None if it has not been retried.
        retried_url: Of the run that it retries.
        took: How long it took, from its submission on.
        reason: Why it failed, and at which step.
    """

    job: JobSummary
    address: str
    flow_url: str
    url: str
    action_url: str
    retry_url: str | None
    retried_url: str | None
    took: str
    reason: str

    @property
    def can_cancel(self) -> bool:
        """Whether it has not ended."""
        return self.job.status in ("pending", "running")

    @property
    def can_retry(self) -> bool:
        """Whether it failed or was cancelled, and has not been retried."""
        return self.job.status in ("failed", "cancelled") and self.retry_url is None


class JobList:
    """A page of the list of jobs, as the filters in the URL choose.

    Args:
        query: ``status``, ``flow`` and ``cursor``.
        page: The jobs.
        workers: The processes that are alive.
        base_url: The base URL of the API, for an example.

    Attributes:
        version: Another text if something has changed that is shown.
        is_stuck: Jobs wait, and no process runs any.
        live_url: Streams the list whenever it is not as it was at ``version``.
    """

    def __init__(
        self, query: Mapping[str, str], page: JobPage, workers: WorkerList, base_url: str
    ) -> None:
        self._query = {name: query[name] for name in ("status", "flow", "cursor") if name in query}
        self.rows = [_row(job) for job in page.jobs]
        self.workers = workers.workers
        self.pending, self.running = (
            _counted(page.in_progress.get(status, 0)) for status in ("pending", "running")
        )
        runs_jobs = any(worker.role != "serve" for worker in workers.workers)
        self.is_stuck = bool(page.in_progress.get("pending")) and not runs_jobs
        self.url = self._url()
        self.next_url = page.next_cursor and self._url(cursor=page.next_cursor)
        self.first_url = self._url(cursor="")
        # Heartbeats are not shown here.
        alive = [worker.model_copy(update={"heartbeat_at": None}) for worker in workers.workers]
        self.version = version_of(page, *alive)
        self.live_url = self._url("/live/jobs", seen=self.version)
        self.is_filtered = bool(self._query.keys() & {"status", "flow"})
        self.is_later = "cursor" in self._query
        self.example = _EXAMPLE.format(base_url=base_url)

    def _url(self, path: str = "/jobs", **changes: str) -> str:
        query = {name: value for name, value in {**self._query, **changes}.items() if value}
        return f"{path}?{urlencode(query)}" if query else path


def run_url(job: JobSummary, execution_id: str | None = None) -> str:
    """Return the URL of the page of a job's run, or of another run of the same flow."""
    address = f"{job.org}/{job.project}/{job.slug}"
    return f"/flows/{address}/runs/{execution_id or job.execution_id}"


def _row(job: JobSummary) -> JobRow:
    address = f"{job.org}/{job.project}/{job.slug}"
    reason = ""
    if job.error is not None:
        at = f"at {job.error_at_step}" if job.error_at_step else None
        reason = ": ".join(part for part in (at, job.error.code, job.error.message) if part)
    return JobRow(
        job=job,
        address=address,
        flow_url=f"/flows/{address}",
        url=run_url(job),
        action_url=f"/jobs/{address}/{job.execution_id}",
        retry_url=None if job.retried_as is None else run_url(job, job.retried_as),
        retried_url=None if job.retry_of is None else run_url(job, job.retry_of),
        took=duration(milliseconds_between(job.submitted_at, job.completed_at)),
        reason=reason,
    )


def _counted(number: int) -> str:
    return f"{number:,}{'+' if number >= _MOST_COUNTED else ''}"
