"""The interface of a store of runs, and its errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, NamedTuple, Protocol

from ...errors import NoukaiError
from ..runtime.hidden_keys import hide_keys

RunStatus = Literal["running", "completed", "failed", "paused", "interrupted"]


class RunStoreError(NoukaiError):
    """The store cannot be used, or cannot do what was asked."""

    def __init__(self, message: str, *, code: str = "RUN_STORE_FAILED") -> None:
        super().__init__(hide_keys(message), code=code)


class RunInProgressError(RunStoreError):
    """The run is under way, here or in another process."""

    def __init__(self, run_id: str) -> None:
        message = f"the run {run_id!r} is under way: wait for its end, or stop its process"
        super().__init__(message, code="RUN_IN_PROGRESS")


class RunExistsError(RunStoreError):
    """A run with this id exists already."""

    def __init__(self, run_id: str) -> None:
        message = f"there is a run {run_id!r} already: resume it, or start one with another run_id"
        super().__init__(message, code="RUN_EXISTS")


class WorkflowChangedError(RunStoreError):
    """The workflow is not the one that the run began with.

    Attributes:
        changes: What has changed, in words.
    """

    def __init__(self, run_id: str, changes: Sequence[str]) -> None:
        message = (
            f"the workflow has changed since the run {run_id!r} began: {'; '.join(changes)}. Pass "
            "allow_edited=True to keep what is finished and still fits, and to run the rest"
        )
        super().__init__(message, code="WORKFLOW_CHANGED")
        self.changes = list(changes)


class Part(NamedTuple):
    """Something that a run has finished.

    Attributes:
        path: Which part of the run's state it belongs to; the store need not know what it means.
        name: Its name there. A part replaces an earlier one of the same path and name.
        value: JSON.
    """

    path: str
    name: str
    value: str


@dataclass
class StoredRun:
    """A run, without its parts. All texts but the first two and ``error`` are JSON.

    Attributes:
        id: The run's id.
        workflow: The name of its workflow.
        shape: A description of the workflow, to notice edits.
        inputs: What the run was called with.
        status: ``"running"`` also if its process has died since.
        position: What the run waits for, None if it does not wait.
        error: Why it failed.
        started_at: Seconds since 1970, as for the next.
        updated_at: The time of its last start or stop.
    """

    id: str
    workflow: str
    shape: str
    inputs: str
    status: RunStatus = "running"
    position: str | None = None
    error: str | None = None
    started_at: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True)
class RunInfo:
    """A run in the list of :meth:`~noukai_sdk.local.Executor.runs`.

    Attributes:
        run_id: For ``executor.resume(workflow, run_id)``.
        workflow: The name of its workflow.
        state: ``"running"``, ``"completed"``, ``"failed"``, ``"paused"``, or ``"interrupted"`` if it was
            cancelled or its process has died.
        started_at: When it began.
        updated_at: When it last started or stopped.
        error: Why it failed, None if it did not.
    """

    run_id: str
    workflow: str
    state: RunStatus
    started_at: datetime
    updated_at: datetime
    error: str | None = None


class RunStorage(Protocol):
    """A store of runs. Its methods are called in worker threads, several at once for different runs.

    Each run has one owner at a time: from :meth:`begin` or :meth:`take` on until :meth:`end`, or until the
    owner's process dies. All methods raise RunStoreError if the store cannot be used.
    """

    def begin(self, run: StoredRun) -> None:
        """Store a new run, and own it.

        Raises:
            RunExistsError: There is a run with its id.
        """
        ...

    def take(self, run_id: str) -> tuple[StoredRun, list[Part]]:
        """Own a run, and return it with its parts.

        Raises:
            RunNotFoundError: There is no such run.
            RunInProgressError: It has an owner that is alive.
        """
        ...

    def write(self, run_id: str, parts: Sequence[Part], drop: Sequence[str]) -> None:
        """Store parts of an own run, and delete those of the paths in ``drop``. Durable on return."""
        ...

    def rewrite(self, run: StoredRun, parts: Sequence[Part]) -> None:
        """Replace everything of an own run."""
        ...

    def end(
        self, run_id: str, status: RunStatus, *, position: str | None, error: str | None
    ) -> None:
        """Store how an own run has stopped, and give it up. It is given up also if this fails."""
        ...

    def runs(self) -> list[RunInfo]:
        """Return all runs, the latest first."""
        ...

    def close(self) -> None:
        """Release files and connections. The store may be used again afterwards."""
        ...
