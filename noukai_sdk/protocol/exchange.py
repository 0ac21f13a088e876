"""One request and its answer: retries and the logging hook."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import count
from typing import Any

from pydantic_core import from_json

from ..errors import APIConnectionError
from .answers import error_from, retry_after
from .call import Service
from .program import OpenStream, Program, Request, Response, SendRequest, Sleep, Want

logger = logging.getLogger("noukai_sdk")

RETRYABLE = frozenset({408, 500, 502, 503, 504})
FIRST_DELAY = 0.5  # seconds; doubles with each retry
LONGEST_DELAY = 8.0
JITTER = 0.25


def send(service: Service, request: Request) -> Program[Response]:
    """Send ``request`` and read its answer. Raises the NoukaiError of a bad answer."""
    return exchange(service, request, SendRequest)


def open_stream(service: Service, request: Request) -> Program[Response]:
    """Send ``request`` and leave the answer's body open for ReadChunk."""
    return exchange(service, request, OpenStream)


def exchange(
    service: Service, request: Request, want: Callable[[Request], Want]
) -> Program[Response]:
    """Send ``request`` until it is answered well, or no retry is left."""
    for attempt in count(1):
        note(service, "request", request, attempt)
        try:
            response: Response = yield want(request)
        except APIConnectionError as error:
            note(service, "response", request, attempt, error=error)
            delay = _delay_after_failure(service, request, attempt, error)
            if delay is None:
                raise
        else:
            note(service, "response", request, attempt, response)
            if 200 <= response.status < 300:
                return response
            delay = _delay_after_answer(service, request, attempt, response)
            if delay is None:
                raise error_from(response)
        note(service, "retry", request, attempt + 1)
        yield Sleep(delay, JITTER)
    raise AssertionError  # count() does not end


def _delay_after_failure(
    service: Service, request: Request, attempt: int, error: APIConnectionError
) -> float | None:
    # A POST that may have reached the service may have started a run: it must not be paid for twice.
    safe = request.method == "GET" or not error.request_sent
    return _backoff(attempt) if safe and attempt <= service.max_retries else None


def _delay_after_answer(
    service: Service, request: Request, attempt: int, response: Response
) -> float | None:
    if request.method != "GET" or attempt > service.max_retries:
        return None
    asked = retry_after(response)
    timeout = request.timeout if request.timeout is not None else service.timeout
    if asked is not None and response.status in RETRYABLE | {429}:
        return asked if asked <= timeout else None
    return _backoff(attempt) if response.status in RETRYABLE else None


def _backoff(attempt: int) -> float:
    return min(FIRST_DELAY * float(2 ** min(attempt - 1, 10)), LONGEST_DELAY)


def note(
    service: Service,
    phase: str,
    request: Request,
    attempt: int,
    response: Response | None = None,
    error: Exception | None = None,
) -> None:
    """Tell the logging hook and the ``noukai_sdk`` logger. Headers, and so the key, are never told."""
    if service.log is None and not logger.isEnabledFor(logging.DEBUG):
        return
    event: dict[str, Any] = {
        "phase": phase,
        "method": request.method,
        "path": request.path,
        "attempt": attempt,
    }
    if response is not None:
        event["status_code"] = response.status
        event["request_id"] = response.headers.get("x-request-id")
    if error is not None:
        event["error"] = str(error)
    if service.log_payloads:
        event["request_body"] = _payload(request.body)
        if response is not None:
            event["response_body"] = _payload(response.body)
    logger.debug("%(phase)s %(method)s %(path)s attempt=%(attempt)d", event)
    if service.log is not None:
        _call_hook(service.log, event)


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
