"""Send HTTP requests to an ASGI app of this process, and read responses while they are produced.

httpx's own ``ASGITransport`` returns a response when it is complete, so the stream of a run could not be
followed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message

logger = logging.getLogger("noukai_sdk.dashboard")

# Parts of a response that the app may be ahead of its reader.
_PARTS = 16
# Seconds for the app to end after its reader has left.
_GRACE = 5.0


class InProcessTransport(httpx.AsyncBaseTransport):
    """Sends requests to ``app``. The extension ``client`` is the address that they come from."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Return the response when its head is known; its body is a stream."""
        call = _Call(self._app, request, await request.aread())
        start = await call.next()
        assert start is not None, "ends with an exception before it is None"
        return httpx.Response(start["status"], headers=start["headers"], stream=_Body(call))


class _Call:
    """One request in a task of its own, with a queue of what the app sends."""

    def __init__(self, app: ASGIApp, request: httpx.Request, body: bytes) -> None:
        self._app = app
        self._body = body
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue(_PARTS)
        self._is_received = False
        self._reader_left = asyncio.Event()
        self._error: BaseException | None = None
        url = request.url
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": request.method,
            "scheme": url.scheme,
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower(), value) for name, value in request.headers.raw],
            "server": (url.host, url.port),
            "client": request.extensions.get("client"),
        }
        self._task = asyncio.ensure_future(self._run(scope))

    async def _run(self, scope: dict[str, Any]) -> None:
        try:
            await self._app(scope, self._receive, self._send)
        except Exception as error:
            # The app has responded with 500 if it could.
            logger.debug("the API failed", exc_info=True)
            self._error = error
        await self._send(None)

    async def _send(self, message: Message | None) -> None:
        if not self._reader_left.is_set():
            await self._sent.put(message)

    async def _receive(self) -> Message:
        if not self._is_received:
            self._is_received = True
            return {"type": "http.request", "body": self._body, "more_body": False}
        await self._reader_left.wait()
        return {"type": "http.disconnect"}

    async def next(self) -> Message | None:
        """Return what the app sends next, None at the end."""
        message = await self._sent.get()
        if message is None and self._error is not None:
            raise httpx.RemoteProtocolError("the API failed") from self._error
        return message

    async def aclose(self) -> None:
        """Tell the app that nobody reads any longer, and wait until it has ended."""
        self._reader_left.set()
        while not self._sent.empty():  # the app may wait for room
            self._sent.get_nowait()
        await asyncio.wait([self._task], timeout=_GRACE)
        self._task.cancel()


class _Body(httpx.AsyncByteStream):
    def __init__(self, call: _Call) -> None:
        self._call = call

    async def __aiter__(self) -> AsyncIterator[bytes]:
        # To the end of the app, not of the body: what it does last must not be cut off.
        while (message := await self._call.next()) is not None:
            yield message.get("body", b"")

    async def aclose(self) -> None:
        await self._call.aclose()
