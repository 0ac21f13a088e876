"""Test headers and error responses that all adapters share, without a server."""

from __future__ import annotations

import importlib
import json
import logging
from itertools import pairwise
from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    APITimeoutError,
    AuthenticationError,
    Noukai,
    NoukaiError,
    RateLimitError,
    ReplayDisabledError,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplayNoSnapshotsError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)
from noukai_sdk.adapters.responses import (
    error_response,
    finish_replay,
    refuse_replay,
    require_client,
    session_headers,
)
from noukai_sdk.models.reports import ReportEntry
from noukai_sdk.session.options import ReplayRequest
from noukai_sdk.session.scope import Scope, capture_scope


def test_header_names_are_importable_from_every_adapter() -> None:
    names = ("", ".asgi", ".wsgi", ".fastapi", ".flask", ".starlette")
    for module in [importlib.import_module(f"noukai_sdk.adapters{name}") for name in names]:
        assert module.HEADER_REPLAY == "X-Noukai-Replay"
        assert module.HEADER_RESPONSE_SESSION == "X-Noukai-Session"
        assert {"HEADER_REPLAY", "HEADER_RESPONSE_SESSION"} <= set(module.__all__)


class Replay(Scope):
    """A replay that raises ``error`` when it is verified."""

    def __init__(self, error: ReplayError | None = None) -> None:
        super().__init__("replay", "abc-123")
        self.error = error
        self.ended = False

    def verify(self, **_: Any) -> None:
        if self.error is not None:
            raise self.error

    def end(self) -> None:
        self.ended = True


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    return caplog


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ReplayForbiddenError, 403, "replay_forbidden"),
        (ReplaySessionNotFoundError, 404, "replay_not_found"),
        (ReplaySessionExpiredError, 410, "replay_expired"),
        (ReplayInvalidSessionError, 400, "replay_invalid_session"),
        (ReplayNoSnapshotsError, 409, "replay_no_snapshots"),
        (ReplayMissError, 500, "replay_error"),
        (ReplayLeftoverError, 500, "replay_error"),
        (ReplayDisabledError, 500, "replay_error"),
        (ReplayError, 500, "replay_error"),
        (APIConnectionError, 502, "replay_unavailable"),
        (APITimeoutError, 502, "replay_unavailable"),
        (AuthenticationError, 502, "replay_unavailable"),
        (RateLimitError, 502, "replay_unavailable"),
        (NoukaiError, 502, "replay_unavailable"),
    ],
)
def test_error_response_of_each_error_has_its_status_and_code(
    error: type[NoukaiError], status: int, code: str
) -> None:
    response = error_response(error("what went wrong", status_code=status))
    content = json.loads(response.body)
    assert response.status == status
    assert content["error"] == code
    assert content["message"]
    assert content["report"] is None
    headers = dict(response.headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(response.body))
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ReplayForbiddenError("owned by evil-corp"), "may not replay"),
        (ReplaySessionNotFoundError("evil-corp"), "no session of this id"),
        (ReplaySessionExpiredError("evil-corp"), "past its retention"),
        (APIConnectionError("https://evil-corp"), "could not be reached"),
        (AuthenticationError("evil-corp nk_secret", status_code=401), "refused with 401"),
        (NoukaiError("evil-corp"), "refused (NoukaiError)"),
        (ReplayMissError("no recording for grade-3 #2"), "no recording for grade-3 #2"),
    ],
)
def test_error_response_does_not_repeat_message_of_the_service(
    error: NoukaiError, message: str
) -> None:
    body = error_response(error).body.decode()
    assert message in body
    assert "evil-corp" not in body
    assert "nk_secret" not in body


def test_refused_replay_names_and_logs_requested_session(log: pytest.LogCaptureFixture) -> None:
    response = refuse_replay(
        ReplaySessionNotFoundError("no such"), ReplayRequest("abc-123"), "GET /"
    )
    assert ("X-Noukai-Session", "abc-123") in response.headers
    assert "abc-123" in log.text
    malformed = refuse_replay(ReplayInvalidSessionError("bad"), None, "GET /")
    assert "X-Noukai-Session" not in dict(malformed.headers)


