"""Recorded sessions."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from fastapi import APIRouter, Request, Response

from ...errors import FlowExecutionError, FlowNotFoundError
from ..access import Access
from ..encoding import encode_spliced
from ..errors import RequestError
from ..published import Flows
from ..service import Service
from ..session_bodies import (
    is_valid_id,
    merge_reports,
    read_boundaries,
    read_exchange,
    read_outcomes,
    read_report,
    without_details,
)
from ..store.database import StoreUnavailableError
from ..store.sessions import MAX_REPLAYS, SessionState
from ..store.store import Row
from ..views import all_steps, session_additions, session_execution
from .incoming import access_of, check_session_id, service_of
from .queries import choice_of, read_number
from .responses import json_response

router = APIRouter()


SESSION_PATH = "/seq/sessions/{session_id}"

Address = tuple[str, str, str, int | None]
"""A flow: organisation, project, slug, version."""


@dataclass(frozen=True)
class SessionAccess:
    """A session that the request's key may use."""

    service: Service
    access: Access
    session_id: str
    state: SessionState

    def unknown(self) -> RequestError:
        """Return the error for a session of which nothing is stored."""
        return RequestError(
            404,
            "SESSION_NOT_FOUND",
            f"there is no session {self.session_id!r}: perhaps it was deleted. A request without calls "
            "leaves no session, unless the request itself was captured (capture_requests=True)",
        )


async def session_of(
    request: Request, *, may_be_new: bool = False, may_be_expired: bool = False
) -> SessionAccess:
    """Return the session in the path; raise RequestError if it is unknown or has expired.

    A session of another organisation is unknown, and its id is free: each organisation has its own.
    """
    session_id = check_session_id(request.path_params["session_id"])
    return await _accessed(
        request, session_id, may_be_new=may_be_new, may_be_expired=may_be_expired
    )


async def _accessed(
    request: Request, session_id: str, *, may_be_new: bool = False, may_be_expired: bool = False
) -> SessionAccess:
    access, service = access_of(request), service_of(request)
    state = await service.store.sessions.state(session_id, access.org)
    found = SessionAccess(service, access, session_id, state)
    if not state.is_known and not may_be_new:
        raise found.unknown()
    expiry = service.expiry()
    is_old = expiry is not None and state.last_start is not None and state.last_start < expiry
    is_expired = state.is_deleted or (is_old and not state.is_pinned)
    if is_expired and not may_be_expired:
        message = f"the session {session_id!r} is past its retention"
        raise RequestError(410, "SESSION_EXPIRED", message)
    return found


@router.get(SESSION_PATH)
async def session(request: Request) -> Response:
    """Return every run of a session in the order in which they began, and what its client added."""
    found = await session_of(request)
    service, session_id, org = found.service, found.session_id, found.access.org
    all_rows = await service.store.in_session(session_id)
    active = [row["id"] for row in all_rows if service.runs.active(row["id"]) is not None]
    if active:
        for execution_id in active:
            await service.runs.flush(execution_id)
        all_rows = await service.store.in_session(session_id)
    rows = [row for row in all_rows if found.access.allows(row["org"])]
    await service.store.load_payloads(rows)
    execution_ids = [row["id"] for row in rows]
    steps = await service.store.steps(execution_ids)
    events = await service.store.events(execution_ids)
    addresses = {address_of(row) for row in rows}
    deleted = {address for address in addresses if await is_deleted_flow(service.flows, address)}
    executions = [
        session_execution(
            row,
            all_steps(row, steps[row["id"]]),
            events[row["id"]],
            is_deleted=address_of(row) in deleted,
        )
        for row in rows
    ]
    outcomes = await service.store.sessions.outcomes(session_id, org)
    boundaries = await service.store.sessions.boundaries(session_id, org)
    is_empty = not (rows or outcomes or boundaries)
    if is_empty and await service.store.sessions.exchange(session_id, org) is None:
        raise found.unknown()
    additions = session_additions(outcomes, boundaries)
    if await service.store.sessions.client_left(session_id, org):
        additions["clientLeft"] = True
    body = encode_spliced({"sessionId": session_id, "executions": executions, **additions})
    return Response(body, media_type="application/json")


@router.get(f"{SESSION_PATH}/exchange")
async def exchange(request: Request) -> Response:
    """Return the HTTP request that the session belongs to, and its response."""
    found = await session_of(request)
    body = await found.service.store.sessions.exchange(found.session_id, found.access.org)
    if body is None:
        message = (
            f"the request of session {found.session_id!r} was not captured: set "
            "capture_requests=True on the middleware"
        )
        raise RequestError(404, "EXCHANGE_NOT_FOUND", message)
    return Response(body, media_type="application/json")


