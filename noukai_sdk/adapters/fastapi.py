"""Trace and replay FastAPI applications.

::

    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)

To add the session header to unhandled 500s as well, use ``instrument(app, client=noukai)`` instead.
"""

from __future__ import annotations

from .responses import HEADER_REPLAY, HEADER_REPLAY_REPORT, HEADER_RESPONSE_SESSION
from .starlette import NoukaiTraceMiddleware, instrument

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
    "instrument",
]
