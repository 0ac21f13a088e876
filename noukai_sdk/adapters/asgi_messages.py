"""ASGI's words: the types, the session's headers on a message, a whole answer as messages."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from .responses import REPORT_HEADER, SESSION_HEADER, session_headers

if TYPE_CHECKING:
    from ..session.scope import Scope
    from .responses import Answer

# The specification's own types: a message holds values of any type.
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGIApp = Callable[[Message, Receive, Send], Awaitable[None]]
RawHeader = tuple[bytes, bytes]

STARTS = frozenset({"http.response.start", "websocket.accept", "websocket.http.response.start"})
_OURS = frozenset({SESSION_HEADER.lower().encode(), REPORT_HEADER.lower().encode()})


def raw(headers: Iterable[tuple[str, str]]) -> list[RawHeader]:
    """Headers as ASGI wants them."""
    return [(name.lower().encode(), value.encode()) for name, value in headers]


def tagged(start: Message, headers: Iterable[RawHeader]) -> Message:
    """``start`` with our headers, in place of any that it brings: a gateway may pass another's on.

    A new message, because an application may send one and the same object every time.
    """
    kept = [header for header in start.get("headers", ()) if header[0].lower() not in _OURS]
    return {**start, "headers": [*kept, *headers]}


def tagging(send: Send, session: Scope) -> Send:
    """``send`` with the session's header on what starts an answer."""
    headers = raw(session_headers(session))

    # Not async: it hands on the server's own awaitable, which saves a coroutine a message.
    def send_tagged(message: Message) -> Awaitable[None]:
        return send(tagged(message, headers) if message["type"] in STARTS else message)

    return send_tagged


async def send_answer(answer: Answer, scope: Message, send: Send) -> None:
    """Send a whole answer, to a websocket handshake too."""
    prefix = ""
    if scope["type"] == "websocket":
        if "websocket.http.response" not in (scope.get("extensions") or ()):
            await send({"type": "websocket.close", "code": 1008})
            return
        prefix = "websocket."
    start = {"type": prefix + "http.response.start", "status": answer.status}
    await send({**start, "headers": raw(answer.headers)})
    await send({"type": prefix + "http.response.body", "body": answer.body})
