"""Say in which parts a call differs from its recording, and show both values as a diff.

Only a call that differs, or has no recording, gets here. Whatever is shown is masked first.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property
from itertools import zip_longest
from typing import Any

from pydantic_core import to_jsonable_python

from ..models.reports import Change, printable
from .recording import INPUT_FIELDS, fingerprint, message_fingerprint
from .redaction import Redactor

_MOST_CHANGES = 20  # in one call
_MASKED = "  parts differ that are masked here"
_MOST_PATHS = 8  # in one line of text
_VALUE = 1000  # characters of a value in the report
_LINE = 160  # characters of a line of a diff
_LINES = 24  # lines of a diff
_NEAR = 4  # words, or lines, that do not differ and are shown around those that do
# Comparing each word with each word is slow: a longer text is shown from its first difference to its last.
_MOST_COMPARED = 40_000


class _Absent:
    def __repr__(self) -> str:
        return "(not set)"


_ABSENT = _Absent()


@dataclass
class Sent:
    """The input of a call that differs from its recording, or has none, as a recording would hold it."""

    request: Mapping[str, Any]
    version: int | None

    @cached_property
    def keys(self) -> tuple[str, str]:
        """The fingerprint of the whole input, and that of the message alone."""
        return fingerprint(self.request, self.version), message_fingerprint(self.request)


def differing_parts(recorded: Mapping[str, Any], sent: Mapping[str, Any]) -> list[str]:
    """Return the parts of the input in which a call differs from a recording, as paths.

    Example:
        >>> differing_parts({"parameters": {"level": 1}}, {"parameters": {"level": 2}})
        ['parameters.level']
    """
    return [
        path
        for name in INPUT_FIELDS
        for path, _, _ in _differences(recorded.get(name), sent.get(name), name)
    ]


def changes_between(
    recorded: Mapping[str, Any],
    sent: Mapping[str, Any],
    fields: Iterable[str],
    redactor: Redactor,
) -> tuple[Change, ...]:
    """Return the changes in ``fields`` of two requests, at most 20. ``redactor`` masks both sides."""
    changes: list[Change] = []
    for field in fields:
        one, other = (
            redactor({"request": {field: side[field]} if field in side else {}})["request"]
            for side in (recorded, sent)
        )
        parts = list(_differences(one.get(field, _ABSENT), other.get(field, _ABSENT), field))
        changes += [change(*part) for part in parts[:_MOST_CHANGES]]
        if len(parts) < len(list(_differences(recorded.get(field), sent.get(field), field))):
            changes.append(Change(field, None, None, _MASKED))
    return tuple(changes[:_MOST_CHANGES])


def tool_changes(
    number: int, recorded: Sequence[Any], sent: Sequence[Any], redactor: Redactor
) -> tuple[Change, ...]:
    """Return the changes in the tool results of round ``number``, counted from 0."""
    one, other = (
        redactor({"rounds": [{}] * number + [{"tool_results": to_jsonable_python(side)}]})
        for side in (recorded, sent)
    )
    sides = [each["rounds"][number]["tool_results"] for each in (one, other)]
    path = f"rounds[{number}].toolResults" if number else "toolResults"
    parts = list(_differences(sides[0], sides[1], path))
    if not parts:
        return (Change(path, None, None, _MASKED),)
    return tuple(change(*part) for part in parts[:_MOST_CHANGES])


def change(path: str, recorded: Any, sent: Any) -> Change:
    """Return one change, with both values cut to what a report can hold."""
    return Change(
        printable(path, _LINE), _shortened(recorded), _shortened(sent), diff(recorded, sent)
    )


def changed_values(recorded: Any, received: Any) -> list[Change]:
    """Return the changes between two values: field by field if both are JSON objects or lists.

    Example:
        >>> [each.path for each in changed_values({"a": 1, "b": [2]}, {"a": 1, "b": [3]})]
        ['$.b[0]']
    """
    return [change(*each) for each in _differences(recorded, received, "$")]


def listed(paths: Sequence[str]) -> str:
    """Return paths as text for one line."""
    shown = [printable(path, 80) for path in paths[:_MOST_PATHS]]
    more = len(paths) - _MOST_PATHS
    return ", ".join([*shown, f"and {more} more"] if more > 0 else shown)


def diff(recorded: Any, sent: Any) -> str:
    r"""Return the difference between two values as lines: ``-`` is recorded, ``+`` is sent.

    Texts of several lines are compared line by line, long lines word by word.

    Example:
        >>> print(diff("The cat sat.", "The dog sat."))
        - The cat sat.
        + The dog sat.
    """
    both_text = isinstance(recorded, str) and isinstance(sent, str)
    one, other = (_text(side, plain=both_text) for side in (recorded, sent))
    lines = list(_diff_lines(one.split("\n"), other.split("\n")))
    if len(lines) > _LINES:
        lines = [*lines[:_LINES], f"  … {len(lines) - _LINES} more lines"]
    return "\n".join(lines)


def _differences(a: Any, b: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict) and a and b:
        for name in sorted({*a, *b}):
            one, other = a.get(name, _ABSENT), b.get(name, _ABSENT)
            yield from _differences(one, other, f"{path}.{name}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif type(a) is not type(b) or a != b:
        yield path, a, b


def _shortened(value: Any) -> Any:
    if value is _ABSENT:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    if len(text) <= _VALUE:
        return value
    return f"{text[:_VALUE]}… ({len(text):,} characters)"


def _text(value: Any, *, plain: bool) -> str:
    if value is _ABSENT:
        return "(not set)"
    if plain:
        return str(value)
    text = json.dumps(value, ensure_ascii=False, sort_keys=True)
    if len(text) <= _LINE or isinstance(value, str):
        return text
    return json.dumps(value, ensure_ascii=False, sort_keys=True, indent=2)


def _diff_lines(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    blocks = list(_blocks(a, b))
    for number, (first, last, start, stop) in enumerate(blocks):
        shown_until = blocks[number - 1][1] if number else 0
        if first - 1 >= shown_until:
            yield f"  {printable(a[first - 1], _LINE)}"
        for one, other in zip_longest(a[first:last], b[start:stop]):
            if one is None or other is None:
                yield (
                    f"+ {printable(other, _LINE)}" if one is None else f"- {printable(one, _LINE)}"
                )
            elif one != other:  # equal ones are here if there were too many to compare
                yield from _changed_line(one, other)
        following = blocks[number + 1][0] if number + 1 < len(blocks) else len(a)
        if last < following - (number + 1 < len(blocks)):
            yield f"  {printable(a[last], _LINE)}"


def _blocks(a: Sequence[str], b: Sequence[str]) -> Iterator[tuple[int, int, int, int]]:
    """Yield the ranges of ``a`` and ``b`` that differ."""
    shorter = min(len(a), len(b))
    start = 0
    while start < shorter and a[start] == b[start]:
        start += 1
    end = 0
    while end < shorter - start and a[len(a) - 1 - end] == b[len(b) - 1 - end]:
        end += 1
    one, other = a[start : len(a) - end], b[start : len(b) - end]
    if len(one) * len(other) > _MOST_COMPARED:
        yield start, len(a) - end, start, len(b) - end
        return
    for tag, i1, i2, j1, j2 in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if tag != "equal":
            yield start + i1, start + i2, start + j1, start + j2


def _changed_line(a: str, b: str) -> Iterator[str]:
    if "".join(a.split()) == "".join(b.split()):
        a, b = (json.dumps(side, ensure_ascii=False) for side in (a, b))  # shows the spaces
    elif unicodedata.normalize("NFC", a) == unicodedata.normalize("NFC", b):
        a, b = json.dumps(a), json.dumps(b)
    if max(len(a), len(b)) <= _LINE:
        yield f"- {printable(a, 2 * _LINE)}"
        yield f"+ {printable(b, 2 * _LINE)}"
        return
    words, other_words = (re.findall(r"\S{1,80}\s*|\s+", side) for side in (a, b))
    until = (0, 0, 0, 0)
    joined: list[tuple[int, int, int, int]] = []
    for block in _blocks(words, other_words):
        if joined and block[0] - until[1] <= 2 * _NEAR:
            joined[-1] = (joined[-1][0], block[1], joined[-1][2], block[3])
        else:
            joined.append(block)
        until = block
    for first, last, start, stop in joined:
        yield f"- {_window(words, first, last)}"
        yield f"+ {_window(other_words, start, stop)}"


def _window(words: Sequence[str], first: int, last: int) -> str:
    """Return the words from ``first`` to ``last`` with some words around them."""
    before = "".join(words[max(0, first - _NEAR) : first])[-_LINE // 2 :]
    after = "".join(words[last : last + _NEAR])[: _LINE // 2]
    text = "".join(words[first:last])
    if len(text) > 2 * _LINE:
        text = f"{text[:_LINE]} … {text[-_LINE // 2 :]}"
    left = "…" if first > _NEAR else ""
    right = "…" if last + _NEAR < len(words) else ""
    return printable(f"{left}{before}{text}{after.rstrip()}{right}", 4 * _LINE)
