"""Build the headers and error responses that all adapters share. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import (
    APIConnectionError,
    NoukaiError,
    ReplayError,
    ReplayLeftoverError,
)
from ..session.clients_beside import note_client
from ..session.options import NO_CASSETTE

if TYPE_CHECKING:
    from ..models.reports import ReplayReport
    from ..session.options import ReplayRequest
    from ..session.scope import Scope

HEADER_REPLAY = "X-Noukai-Replay"
"""The request header that asks for the replay of a session."""
HEADER_RESPONSE_SESSION = "X-Noukai-Session"
"""The response header with the session of the request."""
HEADER_REPLAY_REPORT = "X-Noukai-Replay-Report"
"""The response header with the summary of a replay, and the request header that asks for its report."""
HEADER_REPLAY_ID = "X-Noukai-Replay-Id"
"""The response header with the id of a replay, by which its report can be asked for."""
OWN_HEADERS = frozenset(
    name.lower() for name in (HEADER_RESPONSE_SESSION, HEADER_REPLAY_REPORT, HEADER_REPLAY_ID)
)
"""The response headers that replays and captures set, in lower case."""

LATE_CALLS = 0.25
"""How many seconds a replay with leftovers waits, at its end, for tasks that the request did not await.

Replayed calls take no time, so such a task may make its call later than it did in production.
"""
LONGEST_LEAVING = 1.0
"""How many seconds a client has to leave a stream where the captured client left it."""
LONGEST_HOLD = 0.05
"""How many seconds the first part of a stream is held back for a second one."""
EVENT_STREAM = "text/event-stream"

logger = logging.getLogger("noukai_sdk")

_STATUSES = {
    "replay_forbidden": 403,
    "replay_not_found": 404,
    "replay_expired": 410,
    "replay_invalid_session": 400,
    "replay_no_snapshots": 409,
    "replay_error": 500,
    "replay_unavailable": 502,
}

# The service's own message may describe a session of another organization, so it is not repeated.
_FIXED_MESSAGES = {
    "replay_forbidden": "This API key may not replay that session.",
    "replay_not_found": (
        "The service knows no session of this id. (A request that calls no flow and no recorded function "
        "leaves no session. One that has just ended may be on its way to the service.)"
    ),
    "replay_expired": "The session is past its retention: its snapshots are gone.",
}


@dataclass(frozen=True)
class Response:
    """A complete HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def require_client(client: Any) -> Any:
    """Return ``client`` if it is a Noukai client; of several, the first.

    Raises:
        TypeError: It is not.
    """
    clients = client if isinstance(client, (list, tuple)) else [client]
    for each in clients or [client]:
        if not hasattr(each, "_transport"):
            raise TypeError(
                f"client= must be a Noukai or AsyncNoukai object, or several of them, not {each!r}"
            )
    # Those that are asked for a session that the first one may not read.
    for other in clients[1:]:
        note_client(clients[0]._transport.service, other._transport.service, given=True)
    return clients[0]


def session_headers(scope: Scope) -> list[tuple[str, str]]:
    """Return the headers that ``scope`` adds to a response, with the replay report as it is now."""
    headers = []
    session_id = scope.session_id or scope.file
    if session_id is not None:
        headers.append((HEADER_RESPONSE_SESSION, session_id))
    if scope.mode == "replay":
        if scope.verdict is not None:
            headers.append((HEADER_REPLAY_ID, scope.verdict.replay_id))
        headers.append((HEADER_REPLAY_REPORT, scope.report.summary()))
    return headers


def refuse_replay(
    error: NoukaiError, requested: ReplayRequest | None, request_line: str
) -> Response:
    """Log why a replay could not start and return the error response.

    Args:
        error: The reason.
        requested: What the request's header asks for, None if the header is malformed.
        request_line: For the report, such as ``POST /grade``.
    """
    from ..replay.verdicts import Verdict

    session_id = replay_id = None
    if requested is not None:
        session_id, replay_id = requested.session_id, requested.replay_id
    extra = {"noukai_session": session_id, "noukai_replay": True, "noukai_error": str(error)}
    logger.warning("replay of session %s refused: %s", session_id, error, extra=extra)
    verdict = Verdict(session_id, request_line=request_line, replay_id=replay_id)
    headers = [(HEADER_RESPONSE_SESSION, session_id)] if session_id is not None else []
    headers.append((HEADER_REPLAY_ID, verdict.replay_id))
    response = error_response(error, headers=headers)
    # The error's own text may tell more than the response does.
    content = json.loads(response.body)
    verdict.error = {name: content[name] for name in ("error", "message")}
    verdict.status = response.status
    verdict.finish()
    return response


