"""One request and its response: retries and the logging hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import APIConnectionError, FlowExecutionError, NoukaiError
from .call import Service, logger
from .decoding import error_from, json_or_text, retry_after
from .program import Effect, OpenStream, Program, Request, Response, SendRequest, Sleep, longest

RETRYABLE = frozenset({408, 500, 502, 503, 504})
FIRST_DELAY = 0.5  # seconds; doubles with each retry
LONGEST_DELAY = 8.0
JITTER = 0.25
# Sent twice, these do what they do once.
_REPEATABLE = ("GET", "DELETE")
NOT_A_STREAM = ("application/json", "text/html")

Outcome = Response | APIConnectionError


def exchange(
    service: Service, request: Request, effect: Callable[[Request], Effect] = SendRequest
) -> Program[Response]:
    """Send ``request`` until it succeeds or no retry is left. Raises the NoukaiError of a failure.

    With OpenStream for ``effect`` the body of a successful response is left open for ReadChunk.
    """
    attempt = 1
    while True:
        log_phase(service, "request", request, attempt)
        outcome: Outcome
        try:
            outcome = yield effect(request)
        except APIConnectionError as error:
            outcome = error
        log_phase(service, "response", request, attempt, outcome)
        if isinstance(outcome, Response) and 200 <= outcome.status < 300:
            return outcome
        delay = _delay(service, request, attempt, outcome)
        if delay is None:
            raise error_from(outcome, request.path) if isinstance(outcome, Response) else outcome
        attempt += 1
        log_phase(service, "retry", request, attempt, outcome)
        yield Sleep(delay, JITTER)


def open_stream(service: Service, request: Request) -> Program[Response]:
    """Send ``request``, leave the body of its event stream open for ReadChunk, and return the rest."""
    response = yield from exchange(service, request, OpenStream)
    content_type = response.headers.get("content-type", "").lower()
    # A proxy's error page, for example: read as events it would be an empty stream.
    if content_type.startswith(NOT_A_STREAM):
        raise FlowExecutionError(
            f"the service's response is not an event stream but {content_type}",
            status_code=response.status,
            code="INVALID_RESPONSE",
            request_id=response.headers.get("x-request-id"),
        )
    return response


@contextmanager
def errors_name_run(execution_id: str | None) -> Iterator[None]:
    """Put ``execution_id`` into the errors that this block raises."""
    try:
        yield
    except NoukaiError as error:
        error.execution_id = error.execution_id or execution_id
        raise


def _delay(service: Service, request: Request, attempt: int, outcome: Outcome) -> float | None:
    """Return the seconds to wait before the next attempt, None if there must be none."""
    retries = service.max_retries if request.max_retries is None else request.max_retries
    if attempt > retries:
        return None
    backoff = min(FIRST_DELAY * float(2 ** min(attempt - 1, 10)), LONGEST_DELAY)
    if not isinstance(outcome, Response):
        # A POST that may have reached the service may have started a run: never pay for it twice.
        return backoff if request.method in _REPEATABLE or not outcome.request_sent else None
    if request.method not in _REPEATABLE:
        return None
    seconds = retry_after(outcome)
    if seconds is not None and outcome.status in RETRYABLE | {429}:
        timeout = service.timeout if request.timeout is None else request.timeout
        return seconds if seconds <= longest(timeout) else None
    return backoff if outcome.status in RETRYABLE else None


def log_phase(
    service: Service, phase: str, request: Request, attempt: int, outcome: Outcome | None = None
) -> None:
    """Report to the ``log_handler`` and the ``noukai_sdk`` logger, without headers: they hold the key."""
    if service.log is None and not logger.isEnabledFor(logging.DEBUG):
        return
    event: dict[str, Any] = {
        "phase": phase,
        "method": request.method,
        "path": request.path,
        "attempt": attempt,
        "status_code": None,
        "request_id": None,
    }
    if isinstance(outcome, Response):
        event["status_code"] = outcome.status
        event["request_id"] = outcome.headers.get("x-request-id")
    elif outcome is not None:
        event["error"] = str(outcome)
    payloads: dict[str, Any] = {}
    if service.log is not None and service.log_payloads:
        for name, message in (("request_body", request), ("response_body", outcome)):
            body = getattr(message, "body", None)
            payloads[name] = json_or_text(body) if body else None
    service.report(event, payloads, request.headers.get("X-Session-Id"))
