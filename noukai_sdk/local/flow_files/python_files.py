"""Python files that flows use: functions of steps, and modules that contain a whole workflow."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast


class PythonFileError(ValueError):
    """A module cannot be loaded; ``line`` is the line in its file, None if it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class FunctionLoader:
    """Loads functions by ``package.module:name``, or ``_file.py:name`` beside the flow file.

    Attributes:
        sources: The files that were loaded so far. The flow must be read again if one changes.
    """

    def __init__(self, directory: Path) -> None:
        self.sources: list[Path] = []
        self._directory = directory

    def __call__(self, name: str) -> Callable[..., Any]:
        """Return the function.

        Raises:
            ValueError: There is no such function; the message says why.
        """
        module_name, _, function_name = name.partition(":")
        if not function_name:
            raise ValueError(f"write 'module:function' or '_file.py:function', not {name!r}")
        value: Any
        if module_name.endswith(".py"):
            self.sources.append(self._directory / module_name)
            value = load_file(self._directory / module_name)
        else:
            try:
                value = importlib.import_module(module_name)
            except (Exception, SystemExit) as error:
                message = f"{module_name} cannot be imported: {type(error).__name__}: {error}"
                raise ValueError(message) from error
        for part in function_name.split("."):
            value = getattr(value, part, None)
        if not callable(value):
            raise ValueError(f"{module_name} has no function {function_name!r}")
        return cast("Callable[..., Any]", value)


def load_file(path: Path) -> ModuleType:
    """Run a Python file and return it as a module that is not kept in ``sys.modules``.

    Raises:
        PythonFileError: The file does not exist, or fails.
    """
    name = f"noukai_flow_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PythonFileError(f"{path.name} does not exist")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their module up while it runs.
    sys.modules[name] = module
    try:
        # Not by the spec's loader: its bytecode cache compares times in whole seconds.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - the user's
    except (Exception, SystemExit) as error:
        message = f"{path.name} fails: {type(error).__name__}: {error}"
        raise PythonFileError(message, _line_of(error, path)) from error
    finally:
        del sys.modules[name]
    return module


def _line_of(error: BaseException, path: Path) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
