"""The list of jobs, their retry, and the processes that run them."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response

from ..access import Access
from ..admission import retry_key
from ..bodies import parse_body
from ..capture import keeps_steps
from ..encoding import from_column, iso
from ..errors import RequestError
from ..run import ENDED
from ..store.job_pages import RETRY_PREFIX, JobQuery, ListedJobs
from ..store.store import Row
from .flows import find_job, submit_call
from .incoming import IncomingCall, access_of, service_of
from .queries import (
    choice_of,
    cursor_of,
    encode_cursor,
    flow_of,
    limit_of,
    refuse_null_characters,
    unknown_cursor,
)
from .repeats import submitted_again
from .responses import json_response

router = APIRouter()

_STATUSES = ("pending", "running", "completed", "failed", "cancelled")
_POSITION = re.compile(r"([0-9]{1,18})\.([^\0]+)\Z")


@router.get("/seq/jobs")
async def list_jobs(request: Request) -> Response:
    """Return one page of the jobs that the key may read, newest first, and how many are in progress."""
    refuse_null_characters(request)
    limit = limit_of(request)
    query = JobQuery(
        org=access_of(request).org,
        limit=limit,
        after=_position(cursor_of(request)),
        status=choice_of(request, "status", _STATUSES),
        flow=flow_of(request),
    )
    listed = await service_of(request).store.job_page(query)
    page, rest = listed.rows[:limit], listed.rows[limit:]
    last = f"{page[-1]['started_at']}.{page[-1]['id']}" if rest else None
    body = {
        "jobs": [_summary(row, listed) for row in page],
        "inProgress": listed.in_progress,
        "nextCursor": None if last is None else encode_cursor(last),
    }
    return json_response(body)


@router.post("/seq/{org}/{project}/{slug}/jobs/{execution_id}/retry")
async def retry(request: Request) -> Response:
    """Submit a failed or cancelled job again, with the same input, as a new run; once."""
    service = service_of(request)
    started_at = service.clock.now()
    row = await find_job(request)
    org, project, slug, version = row["org"], row["project"], row["slug"], row["version"]
    if row["status"] not in ENDED - {"completed"}:
        message = (
            f"the job is {row['status']}: only a job that failed or was cancelled can be retried"
        )
        raise RequestError(409, "JOB_NOT_RETRYABLE", message, execution_id=row["id"])
    session_id = f"{RETRY_PREFIX}{row['id']}"
    for earlier in await service.store.in_session(session_id):
        if (earlier["org"], earlier["trigger"]) == (org, "job"):
            return submitted_again(earlier)
    await service.store.load_payloads([row])
    # Secrets are masked in a request that is stored as redacted: it is not the one that came.
    if row["capture_mode"] != "full" or row["request"] is None:
        message = "the input of this job was not kept: submit it again, with its input"
        raise RequestError(409, "INPUT_NOT_KEPT", message, execution_id=row["id"])
    parse = partial(parse_body, settings=service.settings)
    call = IncomingCall(
        service=service,
        flow=await service.flows.get(org, project, slug, version),
        version=version,
        body=await service.bodies.parse(parse, row["request"].encode()),
        session_id=session_id,
        started_at=started_at,
        access=access_of(request),
        key=retry_key(org, f"{project}/{slug}/retry", row["id"]),
    )
    return await submit_call(call)


@router.get("/workers")
async def list_workers(request: Request) -> Response:
    """Return the processes of the service that are alive, the oldest first."""
    access, service = access_of(request), service_of(request)
    await service.store.flush()
    rows = await service.store.processes.listed(access.org)
    return json_response({"workers": [_worker(row, access) for row in rows]})


def _position(text: str | None) -> tuple[int, str] | None:
    """Return the start and the id of the job that a cursor stands for."""
    if text is None:
        return None
    match = _POSITION.match(text)
    if match is None:
        raise unknown_cursor()
    return int(match[1]), match[2]


def _summary(row: Row, listed: ListedJobs) -> dict[str, Any]:
    session_id = row["session_id"]
    is_retry = session_id is not None and session_id.startswith(RETRY_PREFIX)
    return {
        "executionId": row["id"],
        "org": row["org"],
        "project": row["project"],
        "slug": row["slug"],
        "version": row["version"],
        "sessionId": session_id,
        "status": row["status"],
        "submittedAt": iso(row["started_at"]),
        "completedAt": iso(row["completed_at"]),
        "blockCount": row["block_count"],
        "stepsDone": listed.steps_done.get(row["id"], 0)
        if keeps_steps(row["capture_mode"])
        else None,
        "errorAtStep": row["error_at_step"],
        "error": from_column(row["error"]),
        "workerId": row["owner"],
        "retryOf": session_id.removeprefix(RETRY_PREFIX) if is_retry else None,
        "retriedAs": listed.retries.get(row["id"]),
    }


def _worker(row: Row, access: Access) -> dict[str, Any]:
    return {
        "id": row["id"],
        "role": row["kind"],
        # It has the name of the host, which is not for the customers of a service.
        "name": row["name"] if access.org is None else None,
        "startedAt": iso(row["started_at"]),
        "heartbeatAt": iso(row["heartbeat_at"]),
        "runningJobs": row["running_jobs"],
    }
