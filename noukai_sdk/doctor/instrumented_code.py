"""Compile the user's code so that it calls the helpers of ``set_order.py`` where it iterates sets.

Values stay what they are, line numbers too. Annotations are left alone: frameworks read them.
"""

from __future__ import annotations

import ast
import builtins
import importlib.machinery
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from .sites import owner_of
from .source_lines import words

NodeT = TypeVar("NodeT", bound=ast.AST)

# Functions that iterate their arguments, by name, and methods.
_ITERATING = words(
    "list tuple iter enumerate zip map filter min max sum sorted dict any all deque chain "
    "reduce islice cycle accumulate OrderedDict Counter next"
)
_ITERATING_METHODS = words(
    "join extend fromkeys from_iterable map imap starmap writelines executemany update"
)
_TO_TEXT = words("str repr print format")
_MAKING = frozenset(("set", "frozenset"))
_SET_METHODS = words("union intersection difference symmetric_difference copy keys items")
_SET_OPERATORS = (ast.BitOr, ast.BitAnd, ast.BitXor, ast.Sub)
_CHANGING_METHODS = words(
    "append appendleft add insert setdefault put put_nowait send send_nowait write push"
)
_LOCAL = words(
    "fromtimestamp astimezone localtime ctime mktime timestamp strftime timetuple currency "
    "format_string setlocale getlocale"
)


def instrument_code(helpers: dict[str, Callable[..., Any]]) -> None:
    """Compile the user's modules with calls of the helpers, from now on."""
    for name, helper in helpers.items():
        setattr(builtins, name, helper)
    loader: Any = importlib.machinery.SourceFileLoader
    original = loader.get_code

    def get_code(self: Any, fullname: str) -> Any:
        path = self.get_filename(fullname)
        if owner_of(path) != "user":
            return original(self, fullname)
        try:
            # Not from the cache of compiled modules, and not into it.
            return instrumented(self.get_data(path), path)
        except (SyntaxError, ValueError, RecursionError):
            return original(self, fullname)

    loader.get_code = get_code
    sys.dont_write_bytecode = True


def instrumented(source: bytes | str, path: str) -> Any:
    """Return the code object of a module."""
    module = ast.parse(source, path)
    tree = _Instrumenter(path).visit(module)
    return compile(ast.fix_missing_locations(tree), path, "exec", dont_inherit=True)


