"""Jobs, and the processes that run them. Extensions of our backend (docs/wire.md, "Jobs and workers")."""

from __future__ import annotations

from pydantic import Field

from .base import WireModel
from .events import StepFailure


class JobSummary(WireModel):
    """One row of ``GET /seq/jobs``. Times are ISO 8601, in UTC.

    Attributes:
        status: ``pending``, ``running``, ``completed``, ``failed`` or ``cancelled``.
        steps_done: How many of the ``block_count`` steps are done; None if the flow stores no steps.
        error_at_step: The step that failed.
        worker_id: The process that runs the job.
        retry_of: The job that this one is the retry of.
        retried_as: The retry of this job.
    """

    execution_id: str
    org: str
    project: str
    slug: str
    version: int | None = None
    session_id: str | None = None
    status: str
    submitted_at: str | None = None
    completed_at: str | None = None
    block_count: int = 0
    steps_done: int | None = None
    error_at_step: str | None = None
    error: StepFailure | None = None
    worker_id: str | None = None
    retry_of: str | None = None
    retried_as: str | None = None


class JobPage(WireModel):
    """The body of ``GET /seq/jobs``.

    Attributes:
        in_progress: The number of jobs that are ``pending`` and ``running``.
        next_cursor: None on the last page.
    """

    jobs: tuple[JobSummary, ...] = ()
    in_progress: dict[str, int] = Field(default_factory=dict)
    next_cursor: str | None = None


class Worker(WireModel):
    """One process of the service.

    Attributes:
        role: ``dev``, ``serve`` (runs no jobs) or ``worker``.
        name: Process and host; None for a key of one organisation.
        heartbeat_at: When it last said that it is alive.
        running_jobs: How many jobs it runs.
    """

    id: str
    role: str
    name: str | None = None
    started_at: str | None = None
    heartbeat_at: str | None = None
    running_jobs: int = 0


class WorkerList(WireModel):
    """The body of ``GET /workers``."""

    workers: tuple[Worker, ...] = ()
