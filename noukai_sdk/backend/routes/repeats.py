"""The responses to calls that come again with the same idempotency key."""

from __future__ import annotations

from typing import Any

from fastapi import Response

from ..admission import RepeatedCallError
from ..encoding import from_column
from ..errors import RequestError, step_status
from ..rows import run_from
from ..store.store import Row
from ..views import usage_of
from .incoming import IncomingCall
from .responses import json_response

_REPLAYED = {"Idempotent-Replayed": "true"}


async def repeated_execute(call: IncomingCall, repeated: RepeatedCallError) -> Response:
    """Return the response of the first call, or raise its error.

    Raises:
        RequestError: The run failed, or it is still in progress (409).
    """
    row = await _run_of(call, repeated)
    if row["status"] == "completed":
        steps = (await call.service.store.steps([row["id"]]))[row["id"]]
        body: dict[str, Any] = {"status": "completed", "result": from_column(row["result"])}
        return _replayed(body, row, more=usage_of(row, steps))
    if row["status"] == "paused":
        return json_response(run_from(row, call.flow).paused_body(), headers=_REPLAYED)
    if row["status"] in ("pending", "running"):
        raise _in_progress(row["id"])
    error = from_column(row["error"]) or {}
    code = error.get("code") or "INTERNAL_ERROR"
    message = error.get("message") or "the run failed"
    raise RequestError(step_status(code), code, message, execution_id=row["id"], headers=_REPLAYED)


async def repeated_submit(call: IncomingCall, repeated: RepeatedCallError) -> Response:
    """Return the response of the first call."""
    return submitted_again(await _run_of(call, repeated))


def submitted_again(row: Row) -> Response:
    """Return the response of the call that submitted this job."""
    return _replayed({"status": "pending"}, row, 202)


async def _run_of(call: IncomingCall, repeated: RepeatedCallError) -> Row:
    row = await call.service.store.execution(repeated.execution_id)
    if row is None:  # its session was deleted just now
        raise _in_progress(repeated.execution_id)
    return row


def _in_progress(execution_id: str) -> RequestError:
    return RequestError(
        409,
        "IDEMPOTENCY_KEY_IN_USE",
        "the first call with this Idempotency-Key is in progress: try again later",
        execution_id=execution_id,
        headers={"Retry-After": "1"},
    )


def _replayed(
    body: dict[str, Any], row: Row, status: int = 200, more: dict[str, Any] | None = None
) -> Response:
    ids = {"flowId": row["flow_id"], "blockCount": row["block_count"], "executionId": row["id"]}
    return json_response({**body, **ids, **(more or {})}, status, headers=_REPLAYED)
