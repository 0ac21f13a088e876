"""Call flows: ``execute``, ``step`` and ``jobs``."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from ..admission import RepeatedCallError
from ..encoding import from_column
from ..errors import RequestError, step_status
from ..store.store import Row
from .incoming import CallRoute, IncomingCall, find_run, read_call
from .repeats import repeated_execute, repeated_submit
from .responses import EventStream, json_response
from .runs import cancel_run

router = APIRouter(route_class=CallRoute)

_FLOW = "/seq/{org}/{project}/{slug}"
_VERSIONED = _FLOW + "/{version}"


@router.post(f"{_FLOW}/execute")
@router.post(f"{_VERSIONED}/execute")
async def execute(request: Request) -> Response:
    """Run a flow to its end, or to its next pause for tools."""
    call = await read_call(request)
    try:
        run = await call.run("execute")
    except RepeatedCallError as repeated:
        return await repeated_execute(call, repeated)
    try:
        await call.service.runs.drive(run)
    except asyncio.CancelledError:
        # The server stops and waits no longer.
        message = f"the backend was stopped before the call had ended: the run is {run.status}"
        raise RequestError(503, "STOPPED", message, execution_id=run.id) from None
    if run.status == "paused":
        return json_response(run.paused_body())
    if run.error is not None:
        code = run.error.get("code") or "INTERNAL_ERROR"
        message = run.error.get("message") or "the run failed"
        raise RequestError(step_status(code), code, message, execution_id=run.id)
    return json_response(run.completed_body())


@router.post(f"{_FLOW}/step")
@router.post(f"{_VERSIONED}/step")
async def step(request: Request) -> Response:
    """Run the next step, or all remaining steps, and stream the events."""
    call = await read_call(request, allow_v0=False)
    run = await call.run("step")
    runs = call.service.runs
    max_steps = None if call.body.call.run_remaining else 1
    return EventStream(runs.advance(run, max_steps), on_end=lambda: runs.release(run))


@router.post(f"{_FLOW}/jobs")
@router.post(f"{_VERSIONED}/jobs")
async def submit(request: Request) -> Response:
    """Start a run in the background."""
    call = await read_call(request)
    if call.body.call.execution_id is not None:
        raise RequestError(400, "EXECUTION_ID_INVALID", "a job cannot continue another run")
    return await submit_call(call)


async def submit_call(call: IncomingCall) -> Response:
    """Start the run of a call in the background."""
    try:
        try:
            await call.service.queue_limit.admit(call.flow.org)
        except RequestError:
            # The job of a repeated call waits already.
            await call.service.limiter.check_key(call.key)
            raise
        run = await call.run("job")
    except RepeatedCallError as repeated:
        return await repeated_submit(call, repeated)
    call.service.jobs.submit(run)
    body = {
        "executionId": run.id,
        "status": "pending",
        "flowId": run.flow_id,
        "blockCount": len(run.flow.steps),
    }
    return json_response(body, 202)


@router.get(f"{_FLOW}/jobs/{{execution_id}}")
async def poll(request: Request) -> Response:
    """Return the status of a job, and its result or error when it has ended."""
    return _job_response(await find_job(request))


@router.delete(f"{_FLOW}/jobs/{{execution_id}}")
async def cancel(request: Request) -> Response:
    """Cancel a job, whichever process runs it; return its status. A job that has ended stays as it is."""
    job = await find_job(request)
    return _job_response(await cancel_run(request, job, "the job was cancelled by a caller"))


async def find_job(request: Request) -> Row:
    """Return the row of the job in the path, as :func:`find_run` does."""
    row = await find_run(request)
    if row["trigger"] != "job":
        raise RequestError(404, "RUN_NOT_FOUND", f"the run {row['id']!r} is not a job")
    return row


def _job_response(row: Row) -> Response:
    # The contract has no cancelled jobs, and strict clients know no other word.
    status = "failed" if row["status"] == "cancelled" else row["status"]
    body: dict[str, Any] = {"executionId": row["id"], "status": status}
    if status == "completed":
        body["result"] = from_column(row["result"])
    elif status == "failed":
        body["error"] = from_column(row["error"])
    return json_response(body)
