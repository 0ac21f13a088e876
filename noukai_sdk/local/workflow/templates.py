r"""Texts with references: ``{{message}}``, ``{{parameters.x}}``, ``{{node.name.field}}``.

A text is cut into parts once, and rendering joins the parts. The value of a reference is never parsed
again, so text written by a model or a user cannot inject a reference. ``\{{`` is a literal ``{{``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from pydantic_core import to_jsonable_python

_LONGEST_CACHED = 10_000
_OPENING = re.compile(r"\\?\{\{")
ROOTS = dict.fromkeys(("message", "input", "item", "index", "output", "round"), 0)
ROOTS |= {"parameters": 1, "node": 1}
"""The first words a reference may have, and how many names must follow each."""

OF_ROUNDS = frozenset({"input", "output", "round"})
"""Those that mean a round, in the condition that ends a repetition."""


class UnresolvedReferenceError(LookupError):
    """A reference has no value."""


class TextTooLongError(ValueError):
    """A rendered text is longer than allowed."""


@dataclass(frozen=True)
class Reference:
    """One ``{{...}}``: ``root`` is its first word, ``path`` the names after it."""

    root: str
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "{{" + ".".join((self.root, *self.path)) + "}}"

    @classmethod
    def from_text(cls, text: str) -> Reference:
        """Make a reference from the text between the braces.

        Example:
            >>> Reference.from_text("node.draft.title")
            Reference(root='node', path=('draft', 'title'))
        """
        root, *path = (name.strip() for name in text.split("."))
        return cls(root, tuple(path))

    @property
    def problem(self) -> str | None:
        """Why the reference is invalid in any node, None if it is valid."""
        names_needed = ROOTS.get(self.root)
        if names_needed is None:
            hint = f"write {{{{parameters.{self.root}}}}} or {{{{node.{self.root}}}}}"
            return f"{self} does not start with one of {', '.join(ROOTS)}: {hint}"
        if len(self.path) < names_needed or not all(self.path):
            return f"{self} lacks a name after {self.root!r}"
        return None


@dataclass(frozen=True)
class Template:
    """A text with references, cut into parts."""

    parts: tuple[str | Reference, ...]

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """The references, in the order of the text."""
        return tuple(part for part in self.parts if isinstance(part, Reference))

    @cached_property
    def alone(self) -> Reference | None:
        """The reference that is the whole text, None if the text is anything else."""
        only = self.parts[0] if len(self.parts) == 1 else None
        return only if isinstance(only, Reference) else None

    def render(self, resolve: Callable[[Reference], Any], max_length: int | None = None) -> str:
        """Return the text with each reference replaced by the value that ``resolve`` returns.

        Raises:
            TextTooLongError: It has more than ``max_length`` characters.
        """
        texts: list[str] = []
        length = 0
        for part in self.parts:
            texts.append(part if isinstance(part, str) else as_text(resolve(part)))
            length += len(texts[-1])
            if max_length is not None and length > max_length:
                raise TextTooLongError(f"it has more than {max_length} characters")
        return "".join(texts)


def parse(text: str) -> Template:
    """Cut ``text`` into a template. Never fails: an invalid reference has a ``problem``."""
    # Calls can override prompts: what they send must not fill the memory.
    return _parse_cached(text) if len(text) <= _LONGEST_CACHED else _parse(text)


def _parse(text: str) -> Template:
    return Template(tuple(part for part in cut(text) if part != ""))


_parse_cached = lru_cache(maxsize=4096)(_parse)


def cut(text: str) -> Iterator[str | Reference]:
    """Yield the references in ``text`` and the texts between them, in linear time."""
    # A pattern that includes the closing braces would search for them again from every opening.
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
            yield Reference.from_text(text[stop:closing])
            end = closing + 2
    yield text[end:]


def as_text(value: Any) -> str:
    """Convert a value to text: a str as it is, None to the empty text, all else to JSON if possible."""
    if isinstance(value, str):
        return value
    if value is not None and not isinstance(value, int | float | Mapping | list | tuple):
        value = _plain(value)
        if isinstance(value, str):
            return value
    try:
        return "" if value is None else json.dumps(value, ensure_ascii=False, default=_plain)
    except (TypeError, ValueError, RecursionError):  # keys JSON does not have; a list within itself
        return str(value)


def _plain(value: Any) -> Any:
    """Return a model or a dataclass as JSON values, all else as text."""
    return to_jsonable_python(value) if _fields(value) else str(value)


def _fields(value: Any) -> Mapping[str, Any]:
    """Return the fields of a pydantic model or a dataclass; nothing for any other value."""
    kind = type(value)
    return getattr(kind, "model_fields", None) or getattr(kind, "__dataclass_fields__", {})


def field_of(value: Any, path: Sequence[str], reference: Reference) -> Any:
    """Follow ``path`` into mappings, sequences, models and dataclasses.

    Raises:
        UnresolvedReferenceError: There is no such field or index. The message names ``reference``.
    """
    for name in path:
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list | tuple) and name.isdecimal() and int(name) < len(value):
            value = value[int(name)]
        elif name in _fields(value):
            value = getattr(value, name)
        else:
            kind = f"a value of type {type(value).__name__}"
            if isinstance(value, Mapping):
                kind = f"an object with {', '.join(map(repr, value)) or 'no fields'}"
            raise UnresolvedReferenceError(f"{reference}: there is no {name!r} in {kind}")
    return value
