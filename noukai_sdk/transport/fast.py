"""The switch for aiohttp under asyncio, which the client and the local models use if it is installed."""

from __future__ import annotations

import importlib.util
import os
from functools import cache

VARIABLE = "NOUKAI_FAST"
_OFF = frozenset({"0", "false", "no", "off"})


def is_on(*packages: str) -> bool:
    """Return whether these packages are installed, and ``NOUKAI_FAST=0`` does not switch them off."""
    return os.environ.get(VARIABLE, "").strip().lower() not in _OFF and _are_installed(packages)


@cache
def _are_installed(packages: tuple[str, ...]) -> bool:
    return all(importlib.util.find_spec(name) for name in packages)
