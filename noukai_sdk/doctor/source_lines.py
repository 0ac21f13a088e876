"""Read the user's source: the text of a line, the calls on it, the function around it."""

from __future__ import annotations

import ast
import linecache
import os
from functools import lru_cache

_LONGEST = 160


def words(text: str) -> frozenset[str]:
    """Return the words of a text, such as the names of functions."""
    return frozenset(text.split())


def text_of(file: str, line: int) -> str:
    """Return the text of a line, without its indentation."""
    text = linecache.getline(file, line).strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def function_of(file: str, line: int) -> tuple[str, int]:
    """Return the file and the first line of the innermost function around a line; 0 for the module."""
    found = 0
    for node in ast.walk(_tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            last = node.end_lineno or node.lineno
            if node.lineno <= line <= last and node.lineno > found:
                found = node.lineno
    return file, found


def calls_at(file: str, line: int, names: frozenset[str]) -> list[str]:
    """Return the calls of these names that stand on a line, as source, the shortest first.

    Args:
        file: The module.
        line: The line. A call that goes over several lines counts on each.
        names: The last parts of the functions' names.
    """
    found = []
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Call):
            function = node.func
            name = function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")
            if name in names and node.lineno <= line <= (node.end_lineno or node.lineno):
                found.append(ast.unparse(node))
    return sorted(found, key=len)


def reference_to(name: str, files: list[str]) -> tuple[str, int] | None:
    """Return the first line of these files that names a function without calling it."""
    last = name.rpartition(".")[2]
    for file in files:
        called = set()
        for node in ast.walk(_tree(file)):
            if isinstance(node, ast.Call):
                called.add(id(node.func))
        for node in ast.walk(_tree(file)):
            is_name = isinstance(node, ast.Name) and node.id == last
            is_attribute = isinstance(node, ast.Attribute) and node.attr == last
            if (is_name or is_attribute) and id(node) not in called:
                assert isinstance(node, ast.expr)  # both are
                return file, node.lineno
    return None


def short_path(file: str) -> str:
    """Return a path as a reader in this folder would write it."""
    path, here = os.path.realpath(file), os.getcwd()  # noqa: PTH109  # a text
    return os.path.relpath(path, here) if path.startswith(here + os.sep) else file


@lru_cache(maxsize=256)
def _tree(file: str) -> ast.Module:
    try:
        return ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return ast.Module([], [])
