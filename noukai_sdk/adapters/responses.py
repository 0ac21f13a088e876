"""What every adapter says over HTTP, with no I/O: header names, verdicts and error answers."""

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

REPLAY_HEADER = "X-Noukai-Replay"
SESSION_HEADER = "X-Noukai-Session"
REPORT_HEADER = "X-Noukai-Replay-Report"

logger = logging.getLogger("noukai_sdk")

_ERRORS: tuple[tuple[type[NoukaiError], int, str], ...] = (
    (ReplayForbiddenError, 403, "replay_forbidden"),
    (ReplaySessionNotFoundError, 404, "replay_not_found"),
    (ReplaySessionExpiredError, 410, "replay_expired"),
    (ReplayInvalidSessionError, 400, "replay_invalid_session"),
    (ReplayNoSnapshotsError, 409, "replay_no_snapshots"),
    (ReplayError, 500, "replay_error"),
    (NoukaiError, 502, "replay_unavailable"),
)

# These say nothing that the service said: it could speak of somebody else's session.
_FIXED_MESSAGES = {
    "replay_forbidden": "This API key may not replay that session.",
    "replay_not_found": "The service knows no session of this id.",
    "replay_expired": "The session is past its retention: its snapshots are gone.",
}


@dataclass(frozen=True)
class Answer:
    """One whole HTTP answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def status_line(self) -> str:
        """Status and reason, as WSGI wants it."""
        return f"{self.status} {HTTPStatus(self.status).phrase}"


def require_client(client: Any) -> Any:
    """``client``, where it is one of ours.

    Raises:
        TypeError: It is not.
    """
    if not hasattr(client, "_transport"):
        raise TypeError(f"client= must be a Noukai or AsyncNoukai object, not {client!r}")
    return client


def session_headers(scope: Scope) -> list[tuple[str, str]]:
    """What an answer from inside ``scope`` carries, as things stand."""
    headers = []
    if scope.session_id is not None:
        headers.append((SESSION_HEADER, scope.session_id))
    if scope.mode == "replay":
        headers.append((REPORT_HEADER, scope.report.summary()))
    return headers


def refusal(error: NoukaiError, session_id: str | None) -> Answer:
    """The answer where a replay could not begin. ``session_id`` is None for a malformed one."""
    logger.warning("replay of session %s refused: %s", session_id, error)
    headers = [(SESSION_HEADER, session_id)] if session_id is not None else []
    return error_answer(error, headers=headers)


def verdict(scope: Scope, failure: Exception | None, status: int | None) -> Answer | None:
    """What a replay comes to, now that the application has ended.

    Args:
        scope: Settled here, where the application has ended well.
        failure: What the application raised.
        status: What the application wants to answer, None where it has not said.

    Returns:
        What to answer instead, None where the application's own answer stands.
    """
    found = None if failure is None else _replay_error_in(failure)
    error = found or _unsettled(scope, failure)
    scope.end()
    if error is None:
        return None
    other = (
        failure if found is None else None
    )  # said nowhere else: the answer is not the application's
    summary = scope.report.summary()
    logger.warning(
        "replay of session %s: %s [%s]", scope.session_id, error, summary, exc_info=other
    )
    note = _note(error, other, status)
    return error_answer(error, note=note, headers=session_headers(scope), report=scope.report)


def _note(error: ReplayError, failure: Exception | None, status: int | None) -> str:
    """What else there is to say of an application whose answer is replaced."""
    if failure is not None:
        return f" (The application went on, and failed with {type(failure).__name__}.)"
    # Calls that were never made often have their reason here: a 303 to the login, a 401, a 422.
    hidden = isinstance(error, ReplayLeftoverError) and (status or 0) >= HTTPStatus.MULTIPLE_CHOICES
    return f" (The application had answered {status}.)" if hidden else ""


def error_answer(
    error: NoukaiError,
    *,
    note: str = "",
    headers: Sequence[tuple[str, str]] = (),
    report: ReplayReport | None = None,
) -> Answer:
    """The JSON answer that tells of ``error``."""
    status, code = next((status, code) for kind, status, code in _ERRORS if isinstance(error, kind))
    content = {
        "error": code,
        "message": _message(error, code) + note,
        "report": report.as_dict() if report is not None else None,
    }
    body = json.dumps(content).encode()
    own = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        # 404 and 410 may be cached unless they say otherwise, and this is one replay's answer.
        ("Cache-Control", "no-store"),
    )
    return Answer(status, (*own, *headers), body)


def _message(error: NoukaiError, code: str) -> str:
    if code != "replay_unavailable":
        return _FIXED_MESSAGES.get(code) or error.message
    # The error's own text may quote an address or a header: that is for the log only.
    if isinstance(error, APIConnectionError):
        return "The service that holds the session could not be reached; see this server's log."
    status = f" with {error.status_code}" if error.status_code else ""
    name = type(error).__name__
    return f"The service that holds the session refused{status} ({name}); see this server's log."


def _unsettled(scope: Scope, failure: Exception | None) -> ReplayError | None:
    try:
        scope.settle()
    except ReplayLeftoverError as error:
        # Who fails makes no more calls. But a miss that was caught is often why.
        return error if failure is None else None
    except ReplayError as error:
        return error
    return None


def _replay_error_in(failure: BaseException) -> ReplayError | None:
    """The replay's error behind what an application raised: itself, a cause, or part of a group."""
    return next((error for error in _chain(failure, set()) if isinstance(error, ReplayError)), None)


def _chain(error: BaseException | None, seen: set[int]) -> Iterator[BaseException]:
    if error is None or id(error) in seen:
        return
    seen.add(id(error))
    yield error
    # Groups are an attribute here, not a class: Python 3.10 has no ExceptionGroup.
    for part in (*getattr(error, "exceptions", ()), error.__cause__, error.__context__):
        yield from _chain(part, seen)
