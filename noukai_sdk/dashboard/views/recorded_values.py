"""Recorded values for reading: texts as they are, JSON as a tree; cut where a page would be too long."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pydantic_core import from_json

# What a page shows of one value; the rest is shown on demand.
MOST_CHARACTERS = 20_000
_MOST_NODES = 500
_MOST_LEVELS = 40
_LONGEST_STRING = 2_000
# A longer text is not looked at for JSON.
_LONGEST_JSON = 200_000
# Children that are shown without a click, and levels in which they are.
_OPEN_CHILDREN, _OPEN_LEVELS = 30, 3


@dataclass(frozen=True)
class Node:
    """A node of a JSON tree.

    Attributes:
        key: The name in an object or the number in a list, None for the root.
        kind: ``object``, ``array``, ``string``, ``number``, ``boolean`` or ``null``.
        text: The value as text; of an object or a list, how much it holds.
        children: Those that are shown.
        is_open: Its children are shown without a click.
    """

    key: str | None
    kind: str
    text: str
    children: tuple[Node, ...] = ()
    is_open: bool = False


@dataclass(frozen=True)
class Value:
    """A value of a recording.

    Attributes:
        name: The part of the call, such as ``steps.0.output``: a link by which all of it is shown.
        text: The text, or the JSON, as far as it is shown.
        root: The same as a tree; None for a text.
        size: The number of characters of the whole text.
        is_cut: The page does not show all of it.
        whole: The whole text.
    """

    name: str
    text: str
    size: int
    is_cut: bool
    whole: str = field(repr=False)
    root: Node | None = None


@dataclass(frozen=True)
class Named:
    """A value with its name, such as a parameter of the request."""

    name: str
    value: Value


class Parts:
    """The values of a call by the names of their parts.

    Args:
        limit: Characters of a text that are shown; None for all.
    """

    def __init__(self, limit: int | None = MOST_CHARACTERS) -> None:
        self._limit = limit
        self._values: dict[str, Value] = {}

    def add(self, name: str, value: Any) -> Value:
        """Return a value to show, and remember it by its name."""
        parsed = _parsed(value) if isinstance(value, str) else value
        whole = value if isinstance(value, str) else json_text(value)
        limit = self._limit
        shown = whole if limit is None or len(whole) <= limit else whole[:limit]
        root, is_cut = None, len(shown) < len(whole)
        if not isinstance(parsed, str):
            tree = _Tree()
            root = tree.node(None, parsed, 0)
            is_cut = is_cut or (tree.is_cut and limit is not None)
        found = Value(name, shown, len(whole), is_cut, whole, root)
        self._values[name] = found
        return found

    def whole(self, name: str) -> str | None:
        """Return the whole text of a part, None if there is no such part."""
        found = self._values.get(name)
        return None if found is None else found.whole


def json_text(value: Any) -> str:
    """Return a value as JSON with one item a line, however deep it is.

    Example:
        >>> print(json_text({"grade": 7}))
        {
          "grade": 7
        }
    """
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=str)
    except RecursionError:
        # A list of lists of lists: without recursion, and without indentation.
        return "".join(_flat(value))


def _flat(value: Any) -> Iterable[str]:
    todo: list[Any] = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, _Literal):
            yield item.text
        elif isinstance(item, dict):
            todo.append(_Literal("}"))
            for at, (key, child) in enumerate(reversed(item.items())):
                todo += [*([_Literal(", ")] if at else []), child]
                todo.append(_Literal(f"{json.dumps(str(key), ensure_ascii=False)}: "))
            todo.append(_Literal("{"))
        elif isinstance(item, (list, tuple)):
            todo.append(_Literal("]"))
            for at, child in enumerate(reversed(item)):
                todo += [*([_Literal(", ")] if at else []), child]
            todo.append(_Literal("["))
        else:
            yield json.dumps(item, ensure_ascii=False, default=str)


@dataclass(frozen=True)
class _Literal:
    text: str


def _parsed(text: str) -> Any:
    """Return the object or list that a text is in JSON; else the text."""
    if len(text) > _LONGEST_JSON or text[:1] not in "{[" or not text.endswith(("}", "]", "\n")):
        return text
    try:
        value = from_json(text)
    except (ValueError, TypeError):  # half of a surrogate pair is a TypeError
        return text
    return value if isinstance(value, (dict, list)) else text


class _Tree:
    """Makes nodes until there are too many."""

    def __init__(self) -> None:
        self.is_cut = False
        self._left = _MOST_NODES

    def node(self, key: str | None, value: Any, level: int) -> Node:
        self._left -= 1
        if isinstance(value, dict):
            pairs = [(str(name), child) for name, child in value.items()]
            return self._with_children(key, "object", pairs, level)
        if isinstance(value, (list, tuple)):
            pairs = [(str(number), child) for number, child in enumerate(value)]
            return self._with_children(key, "array", pairs, level)
        if isinstance(value, str):
            if len(value) > _LONGEST_STRING:
                self.is_cut = True
                more = len(value) - _LONGEST_STRING
                value = f"{value[:_LONGEST_STRING]}… {more:,} more characters"
            return Node(key, "string", value)
        if value is None:
            return Node(key, "null", "null")
        if isinstance(value, bool):
            return Node(key, "boolean", "true" if value else "false")
        return Node(key, "number", str(value))

    def _with_children(
        self, key: str | None, kind: str, pairs: list[tuple[str, Any]], level: int
    ) -> Node:
        children: list[Node] = []
        for name, child in pairs if level < _MOST_LEVELS else ():
            if self._left <= 0:
                break
            children.append(self.node(name, child, level + 1))
        noun = "field" if kind == "object" else "item"
        text = f"{len(pairs):,} {noun}" if len(pairs) == 1 else f"{len(pairs):,} {noun}s"
        if len(children) < len(pairs):
            self.is_cut = True
            text += f", {len(children):,} shown"
        is_open = level < _OPEN_LEVELS and len(children) <= _OPEN_CHILDREN
        return Node(key, kind, text, tuple(children), is_open)
