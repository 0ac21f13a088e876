"""Run an ASGI application without a server, and collect the messages that it sends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import anyio

Message = dict[str, Any]


def http_scope(path: str = "/", *, replay: str | None = None, method: str = "GET") -> Message:
    headers = [(b"host", b"test")]
    if replay is not None:
        headers.append((b"x-noukai-replay", replay.encode("latin-1")))
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": headers,
        "server": ("test", 80),
        "client": ("127.0.0.1", 1234),
    }


def websocket_scope(path: str = "/", *, replay: str | None = None, denial: bool = True) -> Message:
    scope = http_scope(path, replay=replay)
    extensions: dict[str, Any] = {"websocket.http.response": {}} if denial else {}
    return {**scope, "type": "websocket", "scheme": "ws", "extensions": extensions}


class Connection:
    """One connection to ``app``. ``sent`` are the messages of the application so far."""

    def __init__(self, app: Any, scope: Message, incoming: Iterable[Message] = ()) -> None:
        self.app = app
        self.scope = scope
        self.sent: list[Message] = []
        self.incoming = list(incoming)
        if scope["type"] == "http" and not self.incoming:
            self.incoming = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive(self) -> Message:
        if not self.incoming:
            await anyio.sleep_forever()
        return self.incoming.pop(0)

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def run(self) -> Connection:
        with anyio.fail_after(20):
            await self.app(self.scope, self.receive, self.send)
        return self

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.sent]

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def headers(self) -> dict[str, str]:
        pairs = [(name.decode(), value.decode()) for name, value in self.sent[0]["headers"]]
        assert len(pairs) == len(dict(pairs)), f"duplicate header: {pairs}"
        return dict(pairs)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)
