"""The JSON of values and arguments as Python would show it, for people."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_BRACKETS = {"tuple": ("(", ")"), "set": ("{", "}")}
# What a scalar of the standard library holds beside its text.
_DETAILS = ("$zone", "$base64", "$escaped")


def value_text(data: Any, width: int = 100) -> str:
    """Return an encoded value as Python text, on several lines if it is wider than ``width``.

    Example:
        >>> value_text({"$type": "app.Book", "title": "Dune", "price": {"$type": "Decimal", "$value": "9"}})
        "Book(title='Dune', price=Decimal('9'))"
    """
    try:
        return _text(data, width, "")
    except RecursionError:
        return "<nested too deeply to be shown>"


def arguments_text(arguments: Mapping[str, Any], width: int = 100) -> str:
    """Return encoded arguments as they stand in a call.

    Example:
        >>> arguments_text({"isbn": "0441013597", "session": {"$object": "Session"}})
        "isbn='0441013597', session=<Session>"
    """
    parts = [f"{name}={value_text(value, width)}" for name, value in arguments.items()]
    one_line = ", ".join(parts)
    return one_line if len(one_line) <= width and "\n" not in one_line else ",\n".join(parts)


def _text(data: Any, width: int, indent: str) -> str:
    if isinstance(data, list):
        return _joined("[", [(None, item) for item in data], "]", width, indent)
    if not isinstance(data, dict):
        return repr(data)
    kind = data.get("$type")
    if kind is None:
        if "$object" in data:
            return f"<{data['$object']}>"
        return _joined("{", _entries(data), "}", width, indent, ": ")
    name = str(kind).rpartition(".")[2]
    if isinstance(data.get("$items"), list):
        start, end = _BRACKETS.get(name, (f"{name}([", "])"))
        items: Sequence[Any] = data["$items"]
        if name == "set" and not items:
            return "set()"
        if name == "tuple" and len(items) == 1:
            end = ",)"
        return _joined(start, [(None, item) for item in items], end, width, indent)
    if name in ("bytes", "bytearray", "str") and "$value" in data:
        return "b" * (name != "str") + repr(data["$value"])
    if "$name" in data:
        return f"{name}.{data['$name']}"
    if "$value" in data:
        details = [repr(data["$value"]), *(repr(data[key]) for key in _DETAILS if key in data)]
        return f"{name}({', '.join(details)})"
    if "$escaped" in data or "$base64" in data:
        return f"{name}({data.get('$escaped', data.get('$base64'))!r})"
    if name in ("Counter", "OrderedDict", "defaultdict"):
        return _joined(f"{name}({{", _entries(data), "})", width, indent, ": ")
    fields = [(key, value) for key, value in data.items() if not key.startswith("$")]
    return _joined(f"{name}(", fields, ")", width, indent, "=")


def _entries(data: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(text, value) for key, value in data.items() if (text := _key(key)) is not None]


def _key(key: str) -> str | None:
    """Return the Python text of a key; None for what is not one of the program's."""
    if not key.startswith("$"):
        return repr(key)
    if key.startswith("$$"):
        return repr(key[1:])
    try:
        return value_text(json.loads(key[1:]))
    except (ValueError, RecursionError):
        return None


def _joined(
    start: str,
    items: Sequence[tuple[str | None, Any]],
    end: str,
    width: int,
    indent: str,
    between: str = "",
) -> str:
    inner = indent + "  "
    parts = [
        ("" if key is None else f"{key}{between}") + _text(item, width, inner)
        for key, item in items
    ]
    if len(indent) + sum(map(len, parts)) + 2 * len(parts) <= width and "\n" not in "".join(parts):
        return f"{start}{', '.join(parts)}{end}"
    lines = "".join(f"{inner}{part},\n" for part in parts)
    return f"{start}\n{lines}{indent}{end}"
