"""Trace and replay for any ASGI application. Imports no framework."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import NoukaiError
from ..session.context import active, current_scope
from ..session.opening import open_replay, requested_replay
from ..session.scope import capture_scope
from .asgi_messages import ASGIApp, Message, Receive, Send, send_answer, tagging
from .asgi_replay import HeldAnswer
from .responses import REPLAY_HEADER, refusal, require_client

if TYPE_CHECKING:
    from ..client import AsyncNoukai, Noukai
    from ..session.scope import Scope

_REPLAY = REPLAY_HEADER.lower().encode()
_MARK = "noukai.scope"


class NoukaiTraceMiddleware:
    """Runs every request, and every websocket connection, in a scope of its own.

    The answer carries ``X-Noukai-Session``. A request with ``X-Noukai-Replay: <session id>`` is
    served from that session where ``NOUKAI_REPLAY_ENABLED`` allows it. A request that arrives
    inside a scope (in a test, for example) and asks for no replay joins that scope.

    Args:
        app: The ASGI application to wrap.
        client: The client that fetches recorded sessions, sync or async.

    Raises:
        TypeError: ``client`` is no client.

    Example:
        >>> app = NoukaiTraceMiddleware(app, client=noukai)  # doctest: +SKIP
    """

    def __init__(self, app: ASGIApp, *, client: Noukai | AsyncNoukai) -> None:
        self.app = app
        self.client = require_client(client)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] not in ("http", "websocket") or _is_inside(scope):
            await self.app(scope, receive, send)
            return
        asked = _asked_for(scope)
        if asked is not None and await self._is_replayed(asked, scope, receive, send):
            return
        session = scope[_MARK] = current_scope() or capture_scope()
        with active(session):
            await self.app(scope, receive, tagging(send, session))

    async def _is_replayed(self, asked: str, scope: Message, receive: Receive, send: Send) -> bool:
        """Serve a connection that asks for a replay; False where the gate is closed."""
        wanted = None
        try:
            wanted = requested_replay(asked)
            if wanted is None:
                return False
            session = await open_replay(wanted, self.client)
        except NoukaiError as error:
            await _refuse(error, wanted.session_id if wanted else None, scope, receive, send)
        else:
            await self._replay(session, scope, receive, send)
        return True

    async def _replay(self, session: Scope, scope: Message, receive: Receive, send: Send) -> None:
        held = HeldAnswer(session, scope, receive, send)
        scope[_MARK] = session
        try:
            with active(session):
                await self.app(scope, held.receive, held.send)
        except Exception as error:  # noqa: BLE001  # conclude() raises it again or answers with it
            await held.conclude(error)
        else:
            await held.conclude(None)
        finally:
            session.end()


def _is_inside(scope: Message) -> bool:
    """True below another middleware of ours. The mark alone is not enough: it may be left over."""
    return _MARK in scope and current_scope() is not None


def _asked_for(scope: Message) -> str | None:
    for name, value in scope["headers"]:
        if name == _REPLAY:
            return bytes(value).decode("latin-1")
    return None


async def _refuse(
    error: NoukaiError, session_id: str | None, scope: Message, receive: Receive, send: Send
) -> None:
    if scope["type"] == "websocket":
        await receive()  # a handshake may only be answered once it was read
    await send_answer(refusal(error, session_id), scope, send)
