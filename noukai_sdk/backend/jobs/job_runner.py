"""Run a job whose turn has come, from its last finished step on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

from ...errors import NoukaiError
from ...local.engine.runner import check_run
from ..capture import Event
from ..encoding import Clock
from ..errors import RequestError
from ..published import Flows
from ..rows import ended_changes, interrupted_changes, run_from, step_ids
from ..runs import Runs
from ..store.database import StoreUnavailableError
from ..store.store import Row, Store
from ..store.writer import Changes, StaleOwnerError

T = TypeVar("T")

logger = logging.getLogger("noukai_sdk.backend")

MAX_STRIKES = 3
"""A job fails when this number of processes have died in the same step of it."""

_RETRY_INTERVAL = 1.0


class JobRunner:
    """Runs the jobs of a worker.

    The row of a job says all that is needed to run it: another worker may have begun it.
    """

    def __init__(
        self, store: Store, runs: Runs, flows: Flows, clock: Clock, process_id: str
    ) -> None:
        self._store = store
        self._runs = runs
        self._flows = flows
        self._clock = clock
        self._process_id = process_id
        self._last_chance = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[Row | None]] = {}
        self._taking: asyncio.Task[None] | None = None

    async def run(self, execution_id: str) -> None:
        """Run a job to its end. Do nothing if it has ended, or if another process runs it."""
        row = await _when_available(lambda: self._take(execution_id))
        if row is not None:
            await self._drive(row)
        else:
            await self._run_alone(execution_id)

    async def _take(self, execution_id: str) -> Row | None:
        """Take a job, together with those that other calls wait for; return None if it does not wait."""
        if execution_id in self._waiting:
            return None
        future = asyncio.get_running_loop().create_future()
        self._waiting[execution_id] = future
        if self._taking is None:
            self._taking = asyncio.create_task(self._take_waiting())
        row: Row | None = await future
        return row

    async def _take_waiting(self) -> None:
        while self._waiting:
            waiting, self._waiting = self._waiting, {}
            try:
                taken = await self._store.take_jobs(
                    list(waiting), self._process_id, self._clock.now(), MAX_STRIKES - 1
                )
            except Exception as error:  # noqa: BLE001 - those that wait raise it
                for future in waiting.values():
                    if not future.done():
                        future.set_exception(error)
                continue
            rows = {str(row["id"]): row for row in taken}
            for execution_id, future in waiting.items():
                row = rows.get(execution_id)
                if not future.done():
                    future.set_result(row)
                elif row is not None:  # the worker stops
                    await self._give_back(row)
        self._taking = None

    async def _give_back(self, row: Row) -> None:
        error, now = {"code": "INTERNAL_ERROR", "message": "the worker stopped"}, self._clock.now()
        await self._store.change(
            [row],
            lambda row: interrupted_changes(row, "pending", error, now, strikes=row["strikes"]),
        )

    async def _run_alone(self, execution_id: str) -> None:
        """Run a job that is about to fail.

        Several jobs were in progress when a worker died, and only one of them may have killed it. So those
        with a last chance run one at a time, until their step is done.
        """
        row = await _when_available(lambda: self._store.execution(execution_id))
        if row is None or row["status"] != "pending":
            return
        async with AsyncExitStack() as alone:
            await alone.enter_async_context(self._last_chance)
            me, now = self._process_id, self._clock.now()
            epoch = await _when_available(lambda: self._store.take(row, me, now))
            if epoch is not None:
                taken = {**row, "status": "running", "owner": me, "epoch": epoch}
                await self._drive(taken, alone.aclose)

    async def _drive(
        self, row: Row, step_done: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Run a job that this process owns.

        Args:
            row: Its row.
            step_done: Called when a step is on disk.
        """

        async def look(event: Event) -> None:
            if step_done is not None and event["eventType"] == "step_completed":
                await step_done()

        try:
            address = (row["org"], row["project"], row["slug"], row["version"])
            flow = await _when_available(lambda: self._flows.get(*address))
            if step_ids(row) != [step.id for step in flow.steps]:
                await self._fail(row, "STALE_TREE", "the flow has changed since this job began")
                return
            run = run_from(row, flow)
            check_run(flow, run.state)
        except (NoukaiError, RequestError) as error:
            await self._fail(row, error.code or "INTERNAL_ERROR", error.message)
            return
        except Exception:
            logger.exception("job %s cannot be run", row["id"])
            await self._fail(row, "INTERNAL_ERROR", "the worker failed; its log says why")
            return
        self._runs.adopt(run)
        try:
            await self._runs.drive(run, emit=look)
        except StaleOwnerError:
            logger.warning("job %s was ended or taken over by another process", run.id)
        # The run has failed, and the log of drive() says why.
        except Exception:  # noqa: BLE001, S110
            pass

    async def _fail(self, row: Row, code: str, message: str) -> None:
        error, now = {"code": code, "message": message}, self._clock.now()

        def ended(row: Row) -> Changes:
            return ended_changes(row, "failed", error, now)

        await _when_available(lambda: self._store.change([row], ended))


async def _when_available(do: Callable[[], Awaitable[T]]) -> T:
    """Return what ``do`` returns; in an outage of the database, try again until it is over."""
    while True:
        try:
            return await do()
        except StoreUnavailableError:  # noqa: PERF203 - it tries again
            await asyncio.sleep(_RETRY_INTERVAL)
