"""Trace and replay for FastAPI.

::

    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)

or, where unhandled 500s are to carry the session header as well, ``instrument(app, client=noukai)``.
"""

from __future__ import annotations

from .starlette import NoukaiTraceMiddleware, instrument

__all__ = ["NoukaiTraceMiddleware", "instrument"]
