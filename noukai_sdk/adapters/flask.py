"""Trace and replay for Flask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..errors import ReplayError
from .responses import error_answer, require_client
from .wsgi import NoukaiTraceMiddleware

if TYPE_CHECKING:
    from flask import Flask, Response

    from ..client import AsyncNoukai, Noukai

__all__ = ["NoukaiTrace", "NoukaiTraceMiddleware", "init_noukai_trace"]

_NAME = "noukai_trace"


class NoukaiTrace:
    """The Flask extension.

    Every request of the application runs in a scope, every answer carries ``X-Noukai-Session``
    (an unhandled 500 too), and a ``ReplayError`` that a view raises becomes a JSON answer.

    Args:
        app: Traced at once where it is given; otherwise call :meth:`init_app`.
        client: The client that fetches recorded sessions, sync or async.

    Raises:
        TypeError: ``client`` is no client.

    Example:
        >>> noukai_trace = NoukaiTrace(client=noukai)      # doctest: +SKIP
        >>> def create_app() -> Flask:                     # doctest: +SKIP
        ...     app = Flask(__name__)
        ...     noukai_trace.init_app(app)
        ...     return app
    """

    def __init__(
        self, app: Flask | None = None, *, client: Noukai | AsyncNoukai | None = None
    ) -> None:
        self.client = None if client is None else require_client(client)
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask, *, client: Noukai | AsyncNoukai | None = None) -> None:
        """Trace ``app``. A second time for the same application does nothing.

        Args:
            app: The application.
            client: In place of the extension's own.

        Raises:
            TypeError: There is no client, or it is none of ours; or ``app`` is no Flask application.
        """
        if not hasattr(app, "wsgi_app"):
            raise TypeError(f"app must be a Flask application, not {app!r}")
        chosen = require_client(client if client is not None else self.client)
        if _NAME in app.extensions:
            return
        app.extensions[_NAME] = self
        app.register_error_handler(ReplayError, _answer(app))
        # Flask's own place for WSGI middleware is this attribute.
        app.wsgi_app = NoukaiTraceMiddleware(  # type: ignore[method-assign]  # as Flask documents it
            app.wsgi_app, client=chosen
        )


def init_noukai_trace(app: Flask, *, client: Noukai | AsyncNoukai) -> None:
    """Trace a Flask application: :class:`NoukaiTrace` in one call.

    Args:
        app: The application. A second time for the same one does nothing.
        client: The client that fetches recorded sessions, sync or async.

    Raises:
        TypeError: ``client`` is no client.

    Example:
        >>> app = Flask(__name__)                     # doctest: +SKIP
        >>> init_noukai_trace(app, client=noukai)     # doctest: +SKIP
    """
    NoukaiTrace(app, client=client)


def _answer(app: Flask) -> Callable[[ReplayError], Response]:
    def answer(error: ReplayError) -> Response:
        said = error_answer(error, report=error.report)
        return app.response_class(said.body, said.status, list(said.headers))

    return answer
