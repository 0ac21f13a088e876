"""Load the public names of a package when they are first used (PEP 562)."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def attach(
    package: str, file: str, *, renamed: Mapping[str, str] | None = None
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` for a package whose stub lists its names.

    The stub ``__init__.pyi`` is the only place that lists them, one per line, as type checkers read it:
    ``from .module import Name as Name``.

    Args:
        package: The ``__name__`` of the package.
        file: The ``__file__`` of the package.
        renamed: The new names of public names that are deprecated. They load with a DeprecationWarning.
    """
    new_names = renamed or {}
    homes: dict[str, str] = {}
    # The loader reads files in a zip archive too.
    stub: bytes = sys.modules[package].__spec__.loader.get_data(file.rpartition(".py")[0] + ".pyi")  # type: ignore[union-attr]  # a file of the package has both
    for line in stub.decode().splitlines():
        if line.startswith("from ."):
            _, module, _, name, *_ = line.split()
            homes[name] = module

    def load(name: str) -> Any:
        if name in new_names:
            import warnings

            text = (
                f"{package}.{name} is now {new_names[name]}; the old name goes in the next release"
            )
            warnings.warn(text, DeprecationWarning, stacklevel=2)
            return getattr(sys.modules[package], new_names[name])
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    def list_names() -> list[str]:
        return sorted(homes)

    return load, list_names, list(homes)
