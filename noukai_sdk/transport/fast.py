"""aiohttp where it is installed and the event loop is asyncio's, for the client and for local models."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

VARIABLE = "NOUKAI_FAST"
_OFF = frozenset({"0", "false", "no", "off"})


def is_on(*packages: str) -> bool:
    """These packages are installed, and ``NOUKAI_FAST=0`` does not switch this off."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _OFF and _are_installed(packages)


@cache
def _are_installed(packages: tuple[str, ...]) -> bool:
    return all(importlib.util.find_spec(name) for name in packages)