def test_session_headers_depend_on_mode_of_scope() -> None:
    scope = capture_scope()
    assert session_headers(scope) == [("X-Noukai-Session", scope.session_id)]
    assert session_headers(Scope("normal", None)) == []
    assert session_headers(Replay()) == [
        ("X-Noukai-Session", "abc-123"),
        ("X-Noukai-Replay-Report", "hits=0; misses=0; drift=0; leftovers=0"),
    ]


def test_finish_replay_returns_response_only_if_replay_failed(
    log: pytest.LogCaptureFixture,
) -> None:
    scope = Replay()
    assert finish_replay(scope, None, 200) is None
    assert scope.ended
    assert not log.records

    scope = Replay(ReplayMissError("no recording"))
    scope.report.misses.append(ReportEntry("grade-3", "execute", 1))
    response = finish_replay(scope, None, 200)
    assert response
    content = json.loads(response.body)
    assert (response.status, content["error"]) == (500, "replay_error")
    assert content["message"] == "no recording"
    assert content["report"]["misses"][0]["slug"] == "grade-3"
    assert dict(response.headers)["X-Noukai-Replay-Report"].startswith("hits=0; misses=1")
    assert "no recording" in log.text
    assert scope.ended


@pytest.mark.parametrize(
    ("error", "failure", "status", "message"),
    [
        (ReplayLeftoverError("left"), None, 200, "left"),
        (ReplayLeftoverError("left"), None, None, "left"),
        (ReplayLeftoverError("left"), None, 302, "left (The application had responded with 302.)"),
        (ReplayLeftoverError("left"), None, 422, "left (The application had responded with 422.)"),
        (ReplayMissError("missed"), None, 500, "missed"),
        # A caught miss comes before the error that it led to.
        (
            ReplayMissError("missed"),
            AttributeError("of None"),
            500,
            "missed (The application continued, and failed with AttributeError.)",
        ),
        # An application that fails makes no further calls.
        (ReplayLeftoverError("left"), AttributeError("of None"), 500, None),
    ],
)
def test_finish_replay_notes_what_application_did(
    log: pytest.LogCaptureFixture,
    error: ReplayError,
    failure: Exception | None,
    status: int | None,
    message: str | None,
) -> None:
    response = finish_replay(Replay(error), failure, status)
    assert (response and json.loads(response.body)["message"]) == message
    assert ("AttributeError: of None" in log.text) == bool(response and failure)


class Group(Exception):
    """Like ExceptionGroup, which Python 3.10 does not have."""

    def __init__(self, *exceptions: Exception) -> None:
        super().__init__("group")
        self.exceptions = exceptions


def with_contexts(*errors: Exception) -> Exception:
    """Return the last error; each was raised while the one before was handled."""
    for earlier, later in pairwise(errors):
        later.__context__ = earlier
    return errors[-1]


def with_cause(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (ReplayMissError("missed"), "missed"),
        (with_contexts(ReplayMissError("missed"), KeyError("x"), RuntimeError("y")), "missed"),
        (with_cause(RuntimeError("mine"), ReplayMissError("missed")), "missed"),
        (Group(ValueError("x"), Group(ReplayMissError("missed"))), "missed"),
        (with_contexts(error := ValueError("circular"), error), None),
    ],
    ids=["itself", "context", "cause", "group", "none"],
)
def test_finish_replay_finds_replay_error_behind_failure(
    failure: Exception, message: str | None
) -> None:
    scope = Replay(ReplayLeftoverError("left"))
    response = finish_replay(scope, failure, None)
    assert (response and json.loads(response.body)["message"]) == message
    assert scope.ended


@pytest.mark.parametrize("client", [None, "nk_key", Noukai, object()])
def test_require_client_with_other_object_raises(client: Any) -> None:
    with pytest.raises(TypeError, match="client="):
        require_client(client)
