"""Decide which code a flow file may name: the user's own, not Python's and not that of packages.

A flow file alone must not be able to call ``os:system``, nor ``my_module:os.system`` because a module of
the user imports ``os``.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
import sysconfig
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

_HINT = (
    "a step can call functions of modules in the flow folder, or in the folder where the command runs; "
    "write one there that calls it"
)
_PACKAGES = re.compile(r"(^|/)((site|dist)-packages|lib(64)?/python\d[^/]*)/")


class CodeFolders:
    """The folders whose code a flow file may name: the flow folder and the current folder.

    What is installed below them is excluded, such as a virtual environment in the current folder.
    """

    def __init__(self, *folders: Path) -> None:
        with suppress(OSError):  # the current folder was deleted
            folders = (*folders, Path.cwd())
        self._folders = [folder.resolve() for folder in folders]
        names = ("stdlib", "platstdlib", "purelib", "platlib")
        installed = [Path(sysconfig.get_path(name)).resolve() for name in names]
        self._installed = [*installed, Path(__file__).resolve().parents[2]]

    def contains(self, path: Path) -> bool:
        """Return True if the file, with its links resolved, belongs to the user."""
        path = path.resolve()
        for folder in self._folders:
            # A flow folder may itself be inside of an installed package.
            if path.is_relative_to(folder) and not (
                _PACKAGES.search(path.relative_to(folder).as_posix())
                or any(
                    path.is_relative_to(installed)
                    for installed in self._installed
                    if installed.is_relative_to(folder)
                )
            ):
                return True
        return False

    def import_module(self, name: str) -> ModuleType:
        """Import a module of the user.

        Raises:
            ValueError: It is not in one of the folders, does not exist or fails.
        """
        try:
            # The import of a package runs its code, so each is checked before the next.
            for end in (*(match.start() for match in re.finditer(r"\.", name)), len(name)):
                spec = importlib.util.find_spec(name[:end])
                if spec is None:
                    raise ModuleNotFoundError(f"No module named {name[:end]!r}")
                if not self._has(spec):
                    raise NotAllowedError(f"{name[:end]} is not a module of this project: {_HINT}")
            return importlib.import_module(name)
        except NotAllowedError:
            raise
        except (Exception, SystemExit) as error:
            message = f"{name} cannot be imported: {type(error).__name__}: {error}"
            raise ValueError(message) from error

    def function_of(self, module: ModuleType, name: str) -> Callable[..., Any]:
        """Return a function of a module of the user, such as ``"clean"`` or ``"Mails.clean"``.

        Raises:
            ValueError: There is none, or the code of another module would be called.
        """
        value: Any = module
        for part in name.split("."):
            value = None if part.startswith("__") else getattr(value, part, None)
            if isinstance(value, ModuleType) and not self._has(value.__spec__):
                raise NotAllowedError(f"{name} is in {value.__name__}: {_HINT}")
        if not callable(value):
            raise ValueError(f"{module.__name__} has no function {name!r}")
        if not self._is_own(value, module):
            raise NotAllowedError(f"{name} is code of {_module_of(value)}: {_HINT}")
        return cast("Callable[..., Any]", value)

    def _has(self, spec: ModuleSpec | None) -> bool:
        if spec is None:
            return False
        if spec.has_location and spec.origin is not None:
            return self.contains(Path(spec.origin))
        # A folder without __init__.py. The modules in it are checked, too.
        return any(self.contains(Path(place)) for place in spec.submodule_search_locations or ())

    def _is_own(self, value: Any, module: ModuleType) -> bool:
        while isinstance(value, partial):
            value = value.func
        # By its code or by its module: a decorator may change one of them.
        code = getattr(value, "__code__", None)
        file = Path(getattr(code, "co_filename", ""))
        if file.is_file() and self.contains(file):
            return True
        owner = _module_of(value)
        return owner == module.__name__ or self._has(
            getattr(sys.modules.get(owner), "__spec__", None)
        )


class NotAllowedError(ValueError):
    """The code exists, but a flow file may not name it."""


def _module_of(value: Any) -> str:
    return str(getattr(value, "__module__", None) or "Python")
