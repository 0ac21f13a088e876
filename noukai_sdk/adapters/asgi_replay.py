"""Hold an application's answer back until it is known whether the replay went well."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .asgi_messages import STARTS, Message, Receive, Send, raw, send_answer, tagged
from .responses import session_headers, verdict

if TYPE_CHECKING:
    from ..session.scope import Scope

_ABNORMAL_CLOSURE = 1006


class HeldAnswer:
    """What an application sends during a replay.

    Nothing goes out before the application has ended, or sends a second part with content: from
    there on it is a stream, which goes through part by part. A websocket's handshake goes out at
    once, because the connection goes both ways from there.

    Args:
        session: The replay.
        scope, receive, send: The connection's own.
    """

    def __init__(self, session: Scope, scope: Message, receive: Receive, send: Send) -> None:
        self._session = session
        self._scope = scope
        self._receive = receive
        self._send = send
        self._held: list[Message] = []
        self._status: int | None = None
        self._has_content = False
        self._released = False
        self._complete = False
        self._client_left = False

    async def receive(self) -> Message:
        """The application's ``receive``."""
        if self._complete and not self._released and self._scope["type"] == "http":
            # The server's word for the end of an answer, which it does not have yet: it would
            # never come.
            return {"type": "http.disconnect"}
        message = await self._receive()
        # After a complete answer a disconnect is only the server's word for the end.
        if message["type"] == "http.disconnect" and not (self._released and self._complete):
            self._client_left = True
        elif message["type"] == "websocket.disconnect":
            self._client_left = message.get("code") == _ABNORMAL_CLOSURE
        return message

    async def send(self, message: Message) -> None:
        """The application's ``send``."""
        if not self._released and not self._can_wait(message):
            await self._release()
        if message["type"].endswith("http.response.start"):
            self._status = message["status"]
        if message["type"].endswith("http.response.body"):
            self._complete = not message.get("more_body", False)
        if self._released:
            await self._pass(message)
        else:
            self._held.append(message)

    def _can_wait(self, message: Message) -> bool:
        if "http.response." not in message["type"]:
            return False
        # Servers may offer to send a file by its path or handle; an empty part carries nothing.
        is_content = bool(message.get("body") or "path" in message or "file" in message)
        is_second = is_content and self._has_content
        self._has_content = self._has_content or is_content
        return not is_second

    async def _release(self) -> None:
        self._released = True
        for message in self._held:
            await self._pass(message)

    async def _pass(self, message: Message) -> None:
        if message["type"] in STARTS:
            message = tagged(message, raw(session_headers(self._session)))
        await self._send(message)

    async def conclude(self, failure: Exception | None) -> None:
        """End the replay: let the answer out, or answer with what went wrong.

        Args:
            failure: What the application raised; raised again, unless it is the replay's own error
                and could be answered.
        """
        if not self._client_left:
            answer = verdict(self._session, failure, self._status)
            if answer is not None and not self._released:
                await send_answer(answer, self._scope, self._send)
                return
            # A broken answer is left to the layers outside: they have sent nothing yet.
            if not self._released and (failure is None or self._complete):
                await self._release()
        if failure is not None:
            raise failure