@router.put(f"{SESSION_PATH}/exchange")
async def put_exchange(request: Request) -> Response:
    """Store the HTTP request that the session belongs to, and its response; once."""
    found = await session_of(request, may_be_new=True)
    values = await read_exchange(request, found.service.bodies)
    now = found.service.clock.now()
    put = found.service.store.sessions.put_exchange
    if not await put(found.session_id, found.access.org, values, now):
        message = f"session {found.session_id!r} has another request already; it is written once"
        raise RequestError(409, "EXCHANGE_EXISTS", message)
    return json_response({"sessionId": found.session_id})


@router.put(f"{SESSION_PATH}/outcomes")
async def put_outcomes(request: Request) -> Response:
    """Store what only the caller knows of the session's calls; replace what was stored before."""
    found = await session_of(request, may_be_new=True)
    values = await read_outcomes(request, found.service.bodies, found.service.flows)
    now = found.service.clock.now()
    put = found.service.store.sessions.put_outcomes
    await put(found.session_id, found.access.org, values, now)
    return json_response({"sessionId": found.session_id})


@router.put(f"{SESSION_PATH}/boundaries")
async def put_boundaries(request: Request) -> Response:
    """Store the calls of the session's recorded functions; replace what was stored before."""
    found = await session_of(request, may_be_new=True)
    values = await read_boundaries(request, found.service.bodies)
    now = found.service.clock.now()
    put = found.service.store.sessions.put_boundaries
    await put(found.session_id, found.access.org, values, now)
    return json_response({"sessionId": found.session_id})


@router.get(f"{SESSION_PATH}/replays")
async def replays(request: Request) -> Response:
    """Return the reports of the session's replays, newest first."""
    found = await session_of(request)
    limit = read_number(request, "limit", MAX_REPLAYS, 1, MAX_REPLAYS)
    is_brief = choice_of(request, "details", ("true", "false")) == "false"
    bodies = await found.service.store.sessions.replays(found.session_id, found.access.org, limit)
    if is_brief:
        bodies = await asyncio.to_thread(lambda: [without_details(body) for body in bodies])
    return Response(f'{{"replays":[{",".join(bodies)}]}}', media_type="application/json")


@router.post(f"{SESSION_PATH}/replays")
async def post_replay(request: Request) -> Response:
    """Store the report of a replay; it replaces an earlier one of the same id."""
    found = await session_of(request, may_be_new=True)
    report = await read_report(request, found.service.bodies, found.session_id)
    now = found.service.clock.now()
    put = found.service.store.sessions.put_replay
    merge = partial(merge_reports, report=report)
    await put(found.session_id, found.access.org, report.replay_id, merge, now)
    return json_response({"sessionId": found.session_id, "replayId": report.replay_id})


@router.get("/seq/replays/{replay_id}")
async def replay(request: Request) -> Response:
    """Return the report of one replay."""
    replay_id, org = request.path_params["replay_id"], access_of(request).org
    found = None
    if is_valid_id(replay_id):
        found = await service_of(request).store.sessions.replay(replay_id, org)
    if found is None:
        raise RequestError(404, "REPLAY_NOT_FOUND", f"there is no report of a replay {replay_id!r}")
    session_id, body = found
    await _accessed(request, session_id)
    return Response(body, media_type="application/json")


@router.delete(SESSION_PATH)
async def forget(request: Request) -> Response:
    """Delete the runs of a session, and everything else that is stored of it."""
    found = await session_of(request, may_be_expired=True)
    service, session_id = found.service, found.session_id
    running = await service.store.sessions.delete(session_id, found.access.org)
    if running is not None:
        message = f"a run of session {session_id!r} is in progress: wait until it has ended"
        raise RequestError(409, "SESSION_IN_PROGRESS", message, execution_id=running)
    # The sweep tries again if this fails.
    with suppress(StoreUnavailableError):
        await service.store.delete_blobs()
    return Response(status_code=204)


@router.put(f"{SESSION_PATH}/pin")
async def pin(request: Request) -> Response:
    """Keep the session beyond the retention."""
    return await _set_pin(request, True)


@router.delete(f"{SESSION_PATH}/pin")
async def unpin(request: Request) -> Response:
    """Let the session expire."""
    return await _set_pin(request, False)


async def _set_pin(request: Request, pinned: bool) -> Response:
    found = await session_of(request)
    if found.state.last_start is None:
        raise found.unknown()
    await found.service.store.sessions.pin(found.session_id, found.access.org, pinned)
    return json_response({"sessionId": found.session_id, "pinned": pinned})


def address_of(row: Row) -> Address:
    """Return the flow of a run."""
    return row["org"], row["project"], row["slug"], row["version"]


async def is_deleted_flow(flows: Flows, address: Address) -> bool:
    """Return whether a flow does not exist any more."""
    try:
        await flows.get(*address)
    except FlowNotFoundError:
        return True
    except (FlowExecutionError, RequestError):
        # The file exists, but is not valid or cannot be read.
        return False
    return False
