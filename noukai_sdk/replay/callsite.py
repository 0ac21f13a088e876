"""Where in the application a call was made."""

from __future__ import annotations

import sys
import warnings
from functools import lru_cache
from types import FrameType

from ..models.reports import CallSite

_PACKAGE = __name__.partition(".")[0] + "."


def call_site() -> CallSite | None:
    """The nearest frame outside of this package."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    if frame is None:
        return None
    code = frame.f_code
    return _site(code.co_filename, frame.f_lineno, code.co_name)


def warn_at(site: CallSite | None, text: str, category: type[Warning]) -> None:
    """Warn of the application's line, whichever of ours found out."""
    where = site or CallSite("noukai_sdk", 0, "")
    warnings.warn_explicit(text, category, where.file, where.line)


# A program calls from few places, many times each.
_site = lru_cache(maxsize=1024)(CallSite)
