"""Trace and replay for any WSGI application. Imports no framework."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import NoukaiError
from ..session.context import context_with, current_scope
from ..session.opening import open_replay_sync, requested_replay
from ..session.scope import capture_scope
from .responses import REPLAY_HEADER, refusal, require_client
from .wsgi_messages import ScopedBody, is_file, send_answer, tagging
from .wsgi_replay import replayed

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from ..client import AsyncNoukai, Noukai

_REPLAY = "HTTP_" + REPLAY_HEADER.upper().replace("-", "_")
_MARK = "noukai.scope"


class NoukaiTraceMiddleware:
    """Runs every request in a scope of its own, the steps of its body included.

    The application, its body and its ``close()`` run in one copy of the thread's context, so that
    nothing that they set there reaches the thread's next request.

    The answer carries ``X-Noukai-Session``. A request with ``X-Noukai-Replay: <session id>`` is
    served from that session where ``NOUKAI_REPLAY_ENABLED`` allows it. A request that arrives
    inside a scope (in a test, for example) and asks for no replay joins that scope.

    Args:
        app: The WSGI application to wrap.
        client: The client that fetches recorded sessions, sync or async.

    Raises:
        TypeError: ``client`` is no client.

    Example:
        >>> app.wsgi_app = NoukaiTraceMiddleware(app.wsgi_app, client=noukai)  # doctest: +SKIP
    """

    def __init__(self, app: WSGIApplication, *, client: Noukai | AsyncNoukai) -> None:
        self.app = app
        self.client = require_client(client)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        if _MARK in environ and current_scope() is not None:
            return self.app(environ, start_response)  # below another middleware of ours
        asked = environ.get(_REPLAY)
        if asked is not None:
            body = self._replayed(asked, environ, start_response)
            if body is not None:
                return body
        session = environ[_MARK] = current_scope() or capture_scope()
        context = context_with(session)
        body = context.run(self.app, environ, tagging(start_response, session))
        # A list runs no code of the application, and servers look at its length.
        if type(body) is list or is_file(body, environ):
            return body
        return ScopedBody(body, context)

    def _replayed(
        self, asked: str, environ: WSGIEnvironment, start_response: StartResponse
    ) -> Iterable[bytes] | None:
        """Serve a request that asks for a replay; None where the gate is closed."""
        wanted = None
        try:
            wanted = requested_replay(asked)
            if wanted is None:
                return None
            session = open_replay_sync(wanted, self.client)
        except NoukaiError as error:
            refused = refusal(error, wanted.session_id if wanted else None)
            return send_answer(refused, environ, start_response)
        environ[_MARK] = session
        return replayed(self.app, session, environ, start_response)
