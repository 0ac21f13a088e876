"""Submit jobs, and run them."""

from __future__ import annotations

import asyncio

from ..encoding import Clock
from ..run import Run
from ..store.store import Store
from .job_runner import JobRunner


class Jobs:
    """The jobs of this process."""

    def __init__(self, store: Store, runner: JobRunner, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._runner = runner
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, run: Run) -> None:
        """Put a job into the queue. Returns when it is on disk."""
        try:
            await self._store.save(run).committed()
        except BaseException:
            # The caller is told that the job was not accepted, so it must not run later.
            run.stop("failed", "the job was not accepted", self._clock.now())
            self._store.save(run)
            raise
        self._enqueue(run.id)

    def _enqueue(self, execution_id: str) -> None:
        task = asyncio.create_task(self._runner.run(execution_id))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def start(self) -> None:
        """Continue the jobs that an earlier process has left."""
        for row in await self._store.runs_in(["pending"], trigger="job", limit=100_000):
            self._enqueue(row["id"])

    async def aclose(self) -> None:
        """Stop. Jobs in progress stay at their last finished step, and are pending again."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
