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


def _json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str | bytes) else value


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
    "json": _json,
}
"""By name: ``lines`` gives the lines of a text that are not blank; ``values`` an object's values, or
the items of a list; ``join`` one line for each; ``json`` reads a text of JSON."""
