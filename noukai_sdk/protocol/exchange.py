"""One request and its answer: retries and the logging hook."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pydantic_core import from_json

from ..errors import APIConnectionError, FlowExecutionError, NoukaiError
from .call import Service
from .decoding import error_from, retry_after
from .program import Effect, OpenStream, Program, Request, Response, SendRequest, Sleep

logger: logging.Logger = logging.getLogger("noukai_sdk")

RETRYABLE = frozenset({408, 500, 502, 503, 504})
FIRST_DELAY = 0.5  # seconds; doubles with each retry
LONGEST_DELAY = 8.0
JITTER = 0.25
NO_STREAM = ("application/json", "text/html")

Outcome = Response | APIConnectionError


def send(service: Service, request: Request) -> Program[Response]:
    """Send ``request`` and read its answer. Raises the NoukaiError of a bad answer."""
    return exchange(service, request, SendRequest)


def open_stream(service: Service, request: Request) -> Program[Response]:
    """Send ``request`` and leave the answer's body open for ReadChunk."""
    response = yield from exchange(service, request, OpenStream)
    kind = response.headers.get("content-type", "").lower()
    # A proxy's page, for example: read as events it would be an empty stream.
    if kind.startswith(NO_STREAM):
        raise FlowExecutionError(
            f"the service's answer is no event stream but {kind}",
            status_code=response.status,
            code="INVALID_RESPONSE",
            request_id=response.headers.get("x-request-id"),
        )
    return response


def exchange(
    service: Service, request: Request, want: Callable[[Request], Effect]
) -> Program[Response]:
    """Send ``request`` until it is answered well, or no retry is left."""
    attempt = 1
    while True:
        outcome = yield from _attempt(service, request, want, attempt)
        if isinstance(outcome, Response) and 200 <= outcome.status < 300:
            return outcome
        delay = _delay(service, request, attempt, outcome)
        if delay is None:
            raise error_from(outcome) if isinstance(outcome, Response) else outcome
        attempt += 1
        note(service, "retry", request, attempt, outcome)
        yield Sleep(delay, JITTER)


@contextmanager
def naming_run(execution_id: str | None) -> Iterator[None]:
    """Errors in this block name the run that they belong to."""
    try:
        yield
    except NoukaiError as error:
        error.execution_id = error.execution_id or execution_id
        raise


def _attempt(
    service: Service, request: Request, want: Callable[[Request], Effect], attempt: int
) -> Program[Outcome]:
    note(service, "request", request, attempt)
    outcome: Outcome
    try:
        outcome = yield want(request)
    except APIConnectionError as error:
        outcome = error
    note(service, "response", request, attempt, outcome)
    return outcome


def _delay(service: Service, request: Request, attempt: int, outcome: Outcome) -> float | None:
    """Seconds to wait before the next attempt, None where there must be none."""
    if attempt > service.max_retries:
        return None
    if not isinstance(outcome, Response):
        # A POST that may have reached the service may have started a run: never pay for it twice.
        safe = request.method == "GET" or not outcome.request_sent
        return _backoff(attempt) if safe else None
    if request.method != "GET":
        return None
    asked = retry_after(outcome)
    if asked is not None and outcome.status in RETRYABLE | {429}:
        longest = service.timeout if request.timeout is None else request.timeout
        return asked if asked <= longest else None
    return _backoff(attempt) if outcome.status in RETRYABLE else None


def _backoff(attempt: int) -> float:
    return min(FIRST_DELAY * float(2 ** min(attempt - 1, 10)), LONGEST_DELAY)


def note(
    service: Service, phase: str, request: Request, attempt: int, outcome: Outcome | None = None
) -> None:
    """Tell the logging hook and the ``noukai_sdk`` logger. Headers, and so the key, are never told."""
    if service.log is None and not logger.isEnabledFor(logging.DEBUG):
        return
    event = _told(phase, request, attempt, outcome)
    logger.debug("%s", " ".join(f"{name}={value}" for name, value in event.items()))
    if service.log is not None:
        if service.log_payloads:
            event["request_body"] = _payload(request.body)
            event["response_body"] = _payload(getattr(outcome, "body", None))
        _call_hook(service.log, event)


def _told(phase: str, request: Request, attempt: int, outcome: Outcome | None) -> dict[str, Any]:
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
    return event


def _call_hook(hook: Callable[[dict[str, Any]], None], event: dict[str, Any]) -> None:
    try:
        hook(event)
    except Exception:
        logger.warning("the log_handler raised; the call goes on", exc_info=True)


def _payload(body: bytes | None) -> Any:
    if not body:
        return None
    try:
        return from_json(body)
    except ValueError:
        return body.decode("utf-8", "replace")
