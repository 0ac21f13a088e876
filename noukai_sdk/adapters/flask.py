"""Trace and replay Flask applications."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import ReplayError
from .captured import capture_options
from .responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
    error_response,
    require_client,
)
from .wsgi import NoukaiTraceMiddleware

if TYPE_CHECKING:
    from flask import Flask, Response

    from ..client import AsyncNoukai, Noukai
    from .captured import CaptureOption

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_ID",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTrace",
    "NoukaiTraceMiddleware",
    "init_noukai_trace",
]

_NAME = "noukai_trace"


class NoukaiTrace:
    """The Flask extension.

    Every request of the application runs in its own scope, every response carries
    ``X-Noukai-Session`` (an unhandled 500 too), and a ``ReplayError`` that a view raises becomes a
    JSON response.

    Args:
        app: The application to trace at once. Without it, call :meth:`init_app` later.
        client: The client that fetches recorded sessions, sync or async.
        carry_threads: Carry the scope into threads and thread pools; see
            :func:`noukai_sdk.carry_threads`.
        capture_requests: Store each captured request and its response with its session; as for
            :class:`~noukai_sdk.adapters.wsgi.NoukaiTraceMiddleware`.

    Raises:
        TypeError: ``client`` is not a client.

    Example:
        >>> noukai_trace = NoukaiTrace(client=noukai)      # doctest: +SKIP
        >>> def create_app() -> Flask:                     # doctest: +SKIP
        ...     app = Flask(__name__)
        ...     noukai_trace.init_app(app)
        ...     return app
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        client: Noukai | AsyncNoukai | None = None,
        carry_threads: bool = True,
        capture_requests: CaptureOption = False,
    ) -> None:
        self.carry_threads = carry_threads
        self.capture_requests = capture_options(capture_requests)
        self.client = None if client is None else require_client(client)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, *, client: Noukai | AsyncNoukai | None = None) -> None:
        """Trace ``app``. A second call for the same application does nothing.

        Args:
            app: The application.
            client: Replaces the extension's own client.

        Raises:
            TypeError: There is no valid client, or ``app`` is not a Flask application.
        """
        if not hasattr(app, "wsgi_app"):
            raise TypeError(f"app must be a Flask application, not {app!r}")
        chosen = require_client(client if client is not None else self.client)
        if _NAME in app.extensions:
            return
        app.extensions[_NAME] = self

        def respond(error: ReplayError) -> Response:
            response = error_response(error, report=error.report)
            return app.response_class(response.body, response.status, list(response.headers))

        app.register_error_handler(ReplayError, respond)
        # Flask's documented place for WSGI middleware is this attribute.
        app.wsgi_app = NoukaiTraceMiddleware(  # type: ignore[method-assign]  # see above
            app.wsgi_app,
            client=chosen,
            carry_threads=self.carry_threads,
            capture_requests=self.capture_requests or False,
        )


def init_noukai_trace(
    app: Flask,
    *,
    client: Noukai | AsyncNoukai,
    carry_threads: bool = True,
    capture_requests: CaptureOption = False,
) -> None:
    """Trace a Flask application: :class:`NoukaiTrace` in one call.

    Args:
        app: The application. A second call for the same one does nothing.
        client: The client that fetches recorded sessions, sync or async.
        carry_threads: Carry the scope into threads and thread pools; see
            :func:`noukai_sdk.carry_threads`.
        capture_requests: Store each captured request and its response with its session; as for
            :class:`~noukai_sdk.adapters.wsgi.NoukaiTraceMiddleware`.

    Raises:
        TypeError: ``client`` is not a client.

    Example:
        >>> app = Flask(__name__)                     # doctest: +SKIP
        >>> init_noukai_trace(app, client=noukai)     # doctest: +SKIP
    """
    NoukaiTrace(app, client=client, carry_threads=carry_threads, capture_requests=capture_requests)
