"""``execute``, ``step`` and ``jobs``."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from ..encoding import loaded
from ..errors import RequestError, step_status
from ..run import Run
from ..sse import EventStream
from .incoming import find_run, json_answer, receive, service_of

router = APIRouter()

_FLOW = "/seq/{org}/{project}/{slug}"
_VERSIONED = _FLOW + "/{version}"


@router.post(f"{_FLOW}/execute")
@router.post(f"{_VERSIONED}/execute")
async def execute(request: Request) -> Response:
    """Run a flow to its end, or to its next pause for tools."""
    incoming = await receive(request)
    run = await incoming.run("execute")
    async for _ in incoming.service.runs.advance(run):
        pass
    return json_answer(_answer(run))


def _answer(run: Run) -> dict[str, Any]:
    if run.status == "paused":
        return run.paused_body()
    if run.error is not None:
        code = run.error.get("code") or "INTERNAL_ERROR"
        message = run.error.get("message") or "the run failed"
        raise RequestError(step_status(code), code, message, execution_id=run.id)
    return {
        "status": "completed",
        "result": run.result,
        "flowId": run.flow_id,
        "blockCount": len(run.flow.steps),
        "executionId": run.id,
    }


@router.post(f"{_FLOW}/step")
@router.post(f"{_VERSIONED}/step")
async def step(request: Request) -> Response:
    """Run the next step, or all that are left, and stream what happens."""
    incoming = await receive(request, working_copy=False)
    run = await incoming.run("step")
    runs = incoming.service.runs
    most = None if incoming.body.call.run_remaining else 1
    return EventStream(runs.advance(run, most), on_end=lambda: runs.release(run))


@router.post(f"{_FLOW}/jobs")
@router.post(f"{_VERSIONED}/jobs")
async def submit(request: Request) -> Response:
    """Take a run for the background."""
    incoming = await receive(request)
    if incoming.body.call.execution_id is not None:
        raise RequestError(400, "EXECUTION_ID_INVALID", "a job cannot go on with another run")
    run = await incoming.run("job")
    await incoming.service.runs.submit(run)
    answer = {
        "executionId": run.id,
        "status": "pending",
        "flowId": run.flow_id,
        "blockCount": len(run.flow.steps),
    }
    return json_answer(answer, 202)


@router.get(f"{_FLOW}/jobs/{{execution_id}}")
async def poll(request: Request) -> Response:
    """Look at a job."""
    row = await find_run(request)
    if row["trigger"] != "job":
        raise RequestError(404, "RUN_NOT_FOUND", f"the run {row['id']!r} is no job")
    answer: dict[str, Any] = {"executionId": row["id"], "status": row["status"]}
    run = service_of(request).runs.active(row["id"])
    if run is not None and not run.has_ended:
        answer["status"] = run.status
    # The outcome is told by the row alone: a run that is over is not on disk at the same moment.
    if row["status"] == "completed":
        answer["result"] = loaded(row["result"])
    elif row["status"] == "failed":
        answer["error"] = loaded(row["error"])
    return json_answer(answer)
