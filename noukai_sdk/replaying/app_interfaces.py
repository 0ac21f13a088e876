"""Send requests to an ASGI or WSGI app in this process, and start and stop an ASGI app."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, MutableMapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

import httpx

from ..models.exchanges import Exchange
from ..replay.resending import sent_again
from ..session.threads import detached
from .apps import AppError

Message = MutableMapping[str, Any]

_ASGI = {"version": "3.0", "spec_version": "2.3"}
# Seconds that an app may take to stop. One that takes longer is left behind.
_LONGEST_STOP = 10.0


@dataclass(frozen=True)
class AppResponse:
    """The response of an app.

    Attributes:
        failure: The exception that it raised, None if it raised none.
        client_left: The client left before the end of the response, as the captured client did.
    """

    response: httpx.Response
    failure: Exception | None
    client_left: bool = False


def resent_request(
    captured: Exchange, headers: Mapping[str, str] | None = None, body: str | bytes | None = None
) -> httpx.Request:
    """Return the captured request, to be sent again.

    Args:
        captured: The request, with its response.
        headers: Headers to add or to replace.
        body: The body to send instead of the captured one.

    Raises:
        CapturedRequestError: The capture holds only a part of the body, or the handshake of a websocket.
    """
    if body is not None:
        request = captured.request.model_copy(update={"body": None})
        captured = captured.model_copy(update={"request": request})
    again = sent_again(captured)
    sent = httpx.Headers(list(again.headers))
    sent.update(headers or {})
    content = again.content if body is None else body
    return httpx.Request(again.method, again.origin + again.target, headers=sent, content=content)


def size_of_part(captured: Exchange) -> int | None:
    """Return how many bytes of the body the captured client received, None if it received all."""
    body = captured.response.body
    return body.size if body is not None and not body.complete else None


class _ClientLeft(OSError):
    """The client has disconnected."""


class _Connection:
    """One request to an ASGI app, and its response."""

    def __init__(self, request: httpx.Request, enough: int | None) -> None:
        self._unread = [request.read()]
        self._enough = enough
        self._finished = asyncio.Event()
        self.left = False
        self.start: Message = {"status": 500, "headers": []}
        self.body = b""

    async def receive(self) -> Message:
        """Return the request's body, and then wait for the end."""
        if self._unread:
            return {"type": "http.request", "body": self._unread.pop(), "more_body": False}
        await self._finished.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message of the app."""
        if self.left:
            raise _ClientLeft("the client has disconnected")
        if message["type"] == "http.response.start":
            self.start = message
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.left = self._enough is not None and len(self.body) >= self._enough
            if self.left or not message.get("more_body", False):
                self._finished.set()


async def send_to_asgi(
    app: Any, request: httpx.Request, enough: int | None, state: Message
) -> AppResponse:
    """Send a request to an ASGI app. Its background tasks have ended on return.

    Args:
        app: The app, which :func:`started` has started.
        request: The request.
        enough: Leave as a client does that disconnects, after so many bytes of the body; None to read
            all of it.
        state: What the app has set up in its lifespan.
    """
    url = request.url
    connection = _Connection(request, enough)
    failure: Exception | None = None
    scope = {
        "type": "http",
        "asgi": dict(_ASGI),
        "http_version": "1.1",
        "method": request.method,
        "scheme": url.scheme,
        "path": url.path,
        "raw_path": url.raw_path.split(b"?")[0],
        "query_string": url.query,
        "root_path": "",
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 50000),
        "server": (url.host, url.port or (443 if url.scheme == "https" else 80)),
        "state": dict(state),
        "extensions": {},
    }
    try:
        await app(scope, connection.receive, connection.send)
    except _ClientLeft:
        pass
    except Exception as error:  # noqa: BLE001  # a server responds with 500
        failure = error
    response = httpx.Response(
        connection.start["status"],
        headers=list(connection.start.get("headers", ())),
        content=connection.body,
        request=request,
    )
    return AppResponse(response, failure, connection.left)


@asynccontextmanager
async def started(app: Any) -> AsyncIterator[Message]:
    """Start an ASGI app, if it has a lifespan, and stop it at the end. Yields the state of its requests.

    Raises:
        AppError: It does not start.
    """
    state: Message = {}
    phases: asyncio.Queue[Message] = asyncio.Queue()
    started, stopped = asyncio.Event(), asyncio.Event()
    replies: dict[str, str] = {}

    async def send(message: Message) -> None:
        _, phase, result = message["type"].split(".")
        replies[phase] = f"{result} {message.get('message', '')}"
        (started if phase == "startup" else stopped).set()

    async def run() -> None:
        # An app without a lifespan raises. One that failed to start has said so, and raises too.
        with suppress(Exception):
            await app({"type": "lifespan", "asgi": dict(_ASGI), "state": state}, phases.get, send)
        started.set()
        stopped.set()

    with detached():  # a worker that the app starts does not belong to the request
        task = asyncio.create_task(run())
    try:
        phases.put_nowait({"type": "lifespan.startup"})
        await started.wait()
        if replies.get("startup", "").startswith("failed"):
            problem = replies["startup"].removeprefix("failed").strip()
            raise AppError(f"the app does not start: {problem}")
        yield state
    finally:
        if replies.get("startup", "").startswith("complete"):
            phases.put_nowait({"type": "lifespan.shutdown"})
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stopped.wait(), _LONGEST_STOP)
        task.cancel()
        await asyncio.wait([task])


def send_to_wsgi(app: Any, request: httpx.Request, enough: int | None) -> AppResponse:
    """Send a request to a WSGI app, in this thread. The arguments are those of :func:`send_to_asgi`."""

    def with_encoded_path(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        # Bytes as Latin-1 characters, as in every server; httpx passes characters.
        path = unquote_to_bytes(request.url.raw_path.split(b"?")[0])
        environ["PATH_INFO"] = path.decode("latin-1")
        result: Iterable[bytes] = app(environ, start_response)
        return result

    failure: Exception | None = None
    response: httpx.Response | None = None
    left = False
    content = b""
    transport = httpx.WSGITransport(with_encoded_path, raise_app_exceptions=False)
    request.read()
    try:
        response = transport.handle_request(request)
        try:
            for part in response.stream:  # type: ignore[union-attr]  # a plain transport's is sync
                content += part
                if enough is not None and len(content) >= enough:
                    left = True
                    break
        finally:
            response.close()
    except Exception as error:  # noqa: BLE001  # a server responds with 500, or cuts the response
        failure = error
    return AppResponse(
        httpx.Response(
            response.status_code if response is not None else 500,
            headers=response.headers if response is not None else None,
            content=content,
            request=request,
        ),
        failure,
        left,
    )
