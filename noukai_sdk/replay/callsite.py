"""Where in the application a call was made."""

from __future__ import annotations

import sys
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
    return CallSite(code.co_filename, frame.f_lineno, code.co_name)
