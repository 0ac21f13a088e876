"""Recorded sessions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from ...errors import FlowExecutionError, FlowNotFoundError
from ...local.flow_files.catalog import FlowCatalog
from ..access import session_id_from
from ..errors import RequestError
from ..service import Service
from ..store.store import Found
from ..views import all_steps, session_execution
from .incoming import access_of, json_answer, service_of

router = APIRouter()


@router.get("/seq/sessions/{session_id}")
async def session(request: Request) -> Response:
    """Every run of a session, in the order in which they began."""
    access, service = access_of(request), service_of(request)
    session_id = session_id_from(request.path_params["session_id"])
    everyone = await _rows(service, session_id)
    rows = [row for row in everyone if access.allows(row["org"])]
    if everyone and not rows:
        raise RequestError(403, "SESSION_FORBIDDEN", "the session belongs to another organisation")
    if not rows:
        raise RequestError(404, "SESSION_NOT_FOUND", f"there is no session {session_id!r}")
    expiry = service.expiry()
    if expiry is not None and rows[-1]["started_at"] < expiry:
        raise RequestError(
            410, "SESSION_EXPIRED", f"the session {session_id!r} is past its retention"
        )
    return json_answer({"sessionId": session_id, "executions": await _views(service, rows)})


async def _rows(service: Service, session_id: str) -> Sequence[Found]:
    rows = await service.store.in_session(session_id)
    active = [row["id"] for row in rows if service.runs.active(row["id"]) is not None]
    for name in active:
        await service.runs.settle(name)
    return await service.store.in_session(session_id) if active else rows


async def _views(service: Service, rows: Sequence[Found]) -> list[dict[str, Any]]:
    names = [row["id"] for row in rows]
    steps = await service.store.steps(names)
    events = await service.store.events(names)
    return [
        session_execution(
            row,
            all_steps(row, steps[row["id"]]),
            events[row["id"]],
            is_deleted=_is_deleted(service.catalog, row),
        )
        for row in rows
    ]


def _is_deleted(catalog: FlowCatalog, row: Found) -> bool:
    try:
        catalog.get(row["org"], row["project"], row["slug"], row["version"])
    except FlowNotFoundError:
        return True
    except (FlowExecutionError, OSError):
        # Its file is bad just now, or closed to us; that is not gone.
        return False
    return False
