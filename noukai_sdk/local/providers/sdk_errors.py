"""From the errors of the official clients to ours. Both clients name theirs alike."""

from __future__ import annotations

import email.utils
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..llm_errors import (
    LlmAuthenticationError,
    LlmConnectionError,
    LlmError,
    LlmRateLimitError,
    LlmRequestError,
    LlmResponseError,
    LlmServerError,
    LlmTimeoutError,
)


@contextmanager
def translated(sdk: Any, provider: str, key: str | None) -> Iterator[None]:
    """Raise ours in place of what the official client raises inside the block.

    Args:
        sdk: The client's module, ``openai`` or ``anthropic``.
        provider: Begins each message.
        key: The API key; an error that quotes it is not chained, so that no traceback shows it.
    """
    try:
        yield
    except Exception as error:
        ours = _translate(sdk, provider, error)
        if ours is None:
            raise
        if key and key in f"{error}{ours}{ours.response_body}":
            raise type(ours)(str(ours).replace(key, "..."), status_code=ours.status_code) from None
        raise ours from error


def _translate(sdk: Any, provider: str, error: Exception) -> LlmError | None:
    if isinstance(error, sdk.APIStatusError):
        return _from_status(provider, error)
    if isinstance(error, sdk.APITimeoutError):
        return LlmTimeoutError(f"{provider}: no answer within the timeout")
    if isinstance(error, sdk.APIConnectionError):
        return LlmConnectionError(f"{provider}: {error.__cause__ or error}")
    if isinstance(
        error, sdk.APIResponseValidationError | json.JSONDecodeError | UnicodeDecodeError
    ):
        return LlmResponseError(f"{provider}: the answer is not of its protocol: {error}")
    if isinstance(error, sdk.APIError):
        # The stream had begun with 200 and then carried an error.
        message = f"{provider}: {_message(error)}"
        return LlmServerError(message, code=_code(error.body), response_body=error.body)
    if isinstance(error, TypeError | UnicodeEncodeError):
        return LlmRequestError(f"{provider}: the request cannot be written as JSON: {error}")
    return _from_http(_http_library(sdk), provider, error)


def _from_status(provider: str, error: Any) -> LlmError:
    status = error.status_code
    message = f"{provider}: {status} {_message(error)}"
    details: dict[str, Any] = {
        "status_code": status,
        "code": _code(error.body),
        "request_id": error.request_id,
        "response_body": error.body,
    }
    if status == 429 or details["code"] == "rate_limit_error":
        retry_after = _retry_after(error.response.headers)
        return LlmRateLimitError(message, retry_after=retry_after, **details)
    return _class_for(status)(message, **details)


def _class_for(status: int) -> type[LlmError]:
    if status in (401, 403):
        return LlmAuthenticationError
    if status == 408:
        return LlmTimeoutError
    # Below 400: an error inside a stream that had begun well.
    return LlmRequestError if 400 <= status < 500 else LlmServerError


def _from_http(library: ModuleType, provider: str, error: Exception) -> LlmError | None:
    # The anthropic client lets the errors of a stream under way pass as they are.
    if isinstance(error, library.TimeoutException):
        return LlmTimeoutError(f"{provider}: the stream paused for longer than the timeout")
    if isinstance(error, library.TransportError | library.StreamError):
        return LlmConnectionError(f"{provider}: the stream was cut: {error}")
    return None


def _http_library(sdk: Any) -> ModuleType:
    # httpx in older releases of the clients, httpx2 in newer ones.
    return sys.modules[sdk.Timeout.__module__.partition(".")[0]]


def _error_object(body: Any) -> Mapping[str, Any]:
    inner = body.get("error", body) if isinstance(body, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _message(error: Any) -> str:
    return str(_error_object(error.body).get("message") or error.message)


def _code(body: Any) -> str | None:
    inner = _error_object(body)
    code = inner.get("code") or inner.get("type")
    return None if code is None else str(code)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        return max(float(value), 0.0)
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else None
