"""Open the parts of one running backend, and close them."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.chat import ChatModel
from ..local.llm.pool import ModelPool
from ..local.runtime.worker_threads import limited_worker_threads
from .access import Doorkeeper, FixedKeys, StoredKeys
from .admission import Limiter
from .encoding import Clock
from .heartbeat import Heartbeat
from .jobs.job_runner import MAX_STRIKES, JobRunner
from .jobs.jobs import Jobs
from .live_trace import Channels
from .model_usage import CountedModels, Stats
from .published import Flows
from .queue_limit import QueueLimit
from .rows import can_continue, changes_of, ended_changes, interrupted_changes
from .runs import Runs
from .settings import Settings
from .store.database import StoreUnavailableError
from .store.notices import Notices
from .store.store import Row, Store
from .store.writer import Changes

logger = logging.getLogger("noukai_sdk.backend")

_DAY = 24 * 3600 * 1_000_000
_SWEEP_INTERVAL = 60.0
_WATCH_INTERVAL = 1.0

INTERRUPTED = "the process that ran this step has stopped"


@dataclass(frozen=True)
class Service:
    """The parts that the routes use."""

    settings: Settings
    catalog: FlowCatalog
    flows: Flows
    store: Store
    runs: Runs
    jobs: Jobs
    channels: Channels
    notices: Notices | None
    clock: Clock
    stats: Stats
    doorkeeper: Doorkeeper
    limiter: Limiter
    queue_limit: QueueLimit

    def expiry(self) -> int | None:
        """Return the time before which sessions are expired; None if sessions never expire.

        The start of a session's last run counts.
        """
        days = self.settings.retention_days
        return None if days is None else self.clock.now() - int(days * _DAY)

    async def end_run(self, row: Row, status: str, error: dict[str, Any]) -> bool:
        """End a run from outside, whichever process drives it.

        Args:
            row: The row as it was read. It must not have ended.
            status: ``"failed"`` or ``"cancelled"``.
            error: Its ``code`` and ``message``.

        Returns:
            False if the run has changed since its row was read: read it again.
        """
        now = self.clock.now()
        ended = await self.store.change([row], lambda row: ended_changes(row, status, error, now))
        for execution_id in ended:
            self.runs.lose(execution_id)
            self.channels.end(execution_id)
        return bool(ended)

    async def sweep(self) -> None:
        """Cancel runs that were left paused, and delete the data of expired sessions."""
        now = self.clock.now()
        error = {"code": "CANCELLED", "message": "the run was left paused"}
        before = now - int(self.settings.pause_seconds * 1_000_000)
        while rows := await self.store.runs_in(["paused"], before=before):
            ended = await self.store.change(
                rows, lambda row: ended_changes(row, "cancelled", error, now)
            )
            for execution_id in ended:
                self.channels.end(execution_id)
        await self.store.retention.delete_keys(now)
        expiry = self.expiry()
        if expiry is not None:
            await self.store.retention.delete_data(expiry)
        if self.settings.retention_bytes is not None:
            await self.store.retention.keep_size(self.settings.retention_bytes)
        await self.store.delete_blobs()

    async def recover(self, owner: str, chosen: Collection[str] | None = None) -> None:
        """Go on with the runs of a process that does not drive them, at their last finished step.

        Args:
            owner: The id of the process.
            chosen: The ids of the runs; None for all of a process that has died, with a strike for each.
        """
        now = self.clock.now()

        def changes(row: Row) -> Changes:
            error = {"code": "INTERNAL_ERROR", "message": INTERRUPTED}
            strikes = row["strikes"] + (chosen is None)
            if row["trigger"] == "job" and strikes < MAX_STRIKES:
                return interrupted_changes(row, "pending", error, now, strikes=strikes)
            if row["trigger"] == "job":
                error["message"] = (
                    f"{MAX_STRIKES} processes have died while they ran this step of the job"
                )
            elif row["trigger"] == "step" and can_continue(row):
                return interrupted_changes(row, "paused", error, now)
            return ended_changes(row, "failed", error, now)

        while rows := await self.store.runs_in(["running"], owner=owner, among=chosen):
            for execution_id in await self.store.change(rows, changes):
                self.channels.end(execution_id)

    async def watch_forever(self) -> None:
        """Stop soon what another process has cancelled or taken over."""
        while True:
            await asyncio.sleep(_WATCH_INTERVAL)
            try:
                await self.runs.drop_lost()
            except StoreUnavailableError:
                continue

    async def sweep_forever(self) -> None:
        """Sweep at regular intervals. After an error, the next sweep tries again."""
        while True:
            try:
                await self.sweep()
            # The service goes on, whatever the error is.
            except Exception:
                logger.exception("the sweep failed")
            await asyncio.sleep(_SWEEP_INTERVAL)


@asynccontextmanager
async def open_service(
    settings: Settings,
    catalog: FlowCatalog,
    channels: Channels,
    stats: Stats,
    open_model: Callable[[str], ChatModel] | None = None,
) -> AsyncIterator[Service]:
    """Open the database, end the runs of a backend that died, and sweep until the block ends."""
    clock = Clock()
    store = await Store.open(
        settings.database_url, lambda run: stats.count(changes_of(run, clock.now())), settings.blobs
    )
    limiter = Limiter(store, clock)
    # Organisations have limits in services whose keys are in the database.
    check = limiter.check_credits if settings.keys is None else None
    models = CountedModels(ModelPool(open_model), stats, check)
    process_id = uuid.uuid4().hex
    runs = Runs(store, models, channels, clock, stats, process_id, settings.sizes)
    flows = Flows(catalog, store.published, clock)
    jobs = Jobs(
        store,
        JobRunner(store, runs, flows, clock, process_id),
        clock,
        database=settings.database_url,
        role=settings.role,
        process_id=process_id,
        max_running=settings.max_running_jobs,
    )
    holders = StoredKeys(store.keys) if settings.keys is None else FixedKeys(settings.keys)
    doorkeeper = Doorkeeper(holders, settings.wrong_keys_per_minute)
    notices = store.notices()
    queue_limit = QueueLimit(
        store.pending_jobs,
        of_org=settings.max_pending_jobs,
        in_all=settings.max_pending_jobs_in_all,
    )
    service = Service(
        settings,
        catalog,
        flows,
        store,
        runs,
        jobs,
        channels,
        notices,
        clock,
        stats,
        doorkeeper,
        limiter,
        queue_limit,
    )
    heartbeat = Heartbeat(
        store.processes,
        clock,
        process_id=process_id,
        kind=settings.role,
        recover=service.recover,
        # A run that has ended is not driven, but its end may still wait to be stored.
        driven=lambda: {run.id for run in runs.all_active()} | store.unwritten(),
        repair=jobs.repair,
        is_alone=settings.database_url.get_backend_name() == "sqlite",
    )
    loops: list[asyncio.Task[None]] = []
    try:
        if notices is not None:
            runs.is_shared = True
            notices.start(runs.store_progress)
        await heartbeat.start()
        await jobs.start()
        loops += map(asyncio.create_task, (service.sweep_forever(), service.watch_forever()))
        with limited_worker_threads(settings.function_threads, settings.threads_of_one_function):
            yield service
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        channels.close()
        await jobs.aclose(settings.drain_seconds)
        await runs.aclose()
        await heartbeat.stop()
        if notices is not None:
            await notices.aclose()
        await models.aclose()
        await store.aclose()
