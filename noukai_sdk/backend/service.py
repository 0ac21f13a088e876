"""The parts of one running backend, put together."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.chat import ChatModel
from ..local.llm.pool import ModelPool
from .channels import Channels
from .clock import Clock
from .model_usage import CountedModels, Stats
from .rows import cut_off
from .runs import INTERRUPTED, Runs, changes_of
from .settings import Settings
from .store.store import Store

logger = logging.getLogger("noukai_sdk.backend")

_LEFT_PAUSED = {"code": "CANCELLED", "message": "the run was left paused"}
_INTERRUPTED = {"code": "INTERNAL_ERROR", "message": INTERRUPTED}
_DAY = 24 * 3600 * 1_000_000
_BETWEEN_SWEEPS = 60.0


@dataclass(frozen=True)
class Service:
    """What the routes work with."""

    settings: Settings
    catalog: FlowCatalog
    store: Store
    runs: Runs
    channels: Channels
    clock: Clock
    stats: Stats

    def expiry(self) -> int | None:
        """Sessions whose last run began before this time are expired; None where none ever is."""
        days = self.settings.retention_days
        return None if days is None else self.clock.now() - int(days * _DAY)

    async def sweep(self) -> None:
        """Cancel runs that were left paused, and delete what is past its retention."""
        now = self.clock.now()
        cancelled = await self.store.end_runs(
            ["paused"],
            lambda row: cut_off(row, "cancelled", _LEFT_PAUSED, now),
            before=now - int(self.settings.pause_seconds * 1_000_000),
        )
        for execution_id in cancelled:
            self.channels.end(execution_id)
        expiry = self.expiry()
        if expiry is not None:
            await self.store.forget(expiry)


@asynccontextmanager
async def running(
    settings: Settings,
    catalog: FlowCatalog,
    channels: Channels,
    stats: Stats,
    open_model: Callable[[str], ChatModel] | None = None,
) -> AsyncIterator[Service]:
    """A service, from the opening of its database to its close."""
    clock = Clock()
    store = await Store.open(settings.database_url, lambda run: changes_of(run, clock.now()))
    models = CountedModels(ModelPool(open_model), stats)
    runs = Runs(store, models, channels, clock, stats)
    service = Service(settings, catalog, store, runs, channels, clock, stats)
    try:
        await _end_interrupted(store, clock)
        async with _swept(service):
            yield service
    finally:
        channels.close()
        await runs.aclose()
        await models.aclose()
        await store.aclose()


async def _end_interrupted(store: Store, clock: Clock) -> None:
    now = clock.now()
    await store.end_runs(
        ["pending", "running"], lambda row: cut_off(row, "failed", _INTERRUPTED, now)
    )


@asynccontextmanager
async def _swept(service: Service) -> AsyncIterator[None]:
    task = asyncio.create_task(_sweep_forever(service))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _sweep_forever(service: Service) -> None:
    while True:
        try:
            await service.sweep()
        # A sweep that failed is tried again with the next; the service goes on.
        except Exception:
            logger.exception("the sweep failed")
        await asyncio.sleep(_BETWEEN_SWEEPS)
