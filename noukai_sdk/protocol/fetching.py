"""Reads: run traces, the live trace, recorded sessions."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlencode

from pydantic import ValidationError

from ..errors import (
    FlowExecutionError,
    NotFoundError,
    NoukaiError,
    PermissionDeniedError,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)
from ..models.sessions import Session
from ..models.traces import StepAttempts, StepTrace, Trace
from .call import FlowRef, Service
from .decoding import decode
from .exchange import errors_name_run, exchange, open_stream
from .program import READ_CHUNK, Program, Timeout
from .requests import get, session_path, step_trace_path, trace_path
from .sse import SSEDecoder
from .stepping import Cursor

Attempt = int | Literal["latest", "all"]


def run_trace(
    service: Service, flow: FlowRef, execution_id: str, timeout: Timeout | None
) -> Program[Trace]:
    """Read the trace of a whole run."""
    request = get(service, trace_path(flow, execution_id), timeout=timeout)
    with errors_name_run(execution_id):
        return decode(Trace, (yield from exchange(service, request)))


def step_trace(
    service: Service,
    flow: FlowRef,
    execution_id: str,
    step_id: str,
    attempt: Attempt,
    loop_index: int | None,
    timeout: Timeout | None,
) -> Program[StepTrace | StepAttempts]:
    """Read the trace of one step, or of all its attempts for ``attempt="all"``."""
    query: dict[str, Any] = {} if attempt == "latest" else {"attempt": attempt}
    if loop_index is not None:
        query["loop_index"] = loop_index
    path = step_trace_path(flow, execution_id, step_id)
    request = get(service, f"{path}?{urlencode(query)}" if query else path, timeout=timeout)
    with errors_name_run(execution_id):
        response = yield from exchange(service, request)
        if attempt == "all":
            return decode(StepAttempts, response)
        return decode(StepTrace, response)


def live_trace(
    service: Service, flow: FlowRef, execution_id: str, timeout: Timeout | None
) -> Program[None]:
    """Yield a run's events, stored ones first, until it has ended."""
    cursor = Cursor()
    headers = {"Accept": "text/event-stream"}
    path = trace_path(flow, execution_id, live=True)
    with errors_name_run(execution_id):
        yield from open_stream(service, get(service, path, timeout=timeout, headers=headers))
        decoder = SSEDecoder()
        while (events := decoder.read_events((yield READ_CHUNK))) is not None:
            for event in events:
                cursor.follow(event)
                yield event


def fetch_session(service: Service, session_id: str) -> Program[Session]:
    """Read a recorded session. Raises the ReplayError that says why it is not available."""
    request = get(service, session_path(session_id))
    try:
        response = yield from exchange(service, request)
    except NoukaiError as error:
        raise _session_error(error, session_id) from error
    try:
        return Session.model_validate_json(response.body)
    except ValidationError as error:
        raise ReplayInvalidSessionError(
            f"the service's response for session {session_id} is malformed",
            response_body=response.body.decode("utf-8", "replace"),
        ) from error


def _session_error(error: NoukaiError, session_id: str) -> NoukaiError:
    kind: type[ReplayError]
    match error:
        case PermissionDeniedError():
            kind, problem = ReplayForbiddenError, "belongs to another organisation or project"
        case NotFoundError():
            kind = ReplaySessionNotFoundError
            problem = "is not known to the service, or belongs to another organisation"
        case FlowExecutionError(status_code=410):
            kind, problem = (
                ReplaySessionExpiredError,
                "is past its retention: its snapshots are gone",
            )
        case FlowExecutionError(status_code=400):
            kind, problem = ReplayInvalidSessionError, "is refused by the service as malformed"
        case _:
            return error
    return kind(
        f"session {session_id} {problem}",
        status_code=error.status_code,
        code=error.code,
        request_id=error.request_id,
    )
