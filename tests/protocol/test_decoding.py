"""From responses to errors: docs/wire.md, "Errors"."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import errors
from noukai_sdk.models.results import JobStatus
from noukai_sdk.protocol.decoding import decode, error_class, error_from, retry_after
from noukai_sdk.protocol.program import Response
from tests.support.stepping import respond

OTHER_STATUSES = (302, 400, 408, 409, 410, 422, 500, 503, 599)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (403, errors.PermissionDeniedError),
        (404, errors.FlowNotFoundError),
        (429, errors.RateLimitError),
        *[(status, errors.FlowExecutionError) for status in OTHER_STATUSES],
    ],
)
def test_error_response_raises_class_of_its_status(
    status: int, kind: type[errors.NoukaiError]
) -> None:
    body = {"detail": {"code": "SOME_CODE", "message": "what happened", "executionId": "e1"}}
    error = error_from(respond(body, status, x_request_id="r1"))
    assert type(error) is kind
    assert str(error) == "SOME_CODE: what happened"
    assert (error.status_code, error.code, error.execution_id) == (status, "SOME_CODE", "e1")
    assert (error.request_id, error.response_body) == ("r1", body)


@pytest.mark.parametrize(
    ("path", "code", "kind"),
    [
        ("/seq/a/b/c/execute", None, errors.FlowNotFoundError),
        ("/seq/a/b/c/jobs", None, errors.FlowNotFoundError),
        ("/seq/a/jobs/runs/execute", None, errors.FlowNotFoundError),
        ("/seq/a/b/c/v3/execute", "RUN_NOT_FOUND", errors.RunNotFoundError),
        ("/seq/a/b/c/jobs/e", None, errors.RunNotFoundError),
        ("/seq/a/b/c/runs/e/trace", "SOME_CODE", errors.RunNotFoundError),
        ("/seq/a/b/c/runs/e/trace", "FLOW_NOT_FOUND", errors.FlowNotFoundError),
    ],
)
def test_not_found_is_about_run_by_code_or_path(
    path: str, code: str | None, kind: type[errors.NoukaiError]
) -> None:
    error = error_from(respond({"detail": {"code": code}}, 404), path)
    assert type(error) is kind
    assert isinstance(error, errors.NotFoundError)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"detail": "text"}, None, "text"),
        ({"detail": {"code": "X"}}, "X", "X"),
        ({"detail": {"message": "m"}}, None, "m"),
        ({"detail": {"code": 5, "message": ["m"]}}, "5", "5: ['m']"),
        ({"code": "X", "message": "m"}, "X", "X: m"),
        ({"detail": [{"loc": ["body"], "msg": "bad"}]}, None, "[{'loc': ['body'], 'msg': 'bad'}]"),
        ({"detail": None}, None, "the service responded with HTTP 500"),
        ({}, None, "the service responded with HTTP 500"),
        (None, None, "the service responded with HTTP 500"),
        (b"<h1>Bad gateway</h1>", None, "<h1>Bad gateway</h1>"),
        (b"x" * 2000, None, "x" * 500),
        (b"\xff\xfe", None, "\ufffd\ufffd"),
    ],
)
def test_error_body_of_any_form_yields_code_and_message(
    body: Any, code: str | None, message: str
) -> None:
    error = error_from(respond(body, 500))
    assert (error.code, str(error), error.message) == (code, message, message)


def test_error_headers_become_attributes() -> None:
    denied = error_from(respond(None, 401, www_authenticate="Bearer"))
    assert isinstance(denied, errors.AuthenticationError)
    assert denied.www_authenticate == "Bearer"
    for text, seconds in (("0", 0.0), ("1.5", 1.5), ("-1", None), ("nan", None), ("inf", None)):
        limited = error_from(respond(None, 429, retry_after=text))
        assert isinstance(limited, errors.RateLimitError)
        assert limited.retry_after == seconds
    assert retry_after(respond(None, 429, retry_after="soon")) is None
    assert retry_after(respond(None, 429)) is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("INSUFFICIENT_CREDITS", errors.InsufficientCreditsError),
        ("CREDITS_EXHAUSTED", errors.InsufficientCreditsError),
        ("FLOW_NOT_FOUND", errors.FlowNotFoundError),
        ("RUN_NOT_FOUND", errors.RunNotFoundError),
        ("INVALID_TREE", errors.FlowExecutionError),
        (None, errors.FlowExecutionError),
    ],
)
def test_error_class_without_status_follows_code(
    code: str | None, kind: type[errors.NoukaiError]
) -> None:
    assert error_class(None, code) is kind


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{}", "status: Field required"),
        (b'{"executionId": "e", "status": "lost"}', "status: Input should be"),
        (b"[]", "Input should be an object"),
        (b"hello", "Invalid JSON"),
        (b"", "Invalid JSON"),
    ],
)
def test_decode_invalid_body_names_first_problem(body: bytes, problem: str) -> None:
    with pytest.raises(errors.FlowExecutionError, match=problem) as caught:
        decode(JobStatus, Response(200, {"x-request-id": "r1"}, body))
    error = caught.value
    assert "not a valid JobStatus" in str(error)
    assert (error.status_code, error.code, error.request_id) == (200, "INVALID_RESPONSE", "r1")
    assert error.__cause__ is not None
