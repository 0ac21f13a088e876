"""Recorded sessions."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from ...errors import FlowExecutionError, FlowNotFoundError
from ...local.flow_files.catalog import FlowCatalog
from ..errors import RequestError
from ..store.store import Row
from ..views import all_steps, session_execution
from .incoming import access_of, check_session_id, service_of
from .responses import json_response

router = APIRouter()


@router.get("/seq/sessions/{session_id}")
async def session(request: Request) -> Response:
    """Return every run of a session, in the order in which they began."""
    access, service = access_of(request), service_of(request)
    session_id = check_session_id(request.path_params["session_id"])
    all_rows = await service.store.in_session(session_id)
    active = [row["id"] for row in all_rows if service.runs.active(row["id"]) is not None]
    if active:
        for execution_id in active:
            await service.runs.flush(execution_id)
        all_rows = await service.store.in_session(session_id)
    rows = [row for row in all_rows if access.allows(row["org"])]
    if all_rows and not rows:
        raise RequestError(403, "SESSION_FORBIDDEN", "the session belongs to another organisation")
    if not rows:
        raise RequestError(404, "SESSION_NOT_FOUND", f"there is no session {session_id!r}")
    expiry = service.expiry()
    if expiry is not None and rows[-1]["started_at"] < expiry:
        message = f"the session {session_id!r} is past its retention"
        raise RequestError(410, "SESSION_EXPIRED", message)
    execution_ids = [row["id"] for row in rows]
    steps = await service.store.steps(execution_ids)
    events = await service.store.events(execution_ids)
    executions = [
        session_execution(
            row,
            all_steps(row, steps[row["id"]]),
            events[row["id"]],
            is_deleted=_is_deleted(service.catalog, row),
        )
        for row in rows
    ]
    return json_response({"sessionId": session_id, "executions": executions})


def _is_deleted(catalog: FlowCatalog, row: Row) -> bool:
    try:
        catalog.get(row["org"], row["project"], row["slug"], row["version"])
    except FlowNotFoundError:
        return True
    except (FlowExecutionError, OSError):
        # The file exists, but is not valid or cannot be read.
        return False
    return False
