"""Python that flow files name: functions of steps, and modules that hold a whole workflow."""

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
    """A module that cannot be loaded; ``line`` is where in its file, as far as that is known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class FunctionLoader:
    """Finds functions by ``package.module:name``, or ``_file.py:name`` beside the flow file.

    Attributes:
        sources: The files that were loaded so far: where one changes, the flow is read again.
    """

    def __init__(self, directory: Path) -> None:
        self.sources: list[Path] = []
        self._directory = directory

    def __call__(self, name: str) -> Callable[..., Any]:
        """The function.

        Raises:
            ValueError: There is none of that name; the message says what is wrong.
        """
        module_name, _, function_name = name.partition(":")
        if not function_name:
            raise ValueError(f"write 'module:function' or '_file.py:function', not {name!r}")
        found: Any = self._module(module_name)
        for part in function_name.split("."):
            found = getattr(found, part, None)
        if not callable(found):
            raise ValueError(f"{module_name} has no function {function_name!r}")
        return cast("Callable[..., Any]", found)

    def _module(self, name: str) -> ModuleType:
        if name.endswith(".py"):
            self.sources.append(self._directory / name)
            return load_file(self._directory / name)
        try:
            return importlib.import_module(name)
        except (Exception, SystemExit) as error:
            raise ValueError(f"{name} cannot be imported: {_told(error)}") from error


def load_file(path: Path) -> ModuleType:
    """Run a Python file, and give it as a module that nobody else sees.

    Raises:
        PythonFileError: It is not there, or fails.
    """
    name = f"noukai_flow_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise PythonFileError(f"{path.name} is not there")
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their module up while it is being run.
    sys.modules[name] = module
    try:
        # Not by the loader: its bytecode cache trusts a file's whole seconds.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)  # noqa: S102 - the user's
    except (Exception, SystemExit) as error:
        raise PythonFileError(f"{path.name} fails: {_told(error)}", _line(error, path)) from error
    finally:
        del sys.modules[name]
    return module


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _line(error: BaseException, path: Path) -> int | None:
    if isinstance(error, SyntaxError):
        return error.lineno
    frames = traceback.extract_tb(error.__traceback__)
    return next((frame.lineno for frame in reversed(frames) if frame.filename == str(path)), None)
