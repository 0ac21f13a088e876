"""Submit jobs, and run them.

A job is on disk before its caller is told of it. Then it is put into the queue, in the background: if the
process dies in between, or the queue cannot be reached, :meth:`Jobs.repair` puts it in later.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING

from sqlalchemy import URL

from ..run import Run
from ..settings import Role
from ..store.database import StoreUnavailableError
from ..store.store import Store
from .job_runner import JobRunner

if TYPE_CHECKING:
    from .queue import JobQueue
    from .worker import Worker

logger = logging.getLogger("noukai_sdk.backend")

_RETRY_INTERVAL = 1.0
_REPAIR_INTERVAL = 10.0
_BATCH = 1000
_KEEP_SECONDS = 3600.0


class Jobs:
    """The jobs of this process: puts them into the queue, and runs them if its role is to.

    Args:
        database: The backend's database.
        role: ``"serve"`` runs no jobs.
        process_id: The owner of the jobs that run here.
        max_running: How many jobs run here at once.
    """

    def __init__(
        self,
        store: Store,
        runner: JobRunner,
        *,
        database: URL,
        role: Role,
        process_id: str,
        max_running: int,
    ) -> None:
        self._store = store
        self._runner = runner
        self._database = database
        self._role = role
        self._process_id = process_id
        self._max_running = max_running
        self._queue: JobQueue | None = None
        self._worker: Worker | None = None
        self._new: list[str] = []
        self._wake = asyncio.Event()
        self._opening = asyncio.Lock()
        self._pump: asyncio.Task[None] | None = None
        self._is_closing = False
        self._next_repair = 0.0
        self._lost: set[str] = set()

    def submit(self, run: Run) -> None:
        """Put a job into the queue, in the background. It is on disk already."""
        self._new.append(run.id)
        self._wake.set()

    async def start(self) -> None:
        """Begin to work: at once if jobs are left of an earlier process, else with the first job."""
        self._pump = asyncio.create_task(self._put_new_jobs())
        left = await self._store.runs_in(["pending", "running"], trigger="job", limit=1)
        if left or self._role == "worker":
            self._wake.set()

    def prepare(self) -> None:
        """Open the queue now, in the background, so that the first job does not wait for it."""
        self._wake.set()

    async def _put_new_jobs(self) -> None:
        is_open = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            if self._is_closing:
                return
            try:
                queue = await self._open()
                new = list(self._new)
                if not is_open:
                    is_open = True
                    await self.repair(at_once=True)
                if new:
                    entries: list[tuple[str, str]] = [(job, job) for job in new]
                    await asyncio.to_thread(queue.put, entries)
                    self._new = self._new[len(new) :]
            # Jobs are on disk, and wait until the queue can be used.
            except Exception as error:  # noqa: BLE001 - whatever DBOS or its driver raises
                logger.warning("jobs wait, because their queue cannot be used: %s", error)
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), _RETRY_INTERVAL)
                self._wake.set()

    async def _open(self) -> JobQueue:
        async with self._opening:
            queue: JobQueue | None = self._queue
            if queue is None:
                # Importing DBOS takes a second.
                module = await asyncio.to_thread(import_module, f"{__package__}.queue")
                opened: JobQueue = await asyncio.to_thread(module.JobQueue, self._database)
                self._queue = queue = opened
            if self._role != "serve":
                if self._worker is None:
                    module = await asyncio.to_thread(import_module, f"{__package__}.worker")
                    loop = asyncio.get_running_loop()
                    self._worker = module.Worker(
                        self._database, self._process_id, self._runner.run, loop, self._max_running
                    )
                await asyncio.to_thread(self._worker.start)
            return queue

    async def repair(self, *, at_once: bool = False) -> None:
        """Give the jobs of processes that have died back to the queue, and put lost ones in again.

        Args:
            at_once: Put jobs in that are not in the queue now. Otherwise, they must have been lost for a
                while: they may be on their way into the queue, or their caller was told that they were not
                accepted, and the database could not be used to end them.
        """
        if self._worker is None or self._queue is None:
            return
        executors: set[str] = await asyncio.to_thread(self._queue.executors)
        # Read later: a process beats before it takes a job.
        stranded = executors - set(await self._store.processes.heartbeats())
        if stranded:
            logger.info("taking over the jobs of %d stopped processes", len(stranded))
            await asyncio.to_thread(self._worker.recover, sorted(stranded))
        now = time.monotonic()
        if at_once or now > self._next_repair:
            self._next_repair = now + _REPAIR_INTERVAL
            await self._put_lost_jobs(self._queue, self._worker, at_once=at_once)
            await asyncio.to_thread(self._queue.forget, time.time() - _KEEP_SECONDS)

    async def _put_lost_jobs(self, queue: JobQueue, worker: Worker, *, at_once: bool) -> None:
        with suppress(StoreUnavailableError):
            jobs = await self._store.waiting_jobs(_BATCH)
            me = self._process_id
            lost = await asyncio.to_thread(queue.lost, jobs, me, worker.running()) if jobs else {}
            before, self._lost = self._lost, set(lost)
            again = {run: entry for run, entry in lost.items() if at_once or run in before}
            if again:
                await asyncio.to_thread(queue.put_again, again, me)
                logger.info("%d jobs that were not in the queue are in it again", len(again))

    async def aclose(self, seconds: float) -> None:
        """Stop. Jobs that do not end in time stay at their last finished step, for another process."""
        self._is_closing = True
        self._wake.set()
        if self._pump is not None:
            await asyncio.wait([self._pump], timeout=15)
            self._pump.cancel()
        async with self._opening:
            if self._worker is not None:
                await self._worker.stop(seconds)
            if self._queue is not None:
                await asyncio.to_thread(self._queue.close)
