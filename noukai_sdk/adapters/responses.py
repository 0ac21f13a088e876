"""Build the headers and error responses that all adapters share. No I/O."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from ..errors import (
    APIConnectionError,
    NoukaiError,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayLeftoverError,
    ReplayNoSnapshotsError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)

if TYPE_CHECKING:
    from ..models.reports import ReplayReport
    from ..session.scope import Scope

HEADER_REPLAY = "X-Noukai-Replay"
"""The request header that asks for the replay of a session."""
HEADER_RESPONSE_SESSION = "X-Noukai-Session"
"""The response header with the session of the request."""
HEADER_REPLAY_REPORT = "X-Noukai-Replay-Report"
"""The response header with the summary of a replay."""

LATE_CALLS = 0.25
"""How many seconds a replay with leftovers waits, at its end, for tasks that the request did not await.

Replayed calls take no time, so such a task may make its call later than it did in production.
"""

logger = logging.getLogger("noukai_sdk")

# The first class that matches decides.
_ERRORS: tuple[tuple[type[NoukaiError], int, str], ...] = (
    (ReplayForbiddenError, 403, "replay_forbidden"),
    (ReplaySessionNotFoundError, 404, "replay_not_found"),
    (ReplaySessionExpiredError, 410, "replay_expired"),
    (ReplayInvalidSessionError, 400, "replay_invalid_session"),
    (ReplayNoSnapshotsError, 409, "replay_no_snapshots"),
    (ReplayError, 500, "replay_error"),
    (NoukaiError, 502, "replay_unavailable"),
)

# The service's own message may describe a session of another organization, so it is not repeated.
_FIXED_MESSAGES = {
    "replay_forbidden": "This API key may not replay that session.",
    "replay_not_found": "The service knows no session of this id.",
    "replay_expired": "The session is past its retention: its snapshots are gone.",
}


@dataclass(frozen=True)
class Response:
    """A complete HTTP response."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes


def require_client(client: Any) -> Any:
    """Return ``client`` if it is a Noukai client.

    Raises:
        TypeError: It is not.
    """
    if not hasattr(client, "_transport"):
        raise TypeError(f"client= must be a Noukai or AsyncNoukai object, not {client!r}")
    return client


def session_headers(scope: Scope) -> list[tuple[str, str]]:
    """Return the headers that ``scope`` adds to a response, with the replay report as it is now."""
    headers = []
    if scope.session_id is not None:
        headers.append((HEADER_RESPONSE_SESSION, scope.session_id))
    if scope.mode == "replay":
        headers.append((HEADER_REPLAY_REPORT, scope.report.summary()))
    return headers


def refuse_replay(error: NoukaiError, session_id: str | None) -> Response:
    """Log why a replay could not start and return the error response.

    Args:
        error: The reason.
        session_id: The session in the request's header, None if the header is malformed.
    """
    logger.warning("replay of session %s refused: %s", session_id, error)
    headers = [(HEADER_RESPONSE_SESSION, session_id)] if session_id is not None else []
    return error_response(error, headers=headers)


def finish_replay(scope: Scope, failure: Exception | None, status: int | None) -> Response | None:
    """End a replay and return the error response that replaces the application's, if there is one.

    Args:
        scope: The scope of the replay.
        failure: The exception that the application raised.
        status: The status of the application's response, None if it has not started one.

    Returns:
        None if the replay went well, or if ``failure`` has nothing to do with it.
    """
    error = next((e for e in _chain(failure, set()) if isinstance(e, ReplayError)), None)
    later_failure = None
    if failure is not None:
        scope.end()  # before verify(), which would take calls that were not reached for removed
    if error is None:
        try:
            scope.verify()
        except ReplayError as unsettled:
            # An application that failed makes no further calls, so leftovers are expected then. A
            # miss that it caught is often the reason why it failed later.
            if failure is None or not isinstance(unsettled, ReplayLeftoverError):
                error, later_failure = unsettled, failure
    scope.end()
    if error is None:
        return None
    note = ""
    if later_failure is not None:
        note = f" (The application continued, and failed with {type(later_failure).__name__}.)"
    # A redirect to the login page, a 401 or a 422 often explains calls that were not made.
    elif isinstance(error, ReplayLeftoverError) and (status or 0) >= HTTPStatus.MULTIPLE_CHOICES:
        note = f" (The application had responded with {status}.)"
    logger.warning(
        "replay of session %s: %s [%s]",
        scope.session_id,
        error,
        scope.report.summary(),
        # This is the only place that reports it: the response carries the replay's error.
        exc_info=later_failure,
    )
    return error_response(error, note=note, headers=session_headers(scope), report=scope.report)


def error_response(
    error: NoukaiError,
    *,
    note: str = "",
    headers: Sequence[tuple[str, str]] = (),
    report: ReplayReport | None = None,
) -> Response:
    """Return the JSON response for ``error``, with ``note`` appended to its message."""
    status, code = next((status, code) for kind, status, code in _ERRORS if isinstance(error, kind))
    if code != "replay_unavailable":
        message = _FIXED_MESSAGES.get(code) or error.message
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