def report_response(replay_id: str) -> Response:
    """Return the response to a request for the report of a replay."""
    from ..replay.verdicts import stored_report

    report = stored_report(replay_id.strip())
    if report is not None:
        return _json_response(200, report.model_dump(mode="json", by_alias=True))
    message = (
        "This process has no report of that replay: it keeps the last 1,000, and another worker "
        "process may have served the replay."
    )
    return _json_response(404, {"error": "replay_report_unknown", "message": message})


def finish_replay(
    scope: Scope,
    failure: Exception | None,
    status: int | None,
    *,
    started: bool = False,
    client_left: bool = False,
) -> Response | None:
    """End a replay and return the error response that replaces the application's, if there is one.

    Args:
        scope: The scope of the replay.
        failure: The exception that the application raised.
        status: The status of the application's response, None if it has not started one.
        started: The response has been sent, in part at least, so it cannot be replaced.
        client_left: The client has gone before the end. Leftovers are not logged then.

    Returns:
        None if the replay went well, or if ``failure`` has nothing to do with it.
    """
    error = next((e for e in _chain(failure, set()) if isinstance(e, ReplayError)), None)
    note, later_failure, gone = "", None, False
    if error is not None:
        with suppress(ReplayError):  # complete the report, for the body of the response
            scope.verify(complete=False, client_left=client_left)
            if client_left and scope.is_past_end:  # as its captured client did
                error = None
    else:
        try:
            # Calls that were not reached are not removed ones.
            complete = failure is None and not client_left
            scope.verify(complete=complete, client_left=client_left)
        except ReplayError as unsettled:
            is_leftover = isinstance(unsettled, ReplayLeftoverError)
            gone = is_leftover and client_left
            # An application that failed makes no further calls, so leftovers are expected then. A
            # miss that it caught is often the reason why it failed later.
            if gone or failure is None or not is_leftover:
                error, later_failure = unsettled, failure
    if gone:
        note = " (The client went away before the end of the response.)"
    elif later_failure is not None:
        note = f" (The application continued, and failed with {type(later_failure).__name__}.)"
    # A redirect to the login page, a 401 or a 422 often explains calls that were not made.
    elif isinstance(error, ReplayLeftoverError) and (status or 0) >= HTTPStatus.MULTIPLE_CHOICES:
        note = f" (The application had responded with {status}.)"
    response = None
    if error is not None:
        response = error_response(error, note=note, report=scope.report)
    verdict = scope.verdict
    if verdict is not None:  # before the end of the scope, which freezes the report
        verdict.status = status if response is None or started or client_left else response.status
        if error is not None:
            verdict.fail(error, note)
    scope.end()
    if response is None or gone:
        return None
    logger.warning(
        "replay of session %s: %s [%s]",
        scope.session_id,
        error,
        scope.report.summary(),
        # This is the only place that reports it: the response carries the replay's error.
        exc_info=later_failure,
        extra={
            "noukai_session": scope.session_id,
            "noukai_replay": True,
            "noukai_error": str(error),
            "noukai_report": scope.report.summary(),
        },
    )
    return replace(response, headers=(*response.headers, *session_headers(scope)))


def error_response(
    error: NoukaiError,
    *,
    note: str = "",
    headers: Sequence[tuple[str, str]] = (),
    report: ReplayReport | None = None,
) -> Response:
    """Return the JSON response for ``error``, with ``note`` appended to its message."""
    from ..replay.verdicts import error_code

    code = error_code(error)
    if code != "replay_unavailable":
        fixed = _FIXED_MESSAGES.get(code) if error.code != NO_CASSETTE else None
        message = fixed or error.message
        parent = getattr(error, "parent_session_id", None)
        if fixed and parent is not None:
            message = f"This session is a fork of session {parent}. About that one: {fixed}"
    # The error's own text may quote an address or a header, so it goes to the log only.
    elif isinstance(error, APIConnectionError):
        message = "The service that holds the session could not be reached; see this server's log."
    else:
        with_status = f" with {error.status_code}" if error.status_code else ""
        message = (
            f"The service that holds the session refused{with_status} ({type(error).__name__}); "
            "see this server's log."
        )
    content = {
        "error": code,
        "message": message + note,
        "report": report.as_dict() if report is not None else None,
    }
    return _json_response(_STATUSES[code], content, headers)


def _json_response(
    status: int, content: dict[str, Any], headers: Sequence[tuple[str, str]] = ()
) -> Response:
    body = json.dumps(content).encode()
    own_headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        # Caches may keep a 404 or 410 without this header, and another replay may succeed.
        ("Cache-Control", "no-store"),
    )
    return Response(status, (*own_headers, *headers), body)


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    """Yield ``error``, its causes and contexts, and the members of exception groups."""
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    # Python 3.10 has no ExceptionGroup class; backports have the same attribute.
    for part in (*getattr(error, "exceptions", ()), error.__cause__, error.__context__):
        yield from _chain(part, seen)
