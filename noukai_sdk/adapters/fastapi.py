"""Trace and replay FastAPI applications.

::

    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)

To add the session header to unhandled 500s as well, use ``instrument(app, client=noukai)`` instead.
"""

from __future__ import annotations

from .starlette import NoukaiTraceMiddleware, instrument

__all__ = ["NoukaiTraceMiddleware", "instrument"]
