"""Python files that flows use: functions of steps, and modules that contain a whole workflow."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from .allowed_code import CodeFolders, NotAllowedError


class PythonFileError(ValueError):
    """A module cannot be loaded; ``line`` is the line in its file, None if it is not known."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class FunctionLoader:
    """Loads functions by ``package.module:name``, or ``_file.py:name`` beside the flow file.

    Args:
        directory: The folder of the flow file.
        root: The flow folder. Steps can call code in it and in the current folder, and no other.
        frozen: The texts of the files beside it, by name, if the flow was published; None reads the
            files.

    Attributes:
        sources: The files that were loaded so far. The flow must be read again if one changes.
        texts: Their texts, by the name that the flow has for them.
    """

    def __init__(
        self, directory: Path, root: Path, frozen: Mapping[str, str] | None = None
    ) -> None:
        self.sources: list[Path] = []
        self.texts: dict[str, str] = {}
        self._directory = directory
        self._frozen = frozen
        self._folders = CodeFolders(root)

    def __call__(self, name: str) -> Callable[..., Any]:
        """Return the function.

        Raises:
            ValueError: There is no such function; the message says why.
        """
        module_name, _, function_name = name.partition(":")
        if not function_name:
            raise ValueError(f"write 'module:function' or '_file.py:function', not {name!r}")
        if module_name.endswith(".py"):
            path = self._directory / module_name
            if self._frozen is None and not self._folders.contains(path):
                raise NotAllowedError(f"{module_name} is not in the flow folder")
            self.sources.append(path)
            text = read_source(path) if self._frozen is None else self._frozen[module_name]
            self.texts[module_name] = text
            module = load_source(path, text)
        else:
            module = self._folders.import_module(module_name)
        return self._folders.function_of(module, function_name)


def read_source(path: Path) -> str:
    """Return the text of a Python file.

    Raises:
        PythonFileError: The file does not exist, or its encoding is not valid.
    """
    if not path.is_file():
        raise PythonFileError(f"{path.name} does not exist")
    try:
        return importlib.util.decode_source(path.read_bytes())
    except (SyntaxError, UnicodeDecodeError) as error:
        message = f"{path.name} fails: {type(error).__name__}: {error}"
        raise PythonFileError(message, _line_of(error, path)) from error


def load_source(path: Path, text: str) -> ModuleType:
    """Run the text of a Python file and return it as a module that is not kept in ``sys.modules``.

    Raises:
        PythonFileError: It fails.
    """
    name = f"noukai_flow_{abs(hash(path))}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a name that ends in .py has one
    module = importlib.util.module_from_spec(spec)
    # Dataclasses and pydantic look their module up while it runs.
    sys.modules[name] = module
    try:
        # Not by an import: its bytecode cache compares times in whole seconds.
        exec(compile(text, str(path), "exec"), module.__dict__)  # noqa: S102 - the user's code
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
