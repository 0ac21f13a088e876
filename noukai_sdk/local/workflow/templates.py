r"""Texts with references: ``{{message}}``, ``{{parameters.x}}``, ``{{node.name.field}}``.

A template is cut into parts once, and rendering joins the parts: what a reference stands for is
never looked at again, so text that a model or a user wrote cannot smuggle in a reference.
``\{{`` is a literal ``{{``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

_OPENING = re.compile(r"\\?\{\{")
ROOTS = {"message": 0, "input": 0, "item": 0, "index": 0, "parameters": 1, "node": 1}
"""What a reference can start with, and how many names must follow at least."""


class UnresolvedReferenceError(LookupError):
    """A reference stands for nothing."""


@dataclass(frozen=True)
class Reference:
    """One ``{{...}}``: ``root`` is its first word, ``path`` the names after it."""

    root: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "{{" + ".".join((self.root, *self.path)) + "}}"

    @property
    def problem(self) -> str | None:
        """Why this can be no reference at all, None where it can."""
        least = ROOTS.get(self.root)
        if least is None:
            hint = f"write {{{{parameters.{self.root}}}}} or {{{{node.{self.root}}}}}"
            return f"{self} starts with none of {', '.join(ROOTS)}: {hint}"
        if len(self.path) < least or not all(self.path):
            return f"{self} lacks a name after {self.root!r}"
        return None


@dataclass(frozen=True)
class Template:
    """A text with references, cut into parts."""

    parts: tuple[str | Reference, ...]

    @property
    def references(self) -> tuple[Reference, ...]:
        """The references, in the order of the text."""
        return tuple(part for part in self.parts if isinstance(part, Reference))

    @property
    def alone(self) -> Reference | None:
        """The reference that is the whole text, None where there is more or less."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only if isinstance(only, Reference) else None

    def render(self, resolve: Callable[[Reference], Any]) -> str:
        """The text with every reference replaced by what ``resolve`` gives for it.

        Raises:
            UnresolvedReferenceError: As ``resolve`` raises it.
        """
        return "".join(p if isinstance(p, str) else as_text(resolve(p)) for p in self.parts)


@lru_cache(maxsize=4096)
def parse(text: str) -> Template:
    """Cut ``text`` into a template. Never fails: a bad reference tells so by its ``problem``."""
    return Template(tuple(part for part in cut(text) if part != ""))


def cut(text: str) -> Iterator[str | Reference]:
    """The references in ``text``, and the texts between them; takes linear time."""
    # By hand: a pattern with an end looks for that end from every beginning.
    end, last_closing = 0, text.rfind("}}")
    for opening in _OPENING.finditer(text):
        start, stop = opening.span()
        if start < end:
            continue  # within the reference before
        if opening[0] != "{{":
            yield text[end:start] + "{{"
            end = stop
        elif stop <= last_closing:
            closing = text.index("}}", stop)
            yield text[end:start]
            yield reference(text[stop:closing])
            end = closing + 2
    yield text[end:]


def reference(names: str) -> Reference:
    """The reference that stands between the braces.

    Example:
        >>> reference("node.draft.title")
        Reference(root='node', path=('draft', 'title'))
    """
    root, *path = (name.strip() for name in names.split("."))
    return Reference(root, tuple(path))


def as_text(value: Any) -> str:
    """A value as it stands in a text: text as it is, None as nothing, else JSON where it can be."""
    if isinstance(value, str):
        return value
    try:
        return "" if value is None else json.dumps(value, ensure_ascii=False, default=str)
    except (TypeError, ValueError, RecursionError):  # keys that are no text; a list within itself
        return str(value)


def field_of(value: Any, path: Sequence[str], reference: Reference) -> Any:
    """Follow ``path`` into mappings and sequences.

    Raises:
        UnresolvedReferenceError: There is nothing of that name.
    """
    for name in path:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif _is_index(value, name):
            value = value[int(name)]
        else:
            kind = _kind(value)
            raise UnresolvedReferenceError(f"{reference}: there is no {name!r} in {kind}")
    return value


def _is_index(value: Any, name: str) -> bool:
    return isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"an object with {', '.join(map(repr, value)) or 'no fields'}"
    return f"a value of type {type(value).__name__}"
