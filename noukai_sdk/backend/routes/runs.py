"""Run traces, step traces and the live trace."""

from __future__ import annotations

import re

from fastapi import APIRouter, Request, Response

from ..errors import RequestError
from ..live_trace import live_events
from ..run import ENDED
from ..store.store import Row
from ..views import all_steps, run_trace, step_trace
from .incoming import find_run, service_of
from .responses import EventStream, json_response

router = APIRouter()

_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_RUN = "/seq/{org}/{project}/{slug}/runs/{execution_id}"


@router.get(f"{_RUN}/trace")
async def trace(request: Request) -> Response:
    """Return the trace of a run."""
    row, steps = await _run_and_steps(request)
    return json_response(run_trace(row, steps))


@router.delete(_RUN)
async def cancel(request: Request) -> Response:
    """Cancel a run, whichever process drives it; return its status. One that has ended stays as it is."""
    row = await cancel_run(request, await find_run(request), "the run was cancelled on request")
    return json_response({"executionId": row["id"], "status": row["status"]})


async def cancel_run(request: Request, row: Row, message: str) -> Row:
    """Cancel a run that has not ended; return its row."""
    service = service_of(request)
    # If this process drives the run, its trace then has the step in progress.
    await service.runs.flush(row["id"])
    row = await find_run(request)
    while row["status"] not in ENDED:
        await service.end_run(row, "cancelled", {"code": "CANCELLED", "message": message})
        row = await find_run(request)
    return row


@router.get(f"{_RUN}/steps/{{step_id}}/trace")
async def one_step(
    request: Request, attempt: str | None = None, loop_index: int | None = None
) -> Response:
    """Return the trace of one step: its latest attempt, attempt N, or all of them."""
    _row, steps = await _run_and_steps(request)
    step_id = request.path_params["step_id"]
    attempts = [s for s in steps if (s["step_id"], s["loop_index"]) == (step_id, loop_index)]
    if attempt == "all" and attempts:
        body = {"stepId": step_id, "attempts": [step_trace(step) for step in attempts]}
        return json_response(body)
    if attempts and attempt not in (None, "latest", "all"):
        # An attempt can have more digits than Python converts.
        if not _NUMBER.match(str(attempt)):
            message = f"attempt must be 'all', 'latest' or a number, not {attempt!r}"
            raise RequestError(400, "INVALID_REQUEST", message)
        attempts = [step for step in attempts if step["attempt"] == int(str(attempt))]
    if not attempts:
        message = f"the run exists, but has no such attempt of a step {step_id!r}"
        raise RequestError(404, "RUN_NOT_FOUND", message)
    return json_response(step_trace(attempts[-1]))


async def _run_and_steps(request: Request) -> tuple[Row, list[Row]]:
    execution_id = request.path_params["execution_id"]
    service = service_of(request)
    await find_run(request)
    await service.runs.flush(execution_id)
    row = await find_run(request)
    return row, all_steps(row, (await service.store.steps([execution_id]))[execution_id])


@router.get(f"{_RUN}/trace/stream")
async def live(request: Request) -> Response:
    """Stream the run's events, past and future, until it has ended."""
    row = await find_run(request)
    service = service_of(request)
    return EventStream(
        live_events(row, service.store, service.runs, service.channels, service.notices)
    )
