"""JSON out."""

from __future__ import annotations

import json
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json


def encode(value: Any) -> bytes:
    """``value`` as JSON. What JSON has no word for (NaN, half a surrogate pair) is replaced."""
    try:
        return to_json(value, inf_nan_mode="null")
    except (PydanticSerializationError, UnicodeError):
        # A model can write half a surrogate pair into a JSON output; UTF-8 cannot hold it.
        return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def stored(value: Any) -> str | None:
    """``value`` as a JSON column holds it; None stays None."""
    return None if value is None else encode(value).decode()


def loaded(text: str | None) -> Any:
    """The value of a JSON column."""
    if text is None:
        return None
    try:
        return from_json(text)
    except ValueError:
        # It is more deeply nested than the quick parser goes: a step can give such an output.
        return json.loads(text)
