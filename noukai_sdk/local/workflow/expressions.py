"""Conditions as text: ``{{node.grade.score}} >= 0.8 and "cat" in lower(message)``.

The language is a small part of Python's: comparisons, ``and``, ``or``, ``not``, ``in``, literals,
lists, a few functions, and references with or without braces. Text is never passed to ``eval``: the
syntax tree is checked against the language and turned into closures.
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
Evaluate = Callable[[Resolve], Any]

_FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "abs": abs,
    "float": float,
    "int": int,
    "len": len,
    "lower": lambda value: templates.as_text(value).lower(),
    "str": templates.as_text,
    "upper": lambda value: templates.as_text(value).upper(),
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
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
_MAX_DEPTH = 50


class ExpressionError(ValueError):
    """A text is not a valid expression."""


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        references: The references in it, with and without braces, in the order of the text.
        evaluate: Returns the value. Its argument returns the value of a reference. Raises TypeError
            if values cannot be compared, such as a text and a number.
    """

    references: list[Reference]
    evaluate: Evaluate


@lru_cache(maxsize=1024)
def parse(text: str) -> Expression:
    """Read an expression.

    Raises:
        ExpressionError: The text is not a valid expression.

    Example:
        >>> parse("len(input) > 3 or not {{parameters.strict}}").evaluate(lambda reference: "ab")
        False
    """
    # Names in braces may hold spaces, so Python parses a placeholder in their place.
    placeholders: dict[str, Reference] = {}
    source = ""
    for part in templates.cut(text):
        if isinstance(part, Reference):
            name = f"reference_{len(placeholders)}_"
            placeholders[name] = part
            source += f" {name} "
        else:
            source += part
    source = source.strip()
    try:
        body = ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ExpressionError(f"not a valid expression: {text!r}") from error
    compiler = _Compiler(source, placeholders)
    evaluate = compiler.compile(body)
    return Expression(compiler.references, evaluate)


class _Compiler:
    """Turns the parts of a syntax tree into closures, and collects the references in them."""

    def __init__(self, source: str, placeholders: dict[str, Reference]) -> None:
        self.references: list[Reference] = []
        self._source = source
        self._placeholders = placeholders

    def compile(self, part: ast.expr, depth: int = 0) -> Evaluate:
        if depth > _MAX_DEPTH:
            raise ExpressionError("the condition is nested too deeply")
        reference = self._reference(part)
        if reference is not None:
            self.references.append(reference)
            return lambda resolve: resolve(reference)
        match part:
            case ast.Constant(value=None | str() | int() | float() as constant):
                return lambda resolve: constant
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                items = self._compile_all(parts, depth)
                return lambda resolve: [item(resolve) for item in items]
            case ast.UnaryOp(op=ast.Not() | ast.USub() as op):
                operand = self.compile(part.operand, depth + 1)
                apply = operator.not_ if isinstance(op, ast.Not) else operator.neg
                return lambda resolve: apply(operand(resolve))
            case ast.BoolOp(op=op, values=parts):
                return _and_or(self._compile_all(parts, depth), stop_at=isinstance(op, ast.Or))
            case ast.Compare(left=left, ops=ops, comparators=parts):
                operands = self._compile_all([left, *parts], depth)
                return _comparison(operands, [_COMPARISONS[type(op)] for op in ops])
            case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if (
                name in _FUNCTIONS
            ):
                function, value = _FUNCTIONS[name], self.compile(argument, depth + 1)
                return lambda resolve: function(value(resolve))
            case ast.Call():
                functions = ", ".join(_FUNCTIONS)
                raise ExpressionError(
                    f"{self._quote(part)} is not allowed in a condition: the functions are {functions}, "
                    "and each takes one argument"
                )
        raise ExpressionError(f"{self._quote(part)} is not allowed in a condition")

    def _compile_all(self, parts: list[ast.expr], depth: int) -> list[Evaluate]:
        return [self.compile(part, depth + 1) for part in parts]

    def _reference(self, part: ast.expr) -> Reference | None:
        """Return the reference that ``a.b.c`` or a placeholder is, None for anything else."""
        names: list[str] = []
        while isinstance(part, ast.Attribute):
            names.append(part.attr)
            part = part.value
        if not isinstance(part, ast.Name):
            return None
        if part.id in self._placeholders:
            # Validation reports faults of references in braces, with those in other texts.
            return None if names else self._placeholders[part.id]
        reference = Reference(part.id, tuple(reversed(names)))
        if reference.problem:
            raise ExpressionError(reference.problem)
        return reference

    def _quote(self, part: ast.expr) -> str:
        text = ast.get_source_segment(self._source, part) or ""
        for name, reference in self._placeholders.items():
            text = text.replace(name, str(reference))
        return repr(text[:100])


def _and_or(operands: list[Evaluate], *, stop_at: bool) -> Evaluate:
    def evaluate(resolve: Resolve) -> Any:
        value: Any = None
        for operand in operands:
            value = operand(resolve)
            if bool(value) is stop_at:
                break
        return value

    return evaluate


def _comparison(operands: list[Evaluate], comparisons: list[Callable[[Any, Any], Any]]) -> Evaluate:
    first, *others = operands
    pairs = list(zip(comparisons, others, strict=True))

    def evaluate(resolve: Resolve) -> bool:
        left = first(resolve)
        for holds, operand in pairs:
            right = operand(resolve)
            if not holds(left, right):
                return False
            left = right
        return True

    return evaluate
