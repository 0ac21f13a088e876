"""Find where in the application a call was made."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from types import FrameType

from ..models.reports import CallSite

_PACKAGE = __name__.partition(".")[0] + "."


def call_site() -> CallSite | None:
    """Return the nearest frame outside of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return None
    code = frame.f_code
    return _site(code.co_filename, frame.f_lineno, code.co_name)


def warn_at(site: CallSite | None, text: str, category: type[Warning]) -> None:
    """Warn at a line of the application, from anywhere in this package."""
    site = site or CallSite("noukai_sdk", 0, "")
    warnings.warn_explicit(text, category, site.file, site.line)


# A program has few call sites, each used many times.
_site = lru_cache(maxsize=1024)(CallSite)
