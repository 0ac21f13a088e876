"""The ``noukai`` command."""

from __future__ import annotations

import sys
from importlib.util import find_spec

# Where a package is not named like its module, or needs an extra of its own.
_PACKAGES = {"sqlalchemy": "'sqlalchemy[asyncio]'", "yaml": "pyyaml"}


def main() -> None:
    """Run the command line, or name the packages to install if it cannot run without them."""
    missing = missing_modules("click", "rich")
    if missing:
        packages = packages_to_install(*missing)
        sys.stderr.write(f"Error: noukai needs {', '.join(missing)}: pip install {packages}\n")
        sys.exit(2)
    from .commands import noukai

    # Under `python -m noukai_sdk.cli` too, and for the name of the variable for completion.
    noukai(prog_name="noukai")


def missing_modules(*modules: str) -> list[str]:
    """Return those of the modules that are not installed."""
    return [module for module in modules if find_spec(module) is None]


def packages_to_install(*modules: str) -> str:
    """Return the packages of the modules, as words for pip."""
    return " ".join(_PACKAGES.get(module, module) for module in modules)
