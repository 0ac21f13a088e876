"""What adapters say over HTTP, without any of them."""

from __future__ import annotations

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
from noukai_sdk.session.scope import Scope, capture_scope


class Replay(Scope):
    """A replay that ends as it is told to."""

    def __init__(self, outcome: ReplayError | None = None) -> None:
        super().__init__("replay", "abc-123")
        self.outcome = outcome
        self.ended = False

    def verify(self) -> None:
        if self.outcome is not None:
            raise self.outcome

    def end(self) -> None:
        self.ended = True


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
def test_every_error_has_its_answer(error: type[NoukaiError], status: int, code: str) -> None:
    answer = error_response(error("what went wrong", status_code=status))
    content = json.loads(answer.body)
    assert answer.status == status
    assert content["error"] == code
    assert content["message"]
    assert content["report"] is None
    headers = dict(answer.headers)
    assert headers["Content-Type"] == "application/json"
    assert headers["Content-Length"] == str(len(answer.body))
    assert headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "error",
    [
        ReplayForbiddenError("owned by evil-corp"),
        ReplaySessionNotFoundError("evil-corp"),
        ReplaySessionExpiredError("evil-corp"),
        APIConnectionError("https://evil-corp"),
        AuthenticationError("evil-corp nk_secret", status_code=401),
    ],
)
def test_what_the_service_said_of_others_stays_out_of_the_answer(error: NoukaiError) -> None:
    body = error_response(error).body.decode()
    assert "evil-corp" not in body
    assert "nk_secret" not in body


def test_the_replays_own_errors_say_what_happened() -> None:
    assert b"grade-3 #2" in error_response(ReplayMissError("no recording for grade-3 #2")).body


def test_an_unreachable_service_and_a_refusing_one_read_differently() -> None:
    assert b"could not be reached" in error_response(APIConnectionError("x")).body
    assert b"refused with 401" in error_response(AuthenticationError("x", status_code=401)).body
    assert b"refused (NoukaiError)" in error_response(NoukaiError("x")).body


def test_a_refusal_names_the_session_that_was_asked_for(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    answer = refuse_replay(ReplaySessionNotFoundError("no such session"), "abc-123")
    assert ("X-Noukai-Session", "abc-123") in answer.headers
    assert "abc-123" in caplog.text
    malformed = refuse_replay(ReplayInvalidSessionError("bad"), None)
    assert "X-Noukai-Session" not in dict(malformed.headers)


def test_session_headers() -> None:
    scope = capture_scope()
    assert session_headers(scope) == [("X-Noukai-Session", scope.session_id)]
    assert session_headers(Scope("normal", None)) == []
    assert session_headers(Replay()) == [
        ("X-Noukai-Session", "abc-123"),
        ("X-Noukai-Replay-Report", "hits=0; misses=0; drift=0; leftovers=0"),
    ]


def test_a_clean_replay_lets_the_answer_stand() -> None:
    scope = Replay()
    assert finish_replay(scope, None, 200) is None
    assert scope.ended


def test_what_settling_raises_becomes_the_answer(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    scope = Replay(ReplayMissError("no recording"))
    scope.report.misses.append(ReportEntry("grade-3", "execute", 1))
    answer = finish_replay(scope, None, 200)
    assert answer
    content = json.loads(answer.body)
    assert (answer.status, content["error"], content["message"]) == (
        500,
        "replay_error",
        "no recording",
    )
    assert content["report"]["misses"][0]["slug"] == "grade-3"
    assert dict(answer.headers)["X-Noukai-Replay-Report"].startswith("hits=0; misses=1")
    assert "no recording" in caplog.text


@pytest.mark.parametrize("status", [302, 422])
def test_leftovers_behind_another_answer_say_which_that_was(status: int) -> None:
    answer = finish_replay(Replay(ReplayLeftoverError("left: grade-3 #1")), None, status)
    assert answer
    assert json.loads(answer.body)["message"] == (
        f"left: grade-3 #1 (The application had responded with {status}.)"
    )
    for status, error in ((200, ReplayLeftoverError("left")), (500, ReplayMissError("missed"))):
        answer = finish_replay(Replay(error), None, status)
        assert answer
        assert b"application" not in answer.body


def test_a_miss_that_was_caught_comes_before_what_it_led_to(caplog: Any) -> None:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    answer = finish_replay(Replay(ReplayMissError("missed")), AttributeError("of None"), 500)
    assert answer
    assert json.loads(answer.body)["message"] == (
        "missed (The application continued, and failed with AttributeError.)"
    )
    assert "AttributeError: of None" in caplog.text
    assert (
        finish_replay(Replay(ReplayLeftoverError("left")), AttributeError("of None"), 500) is None
    )


def raised(*errors: Exception) -> Exception:
    """The last error, raised while the ones before were handled."""
    for earlier, later in pairwise(errors):
        later.__context__ = earlier
    return errors[-1]


class Group(Exception):
    """As ExceptionGroup, which Python 3.10 does not have."""

    def __init__(self, *exceptions: Exception) -> None:
        super().__init__("group")
        self.exceptions = exceptions


def caused() -> Exception:
    try:
        raise RuntimeError("mine") from ReplayMissError("missed")
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "failure",
    [
        ReplayMissError("missed"),
        raised(ReplayMissError("missed"), KeyError("x"), RuntimeError("y")),
        caused(),
        Group(ValueError("x"), Group(ReplayMissError("missed"))),
    ],
    ids=["itself", "context", "cause", "group"],
)
def test_a_failure_is_looked_through_for_the_replays_error(failure: Exception) -> None:
    scope = Replay(ReplayLeftoverError("never asked"))
    answer = finish_replay(scope, failure, None)
    assert answer
    assert json.loads(answer.body)["message"] == "missed"
    assert scope.ended


def test_another_failure_is_the_applications_own_and_nothing_settles() -> None:
    failure = ValueError("x")
    failure.__context__ = failure
    assert finish_replay(Replay(ReplayLeftoverError("left")), failure, None) is None


@pytest.mark.parametrize("thing", [None, "nk_key", Noukai, object()])
def test_what_is_no_client_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="client="):
        require_client(thing)
