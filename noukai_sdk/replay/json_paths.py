"""JSON paths such as ``request.parameters.email`` or ``events[*].outputData``."""

from __future__ import annotations

import re
from typing import Any

Path = tuple[str, ...]

_PART = re.compile(
    r"""\.?(\*|[^.\[\]*'"]+)|\[(\*|\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""",
)


def parse_path(path: str) -> Path:
    """The names, indexes and stars of a path.

    Raises:
        ValueError: It cannot be read.

    Example:
        >>> parse_path("$.request.parameters['e.mail']")
        ('request', 'parameters', 'e.mail')
    """
    rest = path.removeprefix("$")
    parts: list[str] = []
    position = 0
    while (found := _PART.match(rest, position)) is not None:
        parts.append(next(group for group in found.groups() if group is not None))
        position = found.end()
    if not parts or position != len(rest):
        raise ValueError(f"bad JSON path {path!r}: write it like 'request.parameters.email'")
    return tuple(parts)


def blank(value: Any, path: Path, with_: Any) -> None:
    """Put ``with_`` in the place of everything that ``path`` leads to, if anything."""
    name, *rest = path
    for key in _keys(value, name):
        if rest:
            blank(value[key], tuple(rest), with_)
        else:
            value[key] = with_


def _keys(value: Any, name: str) -> list[Any]:
    if isinstance(value, dict):
        return list(value) if name == "*" else [name] if name in value else []
    if isinstance(value, list):
        if name == "*":
            return list(range(len(value)))
        return [int(name)] if name.isdecimal() and int(name) < len(value) else []
    return []
