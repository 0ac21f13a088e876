"""The query parameters that several lists have."""

from __future__ import annotations

import base64
import binascii
import re

from starlette.requests import Request

from ..errors import RequestError

MAX_LIMIT = 200
DEFAULT_LIMIT = 50

FlowFilter = tuple["str | None", "str | None", str]
"""Organisation, project and slug; the first two are None if the slug stands alone."""


def invalid_query(name: str, message: str) -> RequestError:
    """Return the error for a parameter."""
    return RequestError(400, "INVALID_REQUEST", f"{name}: {message}")


def refuse_null_characters(request: Request) -> None:
    """Raise RequestError if a parameter has a null character: Postgres would raise another error."""
    for name, value in request.query_params.items():
        if "\0" in value:
            raise invalid_query(name, "must not have null characters")


def read_number(request: Request, name: str, default: int, least: int, most: int) -> int:
    """Return a whole number; raise RequestError (400) if it is not in the range."""
    text = request.query_params.get(name)
    if text is None:
        return default
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else -1
    if not least <= number <= most:
        message = f"must be a number from {least} to {most}, not {text[:50]!r}"
        raise invalid_query(name, message)
    return number


def limit_of(request: Request) -> int:
    """Return the size of the page."""
    return read_number(request, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT)


def choice_of(request: Request, name: str, choices: tuple[str, ...]) -> str | None:
    """Return a parameter that has one of a few values."""
    value = request.query_params.get(name)
    if value is not None and value not in choices:
        raise invalid_query(name, f"must be one of {', '.join(choices)}, not {value[:50]!r}")
    return value


def flow_of(request: Request) -> FlowFilter | None:
    """Return the flow to list alone: ``slug`` or ``org/project/slug``."""
    text = request.query_params.get("flow")
    if text is None:
        return None
    parts = text.split("/")
    if not all(parts) or len(parts) not in (1, 3):
        raise invalid_query("flow", f"must be 'slug' or 'org/project/slug', not {text[:100]!r}")
    return (None, None, parts[0]) if len(parts) == 1 else (parts[0], parts[1], parts[2])


def encode_cursor(position: str) -> str:
    """Return the cursor that stands for the last row of a page."""
    return base64.urlsafe_b64encode(position.encode()).decode().rstrip("=")


def cursor_of(request: Request) -> str | None:
    """Return the position that :func:`encode_cursor` got, for the caller to check."""
    cursor = request.query_params.get("cursor")
    if cursor is None:
        return None
    try:
        # Python ignores characters outside of the alphabet.
        padding = "=" * (-len(cursor) % 4)
        return base64.b64decode(cursor + padding, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise unknown_cursor() from error


def unknown_cursor() -> RequestError:
    """Return the error for a cursor that is not of this list."""
    return invalid_query("cursor", "must be the nextCursor of another page")
