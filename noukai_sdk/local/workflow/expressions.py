"""Conditions as text: ``{{node.grade.score}} >= 0.8 and "cat" in lower(message)``.

A small part of Python's expressions, walked and never given to ``eval``: comparisons, ``and``,
``or``, ``not``, ``in``, literals, lists, references with or without braces, and a few functions.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from . import templates
from .templates import Reference

Resolve = Callable[[Reference], Any]

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "len": len,
    "lower": lambda text: templates.as_text(text).lower(),
    "str": templates.as_text,
    "upper": lambda text: templates.as_text(text).upper(),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, values: item in values,
    ast.NotIn: lambda item, values: item not in values,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
_PLACEHOLDER = "reference_{}_"
_DEEPEST = 50


class ExpressionError(ValueError):
    """A text that is no expression of this small language."""


@dataclass(frozen=True)
class Expression:
    """A checked expression and the references in it."""

    body: ast.expr
    named: dict[str, Reference]

    @property
    def references(self) -> list[Reference]:
        """The references, with and without braces."""
        return self._below(self.body)

    def value(self, resolve: Resolve) -> Any:
        """What the expression comes to, ``resolve`` giving what references stand for.

        Raises:
            TypeError: Values that cannot be compared, such as a text and a number.
        """
        return self._value(self.body, resolve)

    def _below(self, part: ast.AST) -> list[Reference]:
        reference = self._reference(part)
        if reference is not None:
            return [reference]
        return [found for child in ast.iter_child_nodes(part) for found in self._below(child)]

    def _reference(self, part: ast.AST) -> Reference | None:
        if isinstance(part, ast.Name) and part.id in self.named:
            return self.named[part.id]
        names = _dotted(part)
        return None if names is None or names[0] not in templates.ROOTS else _whole(names)

    def _value(self, part: ast.expr, resolve: Resolve) -> Any:
        reference = self._reference(part)
        if reference is not None:
            return resolve(reference)
        if isinstance(part, ast.Constant):
            return part.value
        if isinstance(part, ast.BoolOp):
            return self._either(part, resolve)
        if isinstance(part, ast.Compare):
            return self._compare(part, resolve)
        return self._apply(part, resolve)

    def _either(self, part: ast.BoolOp, resolve: Resolve) -> Any:
        stop_at = isinstance(part.op, ast.Or)
        value: Any = None
        for item in part.values:
            value = self._value(item, resolve)
            if bool(value) is stop_at:
                break
        return value

    def _compare(self, part: ast.Compare, resolve: Resolve) -> bool:
        left = self._value(part.left, resolve)
        for comparison, operand in zip(part.ops, part.comparators, strict=True):
            right = self._value(operand, resolve)
            if not _COMPARISONS[type(comparison)](left, right):
                return False
            left = right
        return True

    def _apply(self, part: ast.expr, resolve: Resolve) -> Any:
        if isinstance(part, ast.UnaryOp):
            value = self._value(part.operand, resolve)
            return not value if isinstance(part.op, ast.Not) else -value
        if isinstance(part, ast.Call) and isinstance(part.func, ast.Name):
            return _FUNCTIONS[part.func.id](*(self._value(item, resolve) for item in part.args))
        assert isinstance(part, ast.List | ast.Tuple)  # parse() lets nothing else through
        return [self._value(item, resolve) for item in part.elts]


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ExpressionError: It is none; the message says what is wrong.

    Example:
        >>> parse("len(input) > 3 or not {{parameters.strict}}").value(lambda reference: "ab")
        False
    """
    named: dict[str, Reference] = {}
    source = ""
    for part in templates.cut(text):
        if isinstance(part, Reference):
            name = _PLACEHOLDER.format(len(named))
            named[name] = part
            source += f" {name} "
        else:
            source += part
    try:
        body = ast.parse(source.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"no expression: {text!r}") from error
    _check(body, named)
    return Expression(body, named)


def _check(part: ast.AST, named: dict[str, Reference], depth: int = 0) -> None:
    if depth > _DEEPEST:
        raise ExpressionError("the condition is nested too deeply")
    names = _dotted(part)
    if names is not None:
        _check_name(names, named)
        return
    problem = _problem(part)
    if problem:
        raise ExpressionError(f"{problem} in a condition")
    children = part.args if isinstance(part, ast.Call) else list(ast.iter_child_nodes(part))
    for child in children:
        if isinstance(child, ast.expr):
            _check(child, named, depth + 1)


def _check_name(names: list[str], named: dict[str, Reference]) -> None:
    if names[0] in named and len(names) == 1:
        return
    problem = _whole(names).problem
    if problem:
        raise ExpressionError(problem)


def _problem(part: ast.AST) -> str | None:
    if isinstance(part, ast.Call):
        name = part.func.id if isinstance(part.func, ast.Name) else "this"
        if name not in _FUNCTIONS or part.keywords:
            return f"{name}() cannot be called ({', '.join(_FUNCTIONS)} can)"
        return None if len(part.args) == 1 else f"{name}() without exactly one argument"
    if isinstance(part, ast.UnaryOp):
        allowed = isinstance(part.op, ast.Not | ast.USub)
    elif isinstance(part, ast.Constant):
        allowed = part.value is None or isinstance(part.value, str | int | float)
    else:
        allowed = isinstance(part, ast.BoolOp | ast.Compare | ast.List | ast.Tuple)
    return None if allowed else f"{ast.unparse(part)!r} has no place"


def _dotted(part: ast.AST) -> list[str] | None:
    """``a.b.c`` as its names, None for anything else."""
    if isinstance(part, ast.Name):
        return [part.id]
    if isinstance(part, ast.Attribute):
        before = _dotted(part.value)
        return None if before is None else [*before, part.attr]
    return None


def _whole(names: list[str]) -> Reference:
    return Reference(names[0], tuple(names[1:]))
