"""Makes ``env="dev"`` mean a backend on a free port, in processes that a test starts.

The real address has a fixed port, which somebody may hold, and no public setting changes it.
"""

from __future__ import annotations

import os
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def dev_environment(url: str) -> dict[str, str]:
    """The environment variables for it. ``url`` is the backend's base URL."""
    return {
        "NOUKAI_TEST_DEV_URL": url,
        "PYTHONPATH": f"{FOLDER}{os.pathsep}{FOLDER.parents[2]}",
        "NOUKAI_ENV": "dev",
        "NOUKAI_API_KEY": "nk_dev",
    }
