"""The calls of a session: all of them as rows without payloads, and one of them whole."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from ..capture import keeps_snapshots
from ..encoding import encode_spliced, iso, spliced, to_column
from ..errors import RequestError
from ..store.call_rows import SessionCalls, Usage
from ..views import all_steps, session_additions, session_execution, wire_status
from .incoming import access_of
from .queries import choice_of, read_number
from .sessions import SESSION_PATH, address_of, is_deleted_flow, session_of

router = APIRouter()


# Enough for every page; a client that wants all reads several.
MAX_LIMIT = 5000
DEFAULT_LIMIT = 500
# The contract has no paused status: a paused run is running.
_STATUSES = {
    "pending": ("pending",),
    "running": ("running", "paused"),
    "completed": ("completed",),
    "failed": ("failed",),
    "cancelled": ("cancelled",),
}


@router.get(f"{SESSION_PATH}/calls")
async def session_calls(request: Request) -> Response:
    """Return a row for each run of a session, sums over all of them, and what its client added."""
    found = await session_of(request)
    service, session_id, org = found.service, found.session_id, found.access.org
    status = choice_of(request, "status", tuple(_STATUSES))
    calls = await service.store.session_calls(
        session_id,
        org,
        statuses=None if status is None else _STATUSES[status],
        offset=read_number(request, "offset", 0, 0, 10**9),
        limit=read_number(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
    )
    outcomes = await service.store.sessions.outcomes(session_id, org)
    boundaries = await service.store.sessions.boundaries(session_id, org)
    exchange = await service.store.sessions.exchange(session_id, org)
    if not (calls.counts or outcomes or boundaries) and exchange is None:
        raise found.unknown()
    additions = session_additions(outcomes, boundaries)
    if await service.store.sessions.client_left(session_id, org):
        additions["clientLeft"] = True
    total = calls.total
    body = {
        "sessionId": session_id,
        "pinned": found.state.is_pinned,
        "startedAt": iso(calls.started_at),
        "completedAt": iso(calls.completed_at),
        "counts": _counts(calls),
        "tokens": total.tokens,
        "costUsd": None if total.cost is None else f"{total.cost:f}",
        "calls": [_call(row, calls.usage[row["id"]]) for row in calls.rows],
        **additions,
    }
    return Response(encode_spliced(body), media_type="application/json")


@router.get(f"{SESSION_PATH}/calls/{{execution_id}}")
async def session_call(request: Request) -> Response:
    """Return one run as in the session, with what each of its steps has used."""
    found = await session_of(request)
    service, execution_id = found.service, request.path_params["execution_id"]
    if service.runs.active(execution_id) is not None:
        await service.runs.flush(execution_id)
    row = await service.store.execution(execution_id)
    if (
        row is None
        or row["session_id"] != found.session_id
        or not access_of(request).allows(row["org"])
    ):
        message = f"session {found.session_id!r} has no run {execution_id!r}"
        raise RequestError(404, "RUN_NOT_FOUND", message)
    await service.store.load_payloads([row])
    steps = all_steps(row, (await service.store.steps([execution_id]))[execution_id])
    events = (await service.store.events([execution_id]))[execution_id]
    is_deleted = await is_deleted_flow(service.flows, address_of(row))
    view = session_execution(row, steps, events, is_deleted=is_deleted)
    for shown, step in zip(view["steps"], steps, strict=True):
        shown["modelUsed"], shown["costUsd"] = step["model_used"], step["cost_usd"]
        shown["tokens"] = spliced(step["tokens"])
    return Response(encode_spliced(view), media_type="application/json")


def _call(row: dict[str, Any], usage: Usage) -> dict[str, Any]:
    mode = row["capture_mode"]
    return {
        "number": row["number"],
        "executionId": row["id"],
        "flowId": row["flow_id"],
        "org": row["org"],
        "project": row["project"],
        "slug": row["slug"],
        "version": row["version"],
        "triggerType": row["trigger"],
        "status": wire_status(row),
        "startedAt": iso(row["started_at"]),
        "completedAt": iso(row["completed_at"]),
        "traceCaptureMode": mode,
        "snapshotsAvailable": keeps_snapshots(mode),
        "errorAtStep": row["error_at_step"],
        "error": spliced(to_column(row["error"])),
        "steps": usage.steps,
        "blockCount": row["block_count"],
        "models": usage.models,
        "tokens": usage.tokens,
        "costUsd": None if usage.cost is None else f"{usage.cost:f}",
        "input": spliced(to_column(row["input"])),
        "output": spliced(to_column(row["output"])),
    }


def _counts(calls: SessionCalls) -> dict[str, int]:
    counts = {
        name: sum(calls.counts.get(s, 0) for s in stored) for name, stored in _STATUSES.items()
    }
    return {name: count for name, count in counts.items() if count}
