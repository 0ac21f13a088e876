"""Put the parts of a backend together, open them, and close them in order."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from ..local.flow_files.catalog import FlowCatalog
from ..local.llm.chat import ChatModel
from ..local.llm.pool import ModelPool
from ..local.runtime.worker_threads import limited_worker_threads
from .access import Doorkeeper, FixedKeys, StoredKeys
from .admission import Limiter
from .bodies import BodyReceiver
from .encoding import Clock
from .heartbeat import Heartbeat
from .jobs.job_runner import JobRunner
from .jobs.jobs import Jobs
from .live_trace import Channels
from .model_usage import CountedModels, Stats
from .published import Flows
from .queue_limit import QueueLimit
from .rows import changes_of
from .runs import Runs
from .service import Service
from .settings import Settings
from .store.store import Store


@asynccontextmanager
async def open_service(
    settings: Settings,
    catalog: FlowCatalog,
    channels: Channels,
    stats: Stats,
    open_model: Callable[[str], ChatModel] | None = None,
) -> AsyncIterator[Service]:
    """Open the database, take over what dead processes left, and sweep until the block ends."""
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
    service = _assemble(settings, catalog, limiter, runs, store, channels, clock, stats, process_id)
    heartbeat = _heartbeat_of(service, process_id)
    notices = service.notices
    loops: list[asyncio.Task[None]] = []
    try:
        if notices is not None:
            runs.is_shared = True
            notices.start(runs.store_progress)
        await heartbeat.start()
        await service.jobs.start()
        loops += map(asyncio.create_task, (service.sweep_forever(), service.watch_forever()))
        with limited_worker_threads(settings.function_threads, settings.threads_of_one_function):
            yield service
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)
        channels.close()
        await service.jobs.aclose(settings.drain_seconds)
        await runs.aclose()
        await heartbeat.stop()
        if notices is not None:
            await notices.aclose()
        await models.aclose()
        await store.aclose()


def _assemble(
    settings: Settings,
    catalog: FlowCatalog,
    limiter: Limiter,
    runs: Runs,
    store: Store,
    channels: Channels,
    clock: Clock,
    stats: Stats,
    process_id: str,
) -> Service:
    flows = Flows(catalog, store.published, clock)
    holders = StoredKeys(store.keys) if settings.keys is None else FixedKeys(settings.keys)
    jobs = Jobs(
        store,
        JobRunner(store, runs, flows, clock, process_id),
        database=settings.database_url,
        role=settings.role,
        process_id=process_id,
        max_running=settings.max_running_jobs,
    )
    return Service(
        settings=settings,
        catalog=catalog,
        flows=flows,
        store=store,
        runs=runs,
        jobs=jobs,
        channels=channels,
        notices=store.notices(),
        clock=clock,
        stats=stats,
        doorkeeper=Doorkeeper(holders, settings.wrong_keys_per_minute),
        limiter=limiter,
        queue_limit=QueueLimit(
            store.pending_jobs,
            of_org=settings.max_pending_jobs,
            in_all=settings.max_pending_jobs_in_all,
        ),
        bodies=BodyReceiver(settings.body_seconds),
        process_id=process_id,
    )


def _heartbeat_of(service: Service, process_id: str) -> Heartbeat:
    settings, store, runs = service.settings, service.store, service.runs
    return Heartbeat(
        store.processes,
        service.clock,
        process_id=process_id,
        kind=settings.role,
        recover=service.recover,
        # A run that has ended is not driven, but its end may still wait to be stored.
        driven=lambda: {run.id for run in runs.all_active()} | store.unwritten(),
        repair=service.jobs.repair,
        is_alone=settings.database_url.get_backend_name() == "sqlite",
    )
