"""Open the parts of one running backend, and close them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.chat import ChatModel
from ..local.llm.pool import ModelPool
from ..local.runtime.worker_threads import limited_worker_threads
from .access import Doorkeeper, FixedKeys, StoredKeys
from .admission import Limiter
from .encoding import Clock
from .errors import RequestError
from .live_trace import Channels
from .model_usage import CountedModels, Stats
from .published import Flows
from .rows import changes_of, ended_changes
from .runs import INTERRUPTED, Runs
from .settings import Settings
from .store.store import Store

logger = logging.getLogger("noukai_sdk.backend")

_DAY = 24 * 3600 * 1_000_000
_SWEEP_INTERVAL = 60.0


@dataclass(frozen=True)
class Service:
    """The parts that the routes use."""

    settings: Settings
    catalog: FlowCatalog
    flows: Flows
    store: Store
    runs: Runs
    channels: Channels
    clock: Clock
    stats: Stats
    doorkeeper: Doorkeeper
    limiter: Limiter

    def expiry(self) -> int | None:
        """Return the time before which sessions are expired; None if sessions never expire.

        The start of a session's last run counts.
        """
        days = self.settings.retention_days
        return None if days is None else self.clock.now() - int(days * _DAY)

    async def check_queue(self, org: str) -> None:
        """Raise RequestError (429) if too many jobs wait to be run."""
        for name, limit in (
            (org, self.settings.max_pending_jobs),
            (None, self.settings.max_pending_jobs_in_all),
        ):
            if await self.store.pending_jobs(name, limit) >= limit:
                whose = "" if name is None else f" of {name}"
                message = f"{limit} jobs{whose} wait to be run already: try again later"
                raise RequestError(429, "QUEUE_FULL", message, headers={"Retry-After": "5"})

    async def sweep(self) -> None:
        """Cancel runs that were left paused, and delete the data of expired sessions."""
        now = self.clock.now()
        error = {"code": "CANCELLED", "message": "the run was left paused"}
        cancelled = await self.store.end_runs(
            ["paused"],
            lambda row: ended_changes(row, "cancelled", error, now),
            before=now - int(self.settings.pause_seconds * 1_000_000),
        )
        for execution_id in cancelled:
            self.channels.end(execution_id)
        await self.store.delete_old_keys(now)
        expiry = self.expiry()
        if expiry is not None:
            await self.store.retention.delete_data(expiry)
        if self.settings.retention_bytes is not None:
            await self.store.retention.keep_size(self.settings.retention_bytes)

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
    store = await Store.open(settings.database_url, lambda run: changes_of(run, clock.now()))
    limiter = Limiter(store, clock)
    # Organisations have limits in services whose keys are in the database.
    check = limiter.check_credits if settings.keys is None else None
    models = CountedModels(ModelPool(open_model), stats, check)
    runs = Runs(store, models, channels, clock, stats, settings.sizes)
    flows = Flows(catalog, store.published, clock)
    holders = StoredKeys(store.keys) if settings.keys is None else FixedKeys(settings.keys)
    doorkeeper = Doorkeeper(holders, settings.wrong_keys_per_minute)
    service = Service(
        settings, catalog, flows, store, runs, channels, clock, stats, doorkeeper, limiter
    )
    sweeps: asyncio.Task[None] | None = None
    try:
        now = clock.now()
        error = {"code": "INTERNAL_ERROR", "message": INTERRUPTED}
        await store.end_runs(
            ["pending", "running"], lambda row: ended_changes(row, "failed", error, now)
        )
        sweeps = asyncio.create_task(service.sweep_forever())
        with limited_worker_threads(settings.function_threads, settings.threads_of_one_function):
            yield service
    finally:
        if sweeps is not None:
            sweeps.cancel()
            with suppress(asyncio.CancelledError):
                await sweeps
        channels.close()
        await runs.aclose()
        await models.aclose()
        await store.aclose()
