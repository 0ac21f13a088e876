"""One request and its response: retries, and the logging hook."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from noukai_sdk.errors import (
    APIConnectionError,
    APITimeoutError,
    FlowExecutionError,
    NoukaiError,
    RateLimitError,
)
from noukai_sdk.protocol.exchange import exchange, open_stream
from noukai_sdk.protocol.program import Request
from tests.support.stepping import make_service, play, respond

GET = Request("GET", "/seq/x")
POST = Request("POST", "/seq/x", body=b'{"message": "hi"}')
LOST = APIConnectionError("lost")
REFUSED = APIConnectionError("refused", request_sent=False)
SLOW = APITimeoutError("slow")

RETRYABLE = (408, 500, 502, 503, 504)
FINAL = (400, 401, 402, 403, 404, 409, 410, 422, 429, 501)


@pytest.mark.parametrize("status", RETRYABLE)
def test_read_with_retryable_status_is_sent_again(status: int) -> None:
    played = play(exchange(make_service(), GET), [respond(None, status), respond({"x": 1})])
    assert played.result == respond({"x": 1})
    assert played.slept == [0.5]
    assert played.requests == [GET, GET]


@pytest.mark.parametrize("status", FINAL)
def test_read_with_final_status_raises(status: int) -> None:
    retry_after = {} if status == 429 else {"retry_after": "0"}
    with pytest.raises(NoukaiError) as caught:
        play(exchange(make_service(max_retries=5), GET), [respond(None, status, **retry_after)])
    assert caught.value.status_code == status


@pytest.mark.parametrize("outcome", [*(RETRYABLE + FINAL), LOST, SLOW])
def test_post_that_may_have_started_a_run_is_not_repeated(outcome: Any) -> None:
    if isinstance(outcome, int):
        outcome = respond(None, outcome, retry_after="0")
    with pytest.raises(NoukaiError) as caught:
        play(exchange(make_service(max_retries=5), POST), [outcome])
    assert caught.value is outcome or not isinstance(outcome, Exception)


@pytest.mark.parametrize(
    ("request_", "error"), [(POST, REFUSED), (GET, REFUSED), (GET, LOST), (GET, SLOW)]
)
def test_request_safe_to_repeat_is_sent_again(request_: Request, error: APIConnectionError) -> None:
    assert play(exchange(make_service(), request_), [error, respond()]).result.status == 200
    with pytest.raises(type(error)):
        play(exchange(make_service(max_retries=0), request_), [error])


def test_retry_delays_grow_to_a_maximum() -> None:
    outcomes: list[Any] = [respond(None, 503)] * 8
    with pytest.raises(FlowExecutionError):
        play(exchange(make_service(max_retries=7), GET), outcomes)
    played = play(exchange(make_service(max_retries=8), GET), [*outcomes, respond()])
    assert played.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("status", [429, 503, 500])
@pytest.mark.parametrize(
    ("client", "call", "repeated"),
    [(10, None, True), (6, None, False), (6, 10, True), (10, 6, False)],
)
def test_retry_after_is_obeyed_up_to_the_timeout(
    client: float, call: float | None, repeated: bool, status: int
) -> None:
    program = exchange(make_service(timeout=client), Request("GET", "/seq/x", timeout=call))
    response = respond(None, status, retry_after="7")
    if repeated:
        assert play(program, [response, respond()]).slept == [7.0]
        return
    with pytest.raises(NoukaiError) as caught:
        play(program, [response])
    assert not isinstance(caught.value, RateLimitError) or caught.value.retry_after == 7.0


def test_open_stream_refuses_other_content_types() -> None:
    for content_type in ("application/json", "Text/HTML; charset=utf-8"):
        response = respond(None, content_type=content_type, x_request_id="r")
        with pytest.raises(FlowExecutionError, match="not an event stream") as caught:
            play(open_stream(make_service(), GET), [response])
        assert (caught.value.code, caught.value.request_id) == ("INVALID_RESPONSE", "r")
    for headers in ({}, {"content_type": "text/event-stream"}):
        assert play(open_stream(make_service(), GET), [respond(None, **headers)]).requests == [GET]


def test_log_handler_gets_every_phase() -> None:
    events: list[dict[str, Any]] = []
    service = make_service(log=events.append)
    play(exchange(service, GET), [LOST, respond({"secret": 1}, x_request_id="r1")])
    shared = {"method": "GET", "path": "/seq/x"}
    unknown = {"status_code": None, "request_id": None}
    assert events == [
        {"phase": "request", **shared, "attempt": 1, **unknown},
        {"phase": "response", **shared, "attempt": 1, **unknown, "error": "lost"},
        {"phase": "retry", **shared, "attempt": 2, **unknown, "error": "lost"},
        {"phase": "request", **shared, "attempt": 2, **unknown},
        {"phase": "response", **shared, "attempt": 2, "status_code": 200, "request_id": "r1"},
    ]


def test_log_payloads_adds_bodies() -> None:
    events: list[dict[str, Any]] = []
    service = make_service(log=events.append, log_payloads=True)
    play(exchange(service, POST), [respond({"x": 1})])
    play(exchange(service, GET), [respond(b"\xffno json")])
    assert [(event["request_body"], event["response_body"]) for event in events] == [
        ({"message": "hi"}, None),
        ({"message": "hi"}, {"x": 1}),
        (None, None),
        (None, "\ufffdno json"),
    ]


def test_log_handler_that_raises_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: dict[str, Any]) -> None:
        raise RuntimeError("broken hook")

    assert play(exchange(make_service(log=hook), GET), [respond()]).result.status == 200
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["the log_handler raised; the call continues"] * 2


def test_logger_gets_phases_at_debug_level_only(caplog: pytest.LogCaptureFixture) -> None:
    for level in (logging.INFO, logging.DEBUG):
        with caplog.at_level(level, "noukai_sdk"):
            play(exchange(make_service(), POST), [respond({"x": 1}, x_request_id="r1")])
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        (
            "noukai_sdk",
            "phase=request method=POST path=/seq/x attempt=1 status_code=None request_id=None",
        ),
        (
            "noukai_sdk",
            "phase=response method=POST path=/seq/x attempt=1 status_code=200 request_id=r1",
        ),
    ]
