"""Checks of arguments, made before any request. Each check takes the name of the argument and its value."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from .protocol.program import Timeout, Timeouts
from .protocol.requests import require_session_id

if TYPE_CHECKING:
    import httpx

    TimeoutInput = float | httpx.Timeout | None

MOST_ATTACHMENTS = 10  # docs/wire.md, "POST execute"
MOST_TOOLS = 64
LONGEST = 1e9  # seconds: some 30 years, and no more than every system's clock can add up
# The client's own: a call may not change them (docs/wire.md, "Headers").
PROTECTED_HEADERS = frozenset(
    {
        "authorization",
        "x-noukai-api-version",
        "user-agent",
        "x-request-id",
        "content-type",
        "cookie",
    }
)

# Set by the HTTP library, which decides how the message is sent.
FRAMING_HEADERS = frozenset(
    {
        "connection",
        "content-encoding",
        "content-length",
        "host",
        "te",
        "trailer",
        "transfer-encoding",
    }
)

# Patterns, not compiled: that takes half a millisecond, and the first call waits for it.
_HEADER_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z"
_IDEMPOTENCY_KEY = r"[\x21-\x7e]{1,255}\Z"
_HEADER_VALUE = r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?\Z"


def is_async_callable(function: Any) -> bool:
    """Return True for coroutine functions, partials of them, and objects whose ``__call__`` is async."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


def check_seconds(name: str, value: float | None) -> float | None:
    """Return ``value`` if it is a positive number of seconds, or None."""
    return None if value is None else require_seconds(name, value)


def require_seconds(name: str, value: float) -> float:
    """Return ``value`` if it is a positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    if value > LONGEST:
        raise ValueError(f"{name} must be a number of seconds up to {LONGEST:g}")
    return float(value)


def check_timeout(name: str, value: TimeoutInput) -> Timeout | None:
    """Return ``value`` if it is a timeout, or None."""
    return None if value is None else require_timeout(name, value)


def require_timeout(name: str, value: float | httpx.Timeout) -> Timeout:
    """Return ``value`` if it is a positive number of seconds, or the parts of an ``httpx.Timeout``."""
    if all(hasattr(value, part) for part in Timeouts._fields):  # that of httpx2 as well
        parts = (getattr(value, part) for part in Timeouts._fields)
        return Timeouts(*(check_seconds(name, part) for part in parts))
    return require_seconds(name, value)  # type: ignore[arg-type]  # it checks the type


def _check_key(name: str, value: Any) -> None:
    if not isinstance(value, str) or not re.match(_IDEMPOTENCY_KEY, value):
        raise ValueError(f"{name} must be a str of 1 to 255 printable ASCII characters")


def require_count(name: str, value: int) -> int:
    """Return ``value`` if it is a number ≥ 0."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a number ≥ 0, not {value!r}")
    return value


def require_base_url(name: str, value: str) -> str:
    """Return ``value`` if it is a base URL of the service, without a slash at its end.

    ``/api/v1`` is added to an address without a path, because every service has its API there.
    """
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")
    # These are not shown: they may hold a password or a token.
    if "@" in value or "?" in value or "#" in value:
        raise ValueError(f"bad {name}: it must have no user, password, query or fragment")
    try:
        url = urlsplit(value)
        port = url.port  # raises ValueError if it is not a number up to 65535
    except ValueError as error:
        raise ValueError(f"bad {name} {value!r}: {error}") from None
    # urlsplit removes line ends and tabs, and HTTP libraries encode spaces.
    if not re.match(r"[^\s\\\x00-\x1f\x7f]+\Z", value):
        raise ValueError(f"bad {name} {value!r}: it must have no spaces, line ends or backslashes")
    if url.scheme not in ("http", "https") or not url.hostname or port == 0:
        raise ValueError(f"bad {name} {value!r}: it must be like 'http://127.0.0.1:8080/api/v1'")
    return value.rstrip("/") + ("" if url.path.strip("/") else "/api/v1")


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def require_flag(name: str, value: bool) -> bool:
    """Return ``value`` if it is a bool. The string "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _check_object(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}")


def _check_objects(name: str, value: Any, most: int | None = None) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not is_list or not all(isinstance(item, Mapping) for item in value):
        raise TypeError(f"{name} must be a list of dicts")
    if most is not None and len(value) > most:
        raise ValueError(f"{len(value)} {name}: at most {most} are allowed")


def _check_tools(name: str, value: Any) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if is_list and not all(isinstance(item, Mapping) for item in value):
        from .function_tools import Tool

        for item in value:
            if callable(item) and not isinstance(item, Tool):
                function = getattr(item, "__name__", repr(item))
                raise TypeError(f"{function} in tools must have the decorator @noukai_sdk.tool")
        value = [{} if isinstance(item, Tool) else item for item in value]
    _check_objects(name, value, MOST_TOOLS)


def _check_attachments(name: str, value: Any) -> None:
    _check_objects(name, value, MOST_ATTACHMENTS)
    for attachment in value:
        if not str(attachment.get("url", "")).startswith("https://"):
            raise ValueError("an attachment needs a 'url' that starts with https://")


def _check_choice(name: str, value: Any) -> None:
    if not isinstance(value, (str, Mapping)):
        raise TypeError(f"{name} must be a str or a dict, not {type(value).__name__}")


def _check_handler(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}")


def check_headers(name: str, value: Any) -> None:
    """Raise ValueError or TypeError unless ``value`` is a dict of headers that a user may set."""
    _check_object(name, value)
    for header, text in value.items():
        if not isinstance(header, str) or not re.match(_HEADER_NAME, header):
            raise ValueError(f"{name}: {header!r} is not a valid header name")
        if header.lower() in PROTECTED_HEADERS | FRAMING_HEADERS:
            raise ValueError(f"{name} may not set {header}: the client sets it")
        if not isinstance(text, str) or not re.match(_HEADER_VALUE, text):
            raise ValueError(
                f"{name}: the value of {header} must be a str of printable ASCII, "
                "with no space at either end"
            )


_CHECKS: dict[str, Callable[[str, Any], object]] = {
    "message": _check_text,
    "messages": _check_objects,
    "parameters": _check_object,
    "block_overrides": _check_object,
    "input_overrides": _check_object,
    "attachments": _check_attachments,
    "tools": _check_tools,
    "tool_choice": _check_choice,
    "tool_handler": _check_handler,
    "max_tool_rounds": require_count,
    "trace": require_flag,
    "run_remaining": require_flag,
    "timeout": require_timeout,
    "max_retries": require_count,
    "idempotency_key": _check_key,
    "session_id": lambda name, value: require_session_id(value),
    "extra_headers": check_headers,
}


_INPUTS = ("message", "messages")


def check_arguments(
    method: str, accepted: Collection[str], options: Mapping[str, Any], *, is_async: bool
) -> None:
    """Raise TypeError or ValueError for the first argument of a call that is not valid."""
    for name, value in options.items():
        if name not in accepted and name not in _INPUTS:
            raise TypeError(f"{method}() got an unexpected keyword argument {name!r}")
        if value is not None and name in _CHECKS:
            _CHECKS[name](name, value)
    if (options.get("message") is None) == (options.get("messages") is None):
        raise TypeError(f"{method}() needs exactly one of message= and messages=")
    version = options.get("version", "draft")
    if version == "production":
        raise NotImplementedError(
            'version="production" is not supported yet: pass a published version\'s number'
        )
    is_number = isinstance(version, int) and not isinstance(version, bool) and version >= 1
    if version != "draft" and not is_number:
        raise ValueError(f'bad version {version!r}: pass "draft" or a number ≥ 1')
    handler = options.get("tool_handler")
    if handler is not None and not is_async and is_async_callable(handler):
        raise TypeError(
            f"{method}() of the sync client takes a plain function as tool_handler, "
            "not an async one: use AsyncNoukai"
        )
