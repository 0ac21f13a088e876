"""``/jobs``: the jobs that wait, run and have ended. ``/workers``: the processes that run them."""

from __future__ import annotations

import time

from starlette.responses import Response

from ...models.job_lists import WorkerList
from ..rendering import render
from ..views.job_rows import JobList
from ..views.versions import version_of
from .flows import address_of
from .live import Look, stream_changes
from .visit import Visit, action, page

_JOB = "/jobs/{org}/{project}/{slug}/{execution_id}"
_PAGE_SIZE = 50
# Seconds for which a live list shows the same processes: they count as requests of the organisation, too.
_WORKERS_SECONDS = 5.0


@page("/jobs")
async def jobs(visit: Visit) -> Response:
    """Show the newest jobs, or those that the filters in the URL choose."""
    return visit.render("jobs.html", list=await _read(visit, await visit.api.workers()))


@page("/live/jobs")
async def live_jobs(visit: Visit) -> Response:
    """Send the list of jobs whenever it has changed."""
    alive, asked_at = await visit.api.workers(), time.monotonic()

    async def look() -> Look:
        nonlocal alive, asked_at
        if time.monotonic() - asked_at > _WORKERS_SECONDS:
            alive, asked_at = await visit.api.workers(), time.monotonic()
        listed = await _read(visit, alive)
        return Look(listed.version, lambda: render("job_list.html", visit=visit, list=listed))

    return stream_changes(visit, look)


@page("/workers")
async def workers(visit: Visit) -> Response:
    """Show the processes that share the database."""
    alive = await visit.api.workers()
    return visit.render("workers.html", workers=alive.workers)


@page("/live/workers")
async def live_workers(visit: Visit) -> Response:
    """Send the list of processes with each heartbeat."""

    async def look() -> Look:
        alive = await visit.api.workers()
        return Look(
            version_of(alive),
            lambda: render("worker_list.html", workers=alive.workers, with_heartbeats=True),
        )

    return stream_changes(visit, look)


@action(f"{_JOB}/cancel")
async def cancel(visit: Visit) -> Response:
    """Cancel a job."""
    await visit.api.cancel_job(address_of(visit), visit.path["execution_id"])
    return visit.back("/jobs")


@action(f"{_JOB}/retry")
async def retry(visit: Visit) -> Response:
    """Submit a job that failed again; show the new run if the form names no other page."""
    address = address_of(visit)
    execution_id = await visit.api.retry_job(address, visit.path["execution_id"])
    return visit.back(f"/flows/{address}/runs/{execution_id}")


async def _read(visit: Visit, alive: WorkerList) -> JobList:
    query = visit.query
    chosen = {name: query[name] for name in ("status", "flow", "cursor") if name in query}
    shown = await visit.api.jobs({**chosen, "limit": _PAGE_SIZE})
    return JobList(chosen, shown, alive, visit.base_url)
