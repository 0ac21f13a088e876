"""Conditions as text: ``{{node.grade.score}} >= 0.8 and "cat" in lower(message)``.

The language is a small part of Python's: comparisons, ``and``, ``or``, ``not``, ``in``, arithmetic,
subscripts, literals, lists, a few functions, and references with or without braces. Text is never passed
to ``eval``: the syntax tree is checked against the language and turned into closures.

Models write their decisions as text. A text that reads "False", "no", "0" or "None" is therefore false.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from numbers import Number
from typing import Any

from ..runtime.hidden_keys import shown
from . import templates
from .templates import ROOTS, Reference, UnresolvedReferenceError

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
_ARITHMETIC: dict[type[ast.operator], tuple[str, Callable[[Any, Any], Any]]] = {
    ast.Add: ("+", operator.add),
    ast.Sub: ("-", operator.sub),
    ast.Mult: ("*", operator.mul),
    ast.Div: ("/", operator.truediv),
    ast.FloorDiv: ("//", operator.floordiv),
    ast.Mod: ("%", operator.mod),
}
# As in flow files, which are YAML.
_WORDS = {"true": True, "false": False, "null": None}
# What models write around a word.
AROUND_WORDS = " \t\r\n.!\"'`*"
_FALSE_TEXTS = frozenset({"", "false", "no", "off", "0", "none", "null"})
_MAX_DEPTH = 50


class ExpressionError(ValueError):
    """A text is not a valid expression."""


@dataclass(frozen=True)
class Expression:
    """A checked expression.

    Attributes:
        references: The references in it, with and without braces, in the order of the text.
        evaluate: Returns the value. Its argument returns the value of a reference. Raises TypeError
            if values cannot be compared or computed, such as a text and a number, and
            UnresolvedReferenceError if a subscript does not exist.
    """

    references: list[Reference]
    evaluate: Evaluate


def is_true(value: Any) -> bool:
    """Return whether a value counts as true. A text that says no, such as "False", does not.

    Example:
        >>> is_true("yes"), is_true("False"), is_true("No.")
        (True, False, False)
    """
    if isinstance(value, str):
        return value.strip(AROUND_WORDS).lower() not in _FALSE_TEXTS
    return bool(value)


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
        raise ExpressionError(f"not a valid expression: {shown(text)}") from error
    compiler = _Compiler(source, placeholders)
    evaluate = compiler.compile(body)
    return Expression(compiler.references, evaluate)


def problem_of(text: str) -> str | None:
    """Return why the text is not a valid expression, None if it is one."""
    try:
        parse(text)
    except ExpressionError as error:
        return str(error)
    return None


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
            case ast.Name(id=name) if name in _WORDS:
                word = _WORDS[name]
                return lambda resolve: word
            case ast.Constant(value=None | str() | int() | float() as constant):
                return lambda resolve: constant
            case ast.List(elts=parts) | ast.Tuple(elts=parts):
                items = self._compile_all(parts, depth)
                return lambda resolve: [item(resolve) for item in items]
            case ast.UnaryOp(op=ast.Not() | ast.USub() as op):
                operand = self.compile(part.operand, depth + 1)
                if isinstance(op, ast.Not):
                    return lambda resolve: not is_true(operand(resolve))
                return lambda resolve: -operand(resolve)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self._check_dash(part)
                first, second = self._compile_all([left, right], depth)
                sign, compute = _ARITHMETIC[type(op)]
                return lambda resolve: _computed(sign, compute, first(resolve), second(resolve))
            case ast.Subscript() | ast.Attribute(value=ast.Subscript() | ast.Attribute()):
                return self._compile_item(part, depth)
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
        message = f"{self._quote(part)} is not allowed in a condition"
        if isinstance(part, ast.Call):
            functions = ", ".join(_FUNCTIONS)
            message += f": the functions are {functions}, and each takes one argument"
        raise ExpressionError(message)

    def _compile_all(self, parts: list[ast.expr], depth: int) -> list[Evaluate]:
        return [self.compile(part, depth + 1) for part in parts]

    def _compile_item(self, part: ast.Subscript | ast.Attribute, depth: int) -> Evaluate:
        key = part.slice if isinstance(part, ast.Subscript) else ast.Constant(part.attr)
        of, at = self._compile_all([part.value, key], depth)
        quoted = self._quote(part)
        return lambda resolve: _item(of(resolve), at(resolve), quoted)

    def _reference(self, part: ast.expr) -> Reference | None:
        """Return the reference that ``a.b["c"]`` or a placeholder is, None for anything else."""
        names: list[str] = []
        while True:
            match part:
                case ast.Attribute(value=value, attr=name):
                    names.append(name)
                case ast.Subscript(value=value, slice=ast.Constant(value=str() as name)):
                    names.append(name)
                case _:
                    break
            part = value
        if not isinstance(part, ast.Name) or part.id in _WORDS:
            return None
        path = tuple(reversed(names))
        if part.id in self._placeholders:
            # Validation reports faults of references in braces, with those in other texts.
            outer = self._placeholders[part.id]
            return Reference(outer.root, outer.path + path)
        reference = Reference(part.id, path)
        if reference.problem:
            raise ExpressionError(reference.problem)
        return reference

    def _check_dash(self, part: ast.BinOp) -> None:
        """Explain ``node.my-step``, which Python reads as a subtraction."""
        root: ast.expr = part.right
        while isinstance(root, ast.Attribute | ast.Subscript):
            root = root.value
        is_name = isinstance(root, ast.Name) and root.id not in ROOTS.keys() | self._placeholders
        left = ast.get_source_segment(self._source, part.left) or ""
        if isinstance(part.op, ast.Sub) and is_name and left.startswith("node."):
            raise ExpressionError(
                f'{self._quote(part)} is a subtraction: write node["my-step"] if the name of a '
                "step has a '-'"
            )

    def _quote(self, part: ast.expr) -> str:
        text = ast.get_source_segment(self._source, part) or ""
        for name, reference in self._placeholders.items():
            text = text.replace(name, str(reference))
        return shown(text[:100])


def _and_or(operands: list[Evaluate], *, stop_at: bool) -> Evaluate:
    def evaluate(resolve: Resolve) -> Any:
        value: Any = None
        for operand in operands:
            value = operand(resolve)
            if is_true(value) is stop_at:
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
            try:
                is_held = holds(left, right)
            except TypeError:
                kinds = f"{type(left).__name__} and {type(right).__name__}"
                message = f"{kinds} do not compare: convert with int(), float() or str()"
                raise TypeError(message) from None
            if not is_held:
                return False
            left = right
        return True

    return evaluate


def _computed(sign: str, compute: Callable[[Any, Any], Any], first: Any, second: Any) -> Any:
    # Multiplying and formatting a text or a list could fill the memory.
    is_number = isinstance(first, Number) and isinstance(second, Number)
    is_joined = sign == "+" and any(
        isinstance(first, kind) and isinstance(second, kind) for kind in (str, list)
    )
    if not is_number and not is_joined:
        kinds = f"{type(first).__name__} and {type(second).__name__}"
        raise TypeError(f"{sign!r} needs two numbers, not {kinds}: convert with int() or float()")
    return compute(first, second)


def _item(value: Any, key: Any, quoted: str) -> Any:
    if value is None:
        return None  # skipped: no output, and so no field of it
    if isinstance(value, Mapping) and key in value:
        return value[key]
    is_place = isinstance(key, int) and not isinstance(key, bool)
    if is_place and isinstance(value, list | tuple | str) and -len(value) <= key < len(value):
        return value[key]
    kind = f"a value of type {type(value).__name__}"
    if isinstance(value, Mapping):
        kind = f"an object with {', '.join(map(repr, value)) or 'no fields'}"
    elif isinstance(value, list | tuple | str):
        kind += f" and length {len(value)}"
    raise UnresolvedReferenceError(f"{quoted}: there is no {key!r} in {kind}")
