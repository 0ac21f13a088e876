"""Observe the requests of an ASGI application, for ``capture_requests=``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import quote

from .captured import URL_CHARACTERS, Captured, CaptureRequests, Message, logger, origin_of


class AsgiCapture(Captured):
    """Observes a connection of an ASGI application: wrap ``receive`` and ``send`` in its methods."""

    def __init__(
        self,
        options: CaptureRequests,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        super().__init__(options)
        self._receive = receive
        self._send = send
        self._is_http = scope["type"] == "http"
        self.method = scope.get("method", "GET").upper()
        self.headers = _decoded(scope["headers"])
        self.origin = origin_of(scope.get("scheme", "http"), self.headers, scope.get("server"))
        raw = scope.get("raw_path") or b""
        path = bytes(raw).decode("latin-1").partition("?")[0]
        if not path.startswith("/"):
            root, rest = scope.get("root_path", ""), scope.get("path", "/")
            path = quote(rest if not root or rest.startswith(root) else root + rest)
        self.path = quote(path, URL_CHARACTERS)
        self.query = quote(bytes(scope.get("query_string", b"")).decode("latin-1"), URL_CHARACTERS)

    async def receive(self) -> Message:
        """Receive a message for the application."""
        message = await self._receive()
        kind = message["type"]
        if kind == "http.request":
            self.body.add(message.get("body") or b"")
            self.body.complete = not message.get("more_body", False)
        elif kind == "http.disconnect" and not self.response.complete:
            self.client_left = True
        return message

    def sending(self, send: Callable[[Message], Awaitable[None]]) -> Any:
        """Return a function that sends messages by ``send`` from now on, observed."""
        self._send = send
        return self.send

    async def send(self, message: Message) -> None:
        """Send a message of the application."""
        try:
            self._observe(message)
        except Exception:  # noqa: BLE001  # observing must not disturb the application
            logger.debug("a message was not captured", exc_info=True)
        await self._send(message)

    def _observe(self, message: Message) -> None:
        kind = message["type"].removeprefix("websocket.")
        if kind == "http.response.start":
            self.status = message["status"]
            self.response_headers = _decoded(message.get("headers", ()))
        elif kind == "http.response.body":
            self.response.add(message.get("body") or b"")
            # Middleware may end the response in order after its client has left.
            self.response.complete = not (self.client_left or message.get("more_body", False))
        elif kind == "http.response.pathsend":
            with open(message["path"], "rb") as file:  # noqa: PTH123
                self.response.add_file(file)
            self.response.complete = True
        elif kind == "http.response.zerocopysend":
            self.response.readable = False
            self.response.complete = not message.get("more_body", False)
        elif self.status is None and kind in ("accept", "close"):
            self.status = 101 if kind == "accept" else 403
            self.response_headers = _decoded(message.get("headers") or ())
            self.response.complete = True


def _decoded(headers: Iterable[Any]) -> list[tuple[str, str]]:
    return [
        (bytes(name).decode("latin-1").lower(), bytes(value).decode("latin-1"))
        for name, value in headers
    ]
