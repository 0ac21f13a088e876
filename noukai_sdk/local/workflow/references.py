"""Every reference in a node, with the field that it stands in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from . import expressions, templates
from .node import Agent, Condition, Function, Node, Transform
from .templates import Reference


def references_of(node: Node) -> Iterator[tuple[str, Reference]]:
    """``(field, reference)`` for each. A condition that is no expression has none."""
    for field, text in texts_of(node):
        for reference in templates.parse(text).references:
            yield field, reference
    if isinstance(node.work, Condition) and isinstance(node.work.test, str):
        try:
            found = expressions.parse(node.work.test).references
        except expressions.ExpressionError:
            return
        for reference in found:
            yield "condition", reference


def texts_of(node: Node) -> Iterator[tuple[str, str]]:
    """``(field, text)`` for each text that may hold references."""
    if node.for_each is not None:
        yield "for_each", node.for_each
    work = node.work
    if isinstance(work, Agent):
        yield "prompt", work.prompt
        yield "system", work.system or ""
    elif isinstance(work, Transform):
        yield "transform", work.transformation
    elif isinstance(work, Function):
        for text in _strings(work.arguments):
            yield "arguments", text


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _strings(item)
