"""Run a job whose turn has come, from its last finished step on."""

from __future__ import annotations

import asyncio
import logging
from contextlib import nullcontext

from ...errors import NoukaiError
from ...local.engine.runner import check_run
from ..encoding import Clock
from ..errors import RequestError
from ..published import Flows
from ..rows import ended_changes, run_from, step_ids
from ..run import ENDED
from ..runs import Runs
from ..store.database import StoreUnavailableError
from ..store.store import Row, Store
from ..store.writer import StaleOwnerError

logger = logging.getLogger("noukai_sdk.backend")

MAX_STRIKES = 3
"""A job fails when this number of processes have died in the same step of it."""

_RETRY_INTERVAL = 1.0


class JobRunner:
    """Runs the jobs of a worker.

    The row of a job says all that is needed to run it: another worker may have begun it.
    """

    def __init__(self, store: Store, runs: Runs, flows: Flows, clock: Clock) -> None:
        self._store = store
        self._runs = runs
        self._flows = flows
        self._clock = clock
        self._last_chance = asyncio.Lock()

    async def run(self, execution_id: str) -> None:
        """Run a job to its end. Do nothing if it has ended, or if another process runs it."""
        while True:
            try:
                return await self._run(execution_id)
            except StoreUnavailableError:  # noqa: PERF203 - it tries again
                await asyncio.sleep(_RETRY_INTERVAL)

    async def _run(self, execution_id: str) -> None:
        row = await self._store.execution(execution_id)
        if row is None or row["status"] in ENDED:
            return
        # Several jobs were in progress when the worker died, and only one of them may have killed it.
        # So those that are about to fail run one at a time.
        is_last_chance = row["strikes"] >= MAX_STRIKES - 1
        async with self._last_chance if is_last_chance else nullcontext():
            await self._drive(row)

    async def _drive(self, row: Row) -> None:
        try:
            flow = await self._flows.get(row["org"], row["project"], row["slug"], row["version"])
            if step_ids(row) != [step.id for step in flow.steps]:
                await self._fail(row, "STALE_TREE", "the flow has changed since this job began")
                return
            run = run_from(row, flow)
            check_run(flow, run.state)
        except (NoukaiError, RequestError) as error:
            await self._fail(row, error.code or "INTERNAL_ERROR", error.message)
            return
        if row["status"] != "pending" or not await self._runs.take(run, row):
            return
        try:
            async for _ in self._runs.advance(run):
                pass
        except StaleOwnerError:
            logger.warning("job %s was ended or taken over by another process", run.id)
        # The run has failed, and the log of advance() says why.
        except Exception:  # noqa: BLE001, S110
            pass

    async def _fail(self, row: Row, code: str, message: str) -> None:
        error, now = {"code": code, "message": message}, self._clock.now()
        await self._store.change([row], lambda row: ended_changes(row, "failed", error, now))
