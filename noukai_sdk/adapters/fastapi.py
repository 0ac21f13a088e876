"""Trace and replay FastAPI applications.

::

    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)

``instrument(app, client=noukai)`` puts it around all other middleware.
"""

from __future__ import annotations

from .responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
)
from .starlette import NoukaiTraceMiddleware, instrument

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_ID",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
    "instrument",
]
