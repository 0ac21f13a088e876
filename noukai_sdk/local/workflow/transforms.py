"""The transformations that a transform node can name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .templates import as_text


def _lines(value: Any) -> list[str]:
    return [line.strip() for line in as_text(value).splitlines() if line.strip()]


def _values(value: Any) -> list[Any]:
    return list(value.values()) if isinstance(value, Mapping) else list(value)


TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "uppercase": lambda value: as_text(value).upper(),
    "lowercase": lambda value: as_text(value).lower(),
    "trim": lambda value: as_text(value).strip(),
    "text": as_text,
    "length": len,
    "lines": _lines,
    "words": lambda value: as_text(value).split(),
    "join": lambda value: "\n".join(map(as_text, _values(value))),
    "values": _values,
    "first": lambda value: _values(value)[0],
    "last": lambda value: _values(value)[-1],
    "json": lambda value: json.loads(value) if isinstance(value, str | bytes) else value,
}
"""The functions by name.

- ``lines``: the lines of a text, stripped, without blank ones.
- ``values``: the values of an object, or the items of a list; ``first`` and ``last`` are one of them.
- ``join``: the values as one text, a line for each.
- ``json``: the value of a JSON text; anything that is not text stays as it is.
"""
