"""Take jobs from the queue and run them. Importing this module imports DBOS, which takes a second.

DBOS runs one entry of the queue in one process at a time, and says which process that is. A worker that
dies keeps its entries until a live one gives them back to the queue.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from dbos import DBOS
from sqlalchemy import URL, Engine

from .queue import APPLICATION, QUEUE, VERSION, WORKFLOW, engine_of

# DBOS is one per process. Several backends in one process, as tests have them, take turns.
_lock = threading.Lock()
_current: Worker | None = None
_TURN_SECONDS = 30.0
_CONNECTIONS = 8
# Seconds between two looks into the queue, each of which takes 3 ms of processor time: while jobs come, and
# when none has begun for a while.
_BUSY_POLL, _IDLE_POLL = 0.05, 0.25
_BUSY_SECONDS = 5.0


@DBOS.workflow(name=WORKFLOW, max_recovery_attempts=1_000_000)
async def _job(execution_id: str) -> None:
    worker = _current
    if worker is None:
        # It stops. The entry stays begun, and is given back to the queue.
        raise asyncio.CancelledError
    await asyncio.wrap_future(worker.submit(execution_id))


class Worker:
    """Runs the jobs of a queue, on the event loop of the backend.

    Args:
        database: The backend's database.
        process_id: Says in the queue which process runs an entry.
        run: Runs a job.
        loop: The backend's event loop.
        max_running: How many jobs run here at once.
    """

    def __init__(
        self,
        database: URL,
        process_id: str,
        run: Callable[[str], Awaitable[None]],
        loop: asyncio.AbstractEventLoop,
        max_running: int,
    ) -> None:
        self._max_running = max_running
        self._database = database
        self._process_id = process_id
        self._run = run
        self._loop = loop
        self._tasks: dict[asyncio.Task[None], str] = {}
        self._engine: Engine | None = None
        self._queue: Any = None
        self._rest: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to take jobs. Blocks, also while another backend of this process runs jobs."""
        global _current  # noqa: PLW0603 - DBOS is global too
        with _lock:
            if _current is self:
                return
            deadline = time.monotonic() + _TURN_SECONDS
            while _current is not None and _current._tasks:
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        "another backend in this process runs jobs, and a process can run the jobs of "
                        "one backend at a time: start this one in a process of its own"
                    )
                time.sleep(0.02)
            if _current is not None:
                _destroy(0)
            _current = self
            try:
                self._engine = engine_of(self._database, _CONNECTIONS)
                dbos = DBOS(
                    config={
                        "name": APPLICATION,
                        "system_database_engine": self._engine,
                        "application_version": VERSION,
                        "executor_id": self._process_id,
                        "log_level": "CRITICAL",
                        "use_listen_notify": False,
                    }
                )
                # A queue that is registered in the database has one limit for all workers.
                dbos._registry.internal_queue_map.pop(QUEUE, None)
                self._queue = dbos._registry._register_internal_queue(
                    QUEUE,
                    worker_concurrency=self._max_running,
                    polling_interval_sec=_IDLE_POLL,
                )
                DBOS.launch()
            except BaseException:
                _destroy(0)
                raise

    def recover(self, executors: Sequence[str]) -> None:
        """Give the entries of processes that have died back to the queue."""
        with _lock:
            if _current is self:
                DBOS._recover_pending_workflows(list(executors))

    def running(self) -> set[str]:
        """Return the ids of the jobs whose entries are in progress."""
        return set(self._tasks.values())

    def submit(self, execution_id: str) -> Future[None]:
        """Run a job on the backend's loop, from another thread."""
        return asyncio.run_coroutine_threadsafe(self._track(execution_id), self._loop)

    async def _track(self, execution_id: str) -> None:
        task = asyncio.current_task()
        assert task is not None  # it is a coroutine of a loop
        self._tasks[task] = execution_id
        self._look_often()
        try:
            await self._run(execution_id)
        finally:
            del self._tasks[task]

    def _look_often(self) -> None:
        """Look into the queue often, for some seconds: more jobs may come."""
        if self._rest is not None:
            self._rest.cancel()
        self._queue._polling_interval_sec = _BUSY_POLL
        self._rest = self._loop.call_later(_BUSY_SECONDS, self._look_rarely)

    def _look_rarely(self) -> None:
        self._queue._polling_interval_sec = _IDLE_POLL

    async def stop(self, seconds: float) -> None:
        """Take no more jobs; wait for those in progress, and then leave them at their last finished step.

        Their entries in the queue stay begun by this process, until a live one finds it gone.
        """
        if _current is self:
            await asyncio.to_thread(self._stop, seconds if self._tasks else 0)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _stop(self, seconds: float) -> None:
        with _lock:
            if _current is self:
                _destroy(seconds)


def _destroy(seconds: float) -> None:
    global _current
    stopped, _current = _current, None
    # DBOS waits for whole seconds.
    DBOS.destroy(workflow_completion_timeout_sec=math.ceil(seconds))
    if stopped is not None and stopped._engine is not None:
        stopped._engine.dispose()
        stopped._engine = None
