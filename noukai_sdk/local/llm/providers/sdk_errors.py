"""Convert the official clients' errors, and malformed responses, to ours. Both use the same names."""

from __future__ import annotations

import asyncio
import email.utils
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ...runtime.hidden_keys import hide_keys
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

_SHOWN_CHARS = 200

MALFORMED = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""Errors of reading a response that does not follow the protocol."""


async def leave_rate_limit_to_us(response: Any) -> None:
    """Keep the official client from retrying a 429; a response hook of its HTTP client.

    It would retry each call by itself, whatever the other calls were told.
    """
    if response.status_code == 429 and response.headers.get("x-should-retry") != "false":
        response.headers["x-should-retry"] = "false"
        response.extensions["is_rate_limit"] = True


def seconds_to_wait(error: Exception) -> float | None:
    """Return the ``Retry-After`` of a 429, None if it has none.

    Any other error is raised again, and so is a 429 that waiting does not help.
    """
    response: Any = getattr(error, "response", None)
    is_rate_limit = response is not None and response.extensions.get("is_rate_limit")
    if not is_rate_limit or _code(getattr(error, "body", None)) == "insufficient_quota":
        raise error
    return _retry_after(response.headers)


def raise_translated(sdk: Any, provider: str, keys: Sequence[str], error: Exception) -> None:
    """Raise our error instead of one that the official client has raised.

    Return if the error is ours already, or is not the client's: raise it again then.

    Args:
        sdk: The client's module, ``openai`` or ``anthropic``.
        provider: The start of the message.
        keys: API keys. An error that quotes one is not chained, so that no traceback shows it.
        error: The client's error.
    """
    translated = None if isinstance(error, LlmError) else _translate(sdk, provider, error)
    if translated is None:
        return
    translated.attempts = _attempts(sdk, error)
    quoted = f"{error}{translated}{translated.response_body}"
    quoted += "".join(repr(cause) for cause in _causes(error))
    if hide_keys(quoted, *keys) != quoted:
        message = hide_keys(str(translated), *keys)
        attempts = translated.attempts
        translated = type(translated)(message, status_code=translated.status_code)
        translated.attempts = attempts
        try:
            raise translated from None
        finally:
            translated.__context__ = None  # some loggers follow it, also if it is not to be shown
    raise translated from error


def invalid_response(expected: str, body: Any) -> LlmResponseError:
    """Build the error for a malformed response; the message shows how it begins.

    Readers raise it on any of ``MALFORMED``, instead of checking a response before they read it.
    """
    shown = repr(body)[:_SHOWN_CHARS]
    return LlmResponseError(f"the provider's response is not a valid {expected}: {shown}")


def _translate(sdk: Any, provider: str, error: Exception) -> LlmError | None:
    if isinstance(error, sdk.APIStatusError):
        return _from_status(provider, error)
    if isinstance(error, sdk.APITimeoutError) and not _is_disconnect(error):
        return LlmTimeoutError(f"{provider}: no response within the timeout")
    if isinstance(error, sdk.APIConnectionError):
        return LlmConnectionError(f"{provider}: {error.__cause__ or error}")
    if isinstance(
        error,
        sdk.APIResponseValidationError | json.JSONDecodeError | UnicodeDecodeError | RecursionError,
    ):
        return LlmResponseError(f"{provider}: the response is not valid: {error}")
    if isinstance(error, sdk.APIError):
        # The stream began with status 200 and then reported an error.
        kind = LlmRateLimitError if _code(error.body) == "rate_limit_error" else LlmServerError
        return kind(
            f"{provider}: {_message(error)}", code=_code(error.body), response_body=error.body
        )
    if isinstance(error, TypeError | ValueError):
        return LlmRequestError(f"{provider}: the request cannot be written as JSON: {error}")
    library = type(error).__module__.partition(".")[0]
    if library == sdk.__name__:
        return LlmConfigError(f"{provider}: {error}")
    # The anthropic client passes on the HTTP library's errors while a stream is read.
    if library in ("httpx", "httpx2", "aiohttp"):
        is_timeout = isinstance(error, getattr(sys.modules[library], "TimeoutException", ()))
        if is_timeout and not _is_disconnect(error):
            return LlmTimeoutError(f"{provider}: the stream paused for longer than the timeout")
        return LlmConnectionError(f"{provider}: the stream was cut off: {error}")
    return None


def _from_status(provider: str, error: Any) -> LlmError:
    details: dict[str, Any] = {
        "status_code": error.status_code,
        "code": _code(error.body),
        "request_id": error.request_id,
        "response_body": error.body,
    }
    message = f"{provider}: {error.status_code} {_message(error)}"
    if error.status_code == 429 or details["code"] == "rate_limit_error":
        retry_after = _retry_after(error.response.headers)
        return LlmRateLimitError(message, retry_after=retry_after, **details)
    kind: type[LlmError] = LlmServerError
    if error.status_code in (401, 403):
        kind = LlmAuthenticationError
    elif error.status_code == 408:
        kind = LlmTimeoutError
    elif 400 <= error.status_code < 500:
        kind = LlmRequestError
    return kind(message, **details)


def _attempts(sdk: Any, error: Exception) -> int:
    if isinstance(error, sdk.APIResponseValidationError) or not isinstance(error, sdk.APIError):
        return 1
    retries = error.request.headers.get("x-stainless-retry-count", "")
    return int(getattr(error, "attempts", 1)) + (int(retries) if retries.isdecimal() else 0)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _is_disconnect(error: BaseException) -> bool:
    """Return whether aiohttp lost the connection: its transport for httpx calls that a timeout."""
    aiohttp: Any = sys.modules.get("aiohttp")
    return aiohttp is not None and any(
        isinstance(cause, aiohttp.ClientConnectionError)
        and not isinstance(cause, asyncio.TimeoutError)
        for cause in _causes(error)
    )


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
    milliseconds = headers.get("retry-after-ms", "")
    value = headers.get("retry-after")
    if value is None and not milliseconds:
        return None
    try:
        seconds = float(milliseconds) / 1000 if milliseconds else float(value or "")
        return max(seconds, 0.0) if math.isfinite(seconds) else None
    except ValueError:
        date = email.utils.parsedate_tz(value or "")
        return max(email.utils.mktime_tz(date) - time.time(), 0.0) if date else None
