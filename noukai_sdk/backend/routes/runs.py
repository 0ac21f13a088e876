"""Run traces, step traces and the live stream."""

from __future__ import annotations

import re
from typing import Any

from fastapi import APIRouter, Request, Response

from ..errors import RequestError
from ..live_trace import live_events
from ..sse import EventStream
from ..store.store import Found
from ..views import all_steps, run_trace, step_trace
from .incoming import find_run, json_answer, service_of

router = APIRouter()

_NUMBER = re.compile(r"[0-9]{1,9}\Z")
_RUN = "/seq/{org}/{project}/{slug}/runs/{execution_id}"


@router.get(f"{_RUN}/trace")
async def trace(request: Request) -> Response:
    """A whole run."""
    row, steps = await _run_and_steps(request)
    return json_answer(run_trace(row, steps))


@router.get(f"{_RUN}/steps/{{step_id}}/trace")
async def one_step(
    request: Request, attempt: str | None = None, loop_index: int | None = None
) -> Response:
    """One step: its latest attempt, attempt N, or all of them."""
    _row, steps = await _run_and_steps(request)
    step_id = request.path_params["step_id"]
    found = [
        step for step in steps if (step["step_id"], step["loop_index"]) == (step_id, loop_index)
    ]
    if attempt == "all" and found:
        return json_answer({"stepId": step_id, "attempts": [step_trace(step) for step in found]})
    chosen = [step for step in found if _is_attempt(step, attempt)]
    if not chosen:
        raise RequestError(
            404, "STEP_NOT_FOUND", f"the run has no such attempt of a step {step_id!r}"
        )
    return json_answer(step_trace(chosen[-1]))


def _is_attempt(step: Found, attempt: str | None) -> bool:
    if attempt in (None, "latest", "all"):
        return True
    # A hostile one can have more digits than Python converts.
    if not _NUMBER.match(str(attempt)):
        raise RequestError(400, "INVALID_REQUEST", f"attempt is 'all' or a number, not {attempt!r}")
    return bool(step["attempt"] == int(str(attempt)))


async def _run_and_steps(request: Request) -> tuple[Found, list[Any]]:
    name = request.path_params["execution_id"]
    service = service_of(request)
    await find_run(request)
    await service.runs.settle(name)
    row = await find_run(request)
    return row, all_steps(row, (await service.store.steps([name]))[name])


@router.get(f"{_RUN}/trace/stream")
async def live(request: Request) -> Response:
    """What a run has done and what it does, until it has ended."""
    row = await find_run(request)
    service = service_of(request)
    return EventStream(live_events(row, service.store, service.runs, service.channels))
