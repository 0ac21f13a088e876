"""The ``noukai`` command."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line. Says what to install where the extra ``cli`` is missing."""
    try:
        from .commands import noukai
    except ModuleNotFoundError as error:
        if error.name not in ("click", "rich"):
            raise
        sys.exit(f"noukai needs {error.name}: pip install 'noukai-sdk[cli]'")
    noukai()