class _Instrumenter(ast.NodeTransformer):
    def __init__(self, path: str) -> None:
        self._path = path
        self._outer_names: list[set[str]] = []  # global and nonlocal names of each function

    def visit_For(self, node: ast.For) -> ast.AST:
        self.generic_visit(node)
        node.iter = self._call("order", node.iter)
        return node

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        self.generic_visit(node)
        if not node.is_async:
            node.iter = self._call("order", node.iter)
        return node

    def visit_Starred(self, node: ast.Starred) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.ctx, ast.Load):
            node.value = self._call("order", node.value)
        return node

    def visit_YieldFrom(self, node: ast.YieldFrom) -> ast.AST:
        self.generic_visit(node)
        node.value = self._call("order", node.value)
        return node

    def visit_Set(self, node: ast.Set) -> ast.AST:
        self.generic_visit(node)
        return self._call("made", node)

    def visit_SetComp(self, node: ast.SetComp) -> ast.AST:
        self.generic_visit(node)
        return self._call("made", node)

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, _SET_OPERATORS):
            return self._call("made", node)
        if isinstance(node.op, ast.Mod) and _is_text(node.left):
            if isinstance(node.right, ast.Tuple):
                node.right.elts = [self._text(each) for each in node.right.elts]
            else:
                node.right = self._text(node.right)
        return node

    def visit_FormattedValue(self, node: ast.FormattedValue) -> ast.AST:
        self.generic_visit(node)
        node.value = self._text(node.value)
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.AST:
        self.generic_visit(node)
        if any(isinstance(each, (ast.Tuple, ast.List)) for each in node.targets):
            node.value = self._call("order", node.value)
        elif any(self._is_shared(each) for each in node.targets):
            node.value = self._call("value", node.value)
            for each in node.targets:
                if isinstance(each, ast.Subscript) and not isinstance(each.slice, ast.Slice):
                    each.slice = self._call("value", each.slice)
        return node

    def visit_AugAssign(self, node: ast.AugAssign) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.op, ast.Add):
            node.value = self._call("order", node.value)
        if self._outer_names:
            node.value = self._call("value", node.value)
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        if node.value is not None:
            node.value = self.visit(node.value)
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        # A pattern is no expression.
        node.guard = None if node.guard is None else self.visit(node.guard)
        node.body = [self.visit(each) for each in node.body]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        self.generic_visit(node)
        function = node.func
        name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
        plain = [each for each in node.args if not isinstance(each, ast.Starred)]
        if isinstance(function, ast.Name):
            if name in ("hash", "id") and len(plain) == len(node.args) == 1 and not node.keywords:
                # With the function, which may be one of the user's.
                return self._call(name, ast.Tuple([function, plain[0]], ast.Load()), at=node)
            if name in _ITERATING:
                self._wrap_arguments(node, "order")
        elif name == "pop" and not node.args and not node.keywords:
            assert isinstance(function, ast.Attribute)  # it has an attr
            return self._call("pop", function.value, at=node)
        elif name in _ITERATING_METHODS:
            self._wrap_arguments(node, "order")
        if name in _TO_TEXT:
            self._wrap_arguments(node, "text")
        if name in _CHANGING_METHODS and not isinstance(function, ast.Name) and node.args:
            node.args = [
                each if isinstance(each, ast.Starred) else self._call("value", each)
                for each in node.args
            ]
        if name in _LOCAL:
            return self._call("local", node)
        makes_set = name in (_MAKING if isinstance(function, ast.Name) else _SET_METHODS)
        return self._call("made", node) if makes_set else node

    def _function(self, node: Any) -> ast.AST:
        names = {
            name
            for each in ast.walk(node)
            if isinstance(each, (ast.Global, ast.Nonlocal))
            for name in each.names
        }
        returns, node.returns = node.returns, None
        self._outer_names.append(names)
        try:
            self.generic_visit(node)
        finally:
            self._outer_names.pop()
            node.returns = returns
        return node  # type: ignore[no-any-return]  # as it came

    def _is_shared(self, target: ast.AST) -> bool:
        """Return whether an assignment may change an object that other tasks see."""
        if not self._outer_names:
            return False
        if isinstance(target, ast.Name):
            return target.id in self._outer_names[-1]
        return isinstance(target, (ast.Attribute, ast.Subscript))

    def _wrap_arguments(self, node: ast.Call, helper: str) -> None:
        node.args = [
            each if isinstance(each, ast.Starred) else self._call(helper, each)
            for each in node.args
        ]

    def _text(self, node: ast.expr) -> ast.expr:
        return node if isinstance(node, ast.Constant) else self._call("text", node)

    def _call(self, helper: str, value: ast.expr, at: ast.AST | None = None) -> ast.expr:
        if isinstance(value, (ast.Constant, ast.List, ast.Dict, ast.ListComp)) and helper in (
            "order",
            "text",
        ):
            return value  # never a set
        place: Any = value if at is None else at
        names: Iterable[ast.expr] = (
            value,
            ast.Constant(self._path),
            ast.Constant(place.lineno),
        )
        name = ast.Name(f"__noukai_{helper}__", ast.Load())
        call = ast.Call(name, list(names), [])
        # Tracebacks show the whole expression.
        return _located(call, place)


def _located(node: NodeT, place: ast.AST) -> NodeT:
    for each in ast.walk(node):
        if "lineno" in each._attributes and not hasattr(each, "lineno"):
            ast.copy_location(each, place)
    return node


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )
