"""What each argument of a call must be. A check takes the argument's name and its value."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .protocol.paths import require_session_id

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

# How the message goes over the connection: the HTTP library's, for it knows.
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

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_HEADER_VALUE = re.compile(r"(?:[\x21-\x7e](?:[\t\x20-\x7e]*[\x21-\x7e])?)?\Z")


def is_async_callable(function: Any) -> bool:
    """True for coroutine functions, partials of them, and objects whose ``__call__`` is async."""
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or (
        callable(function) and inspect.iscoroutinefunction(type(function).__call__)
    )


def check_seconds(name: str, value: float | None) -> float | None:
    """``value`` if it is a positive number of seconds, or None."""
    return None if value is None else require_seconds(name, value)


def require_seconds(name: str, value: float) -> float:
    """``value`` if it is a positive number of seconds."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not value > 0:
        raise ValueError(f"{name} must be a positive number of seconds, not {value!r}")
    if value > LONGEST:
        raise ValueError(f"{name} must be a number of seconds up to {LONGEST:g}")
    return float(value)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, not {type(value).__name__}")


def require_flag(name: str, value: bool) -> bool:
    """``value`` if it is a bool: the word "no" would count as true."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value


def _check_object(name: str, value: Any) -> None:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must be a dict, not {type(value).__name__}")


def _check_objects(name: str, value: Any) -> None:
    is_list = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if not is_list or not all(isinstance(item, Mapping) for item in value):
        raise TypeError(f"{name} must be a list of dicts")


def _check_tools(name: str, value: Any) -> None:
    _check_objects(name, value)
    if len(value) > MOST_TOOLS:
        raise ValueError(f"{len(value)} tools: at most {MOST_TOOLS} are allowed")


def _check_attachments(name: str, value: Any) -> None:
    _check_objects(name, value)
    if len(value) > MOST_ATTACHMENTS:
        raise ValueError(f"{len(value)} attachments: at most {MOST_ATTACHMENTS} are allowed")
    for attachment in value:
        if not str(attachment.get("url", "")).startswith("https://"):
            raise ValueError("an attachment needs a 'url' that starts with https://")


def _check_choice(name: str, value: Any) -> None:
    if not isinstance(value, (str, Mapping)):
        raise TypeError(f"{name} must be a str or a dict, not {type(value).__name__}")


def _check_handler(name: str, value: Any) -> None:
    if not callable(value):
        raise TypeError(f"{name} must be a function, not {type(value).__name__}")


def _check_rounds(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a number from 0, not {value!r}")


def _check_headers(name: str, value: Any) -> None:
    for header, text in value.items():
        if not isinstance(header, str) or not _HEADER_NAME.match(header):
            raise ValueError(f"{name}: {header!r} is no header name")
        if header.lower() in PROTECTED_HEADERS | FRAMING_HEADERS:
            raise ValueError(f"{name} may not set {header}: the client sets it")
        if not isinstance(text, str) or not _HEADER_VALUE.match(text):
            raise ValueError(
                f"{name}: the value of {header} must be a str of printable ASCII, "
                "with no space at either end"
            )


CHECKS: dict[str, Callable[[str, Any], object]] = {
    "message": _check_text,
    "messages": _check_objects,
    "parameters": _check_object,
    "block_overrides": _check_object,
    "input_overrides": _check_object,
    "attachments": _check_attachments,
    "tools": _check_tools,
    "tool_choice": _check_choice,
    "tool_handler": _check_handler,
    "max_tool_rounds": _check_rounds,
    "trace": require_flag,
    "run_remaining": require_flag,
    "timeout": require_seconds,
    "session_id": lambda name, value: require_session_id(value),
    "extra_headers": _check_headers,
}
