"""JSON and timestamps, as the database stores them and clients receive them."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from datetime import datetime, timedelta, timezone
from functools import lru_cache
from typing import Any

import orjson
from pydantic_core import PydanticSerializationError, from_json, to_json

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


def encode(value: Any) -> bytes:
    """Return ``value`` as JSON. NaN becomes null, and half of a surrogate pair becomes ``?``."""
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeError):
        # A model can write half of a surrogate pair into its output; UTF-8 cannot represent it.
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def to_column(value: Any) -> str | None:
    """Return ``value`` as the text of a JSON column, or None for None."""
    return None if value is None else encode(value).decode()


def from_column(text: str | None) -> Any:
    """Return the value of a JSON column."""
    if text is None:
        return None
    try:
        return from_json(text)
    except ValueError:
        # The output of a step can be nested deeper than the fast parser accepts.
        return json.loads(text)


def spliced(text: str | None) -> orjson.Fragment | None:
    """Return a JSON column as a part of a larger value for :func:`encode_spliced`, without parsing it."""
    return None if text is None else orjson.Fragment(text)


def spliced_list(texts: Iterable[str]) -> orjson.Fragment:
    """Return JSON columns that hold lists as one list."""
    items = [text[1:-1] for text in texts if text != "[]"]
    return orjson.Fragment(f"[{','.join(items)}]")


def encode_spliced(value: Any) -> bytes:
    """Return a value with parts of :func:`spliced` as JSON.

    Values from users must be such parts: a number can have more than 64 bits, which is an error here.
    """
    return orjson.dumps(value)


class Clock:
    """A strictly increasing clock: UTC in microseconds since 1970.

    Executions are ordered by these times, so no two of them may be equal, and setting the system
    clock back must not reverse their order.
    """

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Return the time in microseconds since 1970, later than every time returned before."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


def iso(microseconds: int | None) -> str | None:
    """Format a time of :class:`Clock` as ISO 8601 with all six digits, or return None for None.

    Example:
        >>> iso(1_000_001)
        '1970-01-01T00:00:01.000001+00:00'
    """
    if microseconds is None:
        return None
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_date_and_time(seconds)}.{rest:06}+00:00"


# A session has many times in the same few seconds, and formatting one takes longer than reading its row.
@lru_cache(maxsize=1024)
def _date_and_time(seconds: int) -> str:
    return (_EPOCH + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")
