"""Find an ASGI or WSGI app by its name."""

from __future__ import annotations

import ast
import inspect
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

from ..session.threads import detached

_FORM = "write 'module:attribute', such as main:app, or 'module:create_app()'"
_KEY = "NOUKAI_API_KEY"


class AppError(Exception):
    """An app cannot be imported, does not start, or is neither an ASGI nor a WSGI app."""


def load_app(name: str, *, beside: Path | None = None) -> Any:
    """Import an app.

    Args:
        name: ``module:attribute``. The attribute may be a function that makes the app, called with
            literal arguments: ``main:create_app("test")``.
        beside: A file of the project. A module that is not installed is searched for in the current
            folder, in the file's folder, in all folders above that, and in ``src`` of each.

    Raises:
        AppError: There is no such app, or its module cannot be imported.
    """
    module_name, _, expression = name.partition(":")
    arguments: list[Any] = []
    keywords: dict[str, Any] = {}
    try:
        tree = ast.parse(expression.strip(), mode="eval").body
        is_called = isinstance(tree, ast.Call)
        if isinstance(tree, ast.Call):
            arguments = [ast.literal_eval(each) for each in tree.args]
            keywords = {str(each.arg): ast.literal_eval(each.value) for each in tree.keywords}
            tree = tree.func
        attributes = ast.unparse(tree).split(".")
        if not all(part.isidentifier() for part in (*module_name.split("."), *attributes)):
            raise ValueError(name)
    except (SyntaxError, ValueError, TypeError) as error:
        raise AppError(f"{name!r} does not name an app: {_FORM}") from error
    # Neither the import nor the start of an app is a part of the request.
    with detached():
        app: Any = _import(module_name, beside)
        for attribute in attributes:
            if not hasattr(app, attribute):
                raise AppError(f"{name!r}: module {module_name} has no {'.'.join(attributes)}")
            app = getattr(app, attribute)
        if is_called:
            try:
                app = app(*arguments, **keywords)
            except Exception as error:
                raise AppError(f"{name} raised {type(error).__name__}: {error}") from error
    return app


def _import(module_name: str, beside: Path | None) -> ModuleType:
    folder = _folder_of(module_name, beside)
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return import_module(module_name)
    except (Exception, SystemExit) as error:
        raise AppError(
            f"module {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error


def _folder_of(module_name: str, beside: Path | None) -> Path | None:
    """Return the folder that holds a module, None if Python finds the module by itself."""
    if module_name in sys.modules:
        return None
    with suppress(ImportError, ValueError):
        if find_spec(module_name) is not None:
            return None
    folders = [Path.cwd(), *(beside.resolve().parents if beside is not None else ())]
    path = module_name.replace(".", "/")
    for folder in (each / sub for each in folders for sub in ("", "src")):
        if (folder / f"{path}.py").is_file() or (folder / path / "__init__.py").is_file():
            return folder
    return None


def interface_of(app: Any) -> Literal["asgi", "wsgi"]:
    """Return the interface of an app.

    Raises:
        AppError: It has neither.
    """
    call = app.func if isinstance(app, partial) else app
    if not inspect.isroutine(call):
        call = getattr(call, "__call__", None)  # noqa: B004  # the method itself is looked at
    if not inspect.isclass(app) and callable(app):
        if inspect.iscoroutinefunction(call):
            return "asgi"
        with suppress(ValueError, TypeError):
            positional = (
                inspect.Parameter.POSITIONAL_ONLY,
                inspect.Parameter.POSITIONAL_OR_KEYWORD,
            )
            required = [
                each
                for each in inspect.signature(app).parameters.values()
                if each.kind in positional and each.default is inspect.Parameter.empty
            ]
            if len(required) == 3:
                return "asgi"
            if len(required) == 2:
                return "wsgi"
    raise AppError(
        f"{app!r} is neither an ASGI nor a WSGI app. For a function that makes the app, write its call: "
        "'module:create_app()'"
    )


@contextmanager
def api_key_for_clients() -> Iterator[None]:
    """Set an API key that is not valid anywhere, unless there is one: apps make their clients with it."""
    if os.environ.get(_KEY):
        yield
        return
    os.environ[_KEY] = "nk_test"
    try:
        yield
    finally:
        os.environ.pop(_KEY, None)
