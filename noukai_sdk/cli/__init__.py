"""The ``noukai`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or name the package to install if the extra ``cli`` is missing."""
    try:
        from .commands import noukai

        noukai()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        sys.exit(f"noukai needs {missing}: pip install 'noukai-sdk[cli]'")
