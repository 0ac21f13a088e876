"""One request and its answer: what is sent again and what is not, and what the log is told."""

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
from noukai_sdk.protocol import exchange
from noukai_sdk.protocol.program import Request
from tests.support.stepping import a_service, answer, play

GET = Request("GET", "/seq/x")
POST = Request("POST", "/seq/x", body=b'{"message": "hi"}')
LOST = APIConnectionError("lost")
REFUSED = APIConnectionError("refused", request_sent=False)
SLOW = APITimeoutError("slow")


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
def test_a_read_is_sent_again(status: int) -> None:
    played = play(exchange.send(a_service(), GET), [answer(None, status), answer({"x": 1})])
    assert played.result == answer({"x": 1})
    assert played.slept == [0.5]
    assert played.requests == [GET, GET]


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 409, 410, 422, 429, 501])
def test_answers_that_are_final(status: int) -> None:
    with pytest.raises(NoukaiError) as caught:
        play(exchange.send(a_service(max_retries=5), GET), [answer(None, status)])
    assert caught.value.status_code == status


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_a_call_that_was_answered_is_never_paid_for_twice(status: int) -> None:
    with pytest.raises(NoukaiError):
        play(exchange.send(a_service(max_retries=5), POST), [answer(None, status, retry_after="0")])


@pytest.mark.parametrize("error", [LOST, SLOW])
def test_nor_one_that_may_have_reached_the_service(error: APIConnectionError) -> None:
    with pytest.raises(type(error)) as caught:
        play(exchange.send(a_service(max_retries=5), POST), [error])
    assert caught.value is error


@pytest.mark.parametrize(
    ("request_", "error"), [(POST, REFUSED), (GET, REFUSED), (GET, LOST), (GET, SLOW)]
)
def test_failures_that_are_safe_to_repeat(request_: Request, error: APIConnectionError) -> None:
    played = play(exchange.send(a_service(), request_), [error, answer()])
    assert played.result.status == 200


def test_the_waits_grow_to_a_longest() -> None:
    outcomes: list[Any] = [answer(None, 503)] * 8
    with pytest.raises(FlowExecutionError):
        play(exchange.send(a_service(max_retries=7), GET), outcomes)
    played = play(exchange.send(a_service(max_retries=8), GET), [*outcomes, answer()])
    assert played.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]


@pytest.mark.parametrize("outcome", [answer(None, 503), REFUSED])
def test_no_retries_means_none(outcome: Any) -> None:
    with pytest.raises(NoukaiError):
        play(exchange.send(a_service(max_retries=0), GET), [outcome])


@pytest.mark.parametrize("status", [429, 503, 500])
def test_the_service_says_when(status: int) -> None:
    asked = answer(None, status, retry_after="7")
    assert play(exchange.send(a_service(), GET), [asked, answer()]).slept == [7.0]


@pytest.mark.parametrize(
    ("client", "call", "repeated"),
    [(10, None, True), (6, None, False), (6, 10, True), (10, 6, False)],
)
def test_a_wait_longer_than_the_timeout_is_not_waited(
    client: float, call: float | None, repeated: bool
) -> None:
    request = Request("GET", "/seq/x", timeout=call)
    program = exchange.send(a_service(timeout=client), request)
    asked = answer(None, 429, retry_after="7")
    if repeated:
        assert play(program, [asked, answer()]).slept == [7.0]
    else:
        with pytest.raises(RateLimitError) as caught:
            play(program, [asked])
        assert caught.value.retry_after == 7.0


def test_retry_after_says_nothing_on_final_answers() -> None:
    with pytest.raises(NoukaiError):
        play(exchange.send(a_service(), GET), [answer(None, 404, retry_after="0")])


@pytest.mark.parametrize("kind", ["application/json", "Text/HTML; charset=utf-8"])
def test_an_answer_that_is_no_stream_is_not_read_as_an_empty_one(kind: str) -> None:
    with pytest.raises(FlowExecutionError, match="no event stream") as caught:
        play(
            exchange.open_stream(a_service(), GET),
            [answer(None, content_type=kind, x_request_id="r")],
        )
    assert (caught.value.code, caught.value.request_id) == ("INVALID_RESPONSE", "r")


@pytest.mark.parametrize("headers", [{}, {"content_type": "text/event-stream"}])
def test_an_open_stream(headers: dict[str, str]) -> None:
    assert (
        play(exchange.open_stream(a_service(), GET), [answer(None, **headers)]).result.status == 200
    )


def test_what_the_hook_is_told() -> None:
    told: list[dict[str, Any]] = []
    service = a_service(log=told.append)
    play(exchange.send(service, GET), [LOST, answer({"secret": 1}, x_request_id="r1")])
    shared = {"method": "GET", "path": "/seq/x"}
    unknown = {"status_code": None, "request_id": None}
    assert told == [
        {"phase": "request", **shared, "attempt": 1, **unknown},
        {"phase": "response", **shared, "attempt": 1, **unknown, "error": "lost"},
        {"phase": "retry", **shared, "attempt": 2, **unknown, "error": "lost"},
        {"phase": "request", **shared, "attempt": 2, **unknown},
        {"phase": "response", **shared, "attempt": 2, "status_code": 200, "request_id": "r1"},
    ]


def test_payloads_on_demand() -> None:
    told: list[dict[str, Any]] = []
    service = a_service(log=told.append, log_payloads=True)
    play(exchange.send(service, POST), [answer({"x": 1})])
    play(exchange.send(service, GET), [answer(b"\xffno json")])
    assert [(event["request_body"], event["response_body"]) for event in told] == [
        ({"message": "hi"}, None),
        ({"message": "hi"}, {"x": 1}),
        (None, None),
        (None, "\ufffdno json"),
    ]


def test_a_hook_that_raises_breaks_no_call(caplog: pytest.LogCaptureFixture) -> None:
    def hook(event: dict[str, Any]) -> None:
        raise RuntimeError("broken hook")

    assert play(exchange.send(a_service(log=hook), GET), [answer()]).result.status == 200
    assert [record.getMessage() for record in caplog.records] == [
        "the log_handler raised; the call goes on"
    ] * 2


def test_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, "noukai_sdk"):
        play(exchange.send(a_service(), POST), [answer({"x": 1}, x_request_id="r1")])
    assert [record.getMessage() for record in caplog.records] == [
        "phase=request method=POST path=/seq/x attempt=1 status_code=None request_id=None",
        "phase=response method=POST path=/seq/x attempt=1 status_code=200 request_id=r1",
    ]
    assert {record.name for record in caplog.records} == {"noukai_sdk"}


def test_a_silent_logger_costs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "noukai_sdk"):
        play(exchange.send(a_service(), POST), [answer()])
    assert not caplog.records
