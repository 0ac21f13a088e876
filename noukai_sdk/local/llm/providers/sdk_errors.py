"""From the errors of the official clients to ours. Both clients name theirs alike."""

from __future__ import annotations

import email.utils
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ..errors import (
    LlmAuthenticationError,
    LlmConfigError,
    LlmConnectionError,
    LlmError,
    LlmRateLimitError,
    LlmRequestError,
    LlmResponseError,
    LlmServerError,
    LlmTimeoutError,
)

# Shorter ones are stand-ins, and found in any text.
_KEY_CHARS = 8


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
    except LlmError:
        raise
    except Exception as error:
        ours = _translate(sdk, provider, error)
        if ours is None:
            raise
        if key and len(key) >= _KEY_CHARS and key in f"{error}{ours}{ours.response_body}":
            raise type(ours)(str(ours).replace(key, "..."), status_code=ours.status_code) from None
        raise ours from error


@contextmanager
def opening(provider: str) -> Iterator[None]:
    """Make the official client inside the block.

    Raises:
        LlmConfigError: It cannot be made with these settings or in this environment, such as with an
            ``SSL_CERT_FILE`` that is not there.
    """
    try:
        yield
    # Bad addresses, certificates and proxies each raise something else.
    except Exception as error:
        raise LlmConfigError(f"{provider}: the client cannot be made: {error!r}") from error


def _translate(sdk: Any, provider: str, error: Exception) -> LlmError | None:
    if isinstance(error, sdk.APIStatusError):
        return _from_status(provider, error)
    if isinstance(error, sdk.APITimeoutError):
        return LlmTimeoutError(f"{provider}: no answer within the timeout")
    if isinstance(error, sdk.APIConnectionError):
        return LlmConnectionError(f"{provider}: {error.__cause__ or error}")
    if isinstance(
        error,
        sdk.APIResponseValidationError | json.JSONDecodeError | UnicodeDecodeError | RecursionError,
    ):
        return LlmResponseError(f"{provider}: the answer is not of its protocol: {error}")
    if isinstance(error, sdk.APIError):
        # The stream had begun with 200 and then carried an error.
        return _kind(None, _code(error.body))(
            f"{provider}: {_message(error)}", code=_code(error.body), response_body=error.body
        )
    if isinstance(error, TypeError | ValueError):
        return LlmRequestError(f"{provider}: the request cannot be written as JSON: {error}")
    if type(error).__module__.partition(".")[0] == sdk.__name__:
        return LlmConfigError(f"{provider}: {error}")
    return _from_http(provider, error)


def _from_status(provider: str, error: Any) -> LlmError:
    details: dict[str, Any] = {
        "status_code": error.status_code,
        "code": _code(error.body),
        "request_id": error.request_id,
        "response_body": error.body,
    }
    kind = _kind(error.status_code, details["code"])
    if kind is LlmRateLimitError:
        details["retry_after"] = _retry_after(error.response.headers)
    return kind(f"{provider}: {error.status_code} {_message(error)}", **details)


def _kind(status: int | None, code: str | None) -> type[LlmError]:
    if status == 429 or code == "rate_limit_error":
        return LlmRateLimitError
    if status in (401, 403):
        return LlmAuthenticationError
    if status == 408:
        return LlmTimeoutError
    # No status or one below 400: an error inside a stream that had begun well.
    return LlmRequestError if status and 400 <= status < 500 else LlmServerError


def _from_http(provider: str, error: Exception) -> LlmError | None:
    # The anthropic client lets the errors of a stream under way pass as they are.
    name = type(error).__module__.partition(".")[0]
    if name not in ("httpx", "httpx2"):
        return None
    library: Any = sys.modules[name]
    if isinstance(error, library.TimeoutException):
        return LlmTimeoutError(f"{provider}: the stream paused for longer than the timeout")
    return LlmConnectionError(f"{provider}: the stream was cut: {error}")


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
        seconds = float(value)
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        date = email.utils.parsedate_tz(value)
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else None
