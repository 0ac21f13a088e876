"""The HTTP server of ``noukai dev`` and ``noukai serve``: the listening socket, and uvicorn on it."""

from __future__ import annotations

import socket
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

# Seconds until an idle connection is closed: longer than clients keep theirs (httpx 5, aiohttp 15),
# so that no client sends a request on a connection that is being closed.
_KEEP_ALIVE = 75


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 picks a free one.

    Raises:
        OSError: The address is in use, not of this machine, or not allowed.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((host, port), family=family, backlog=2048)
    # asyncio sets TCP_NODELAY only on sockets that name their protocol, and create_server names
    # none. Without it, each response on a kept-alive connection waits 40 ms for an ACK.
    kind = socket.SOCK_STREAM
    return socket.socket(family, kind, socket.IPPROTO_TCP, fileno=listener.detach())


def create_server(
    app: ASGIApp, *, grace: float, before_shutdown: Callable[[], None] = lambda: None
) -> uvicorn.Server:
    """Return the server for ``app``; ``server.run(sockets=[listener])`` serves until a signal.

    Args:
        app: The backend, or middleware around it.
        grace: Seconds for calls in progress to end after the server is told to stop.
        before_shutdown: Called on the event loop when the server is told to stop.
    """

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            before_shutdown()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        # There are no websocket routes: an upgrade request is answered like any other request.
        ws="none",
        timeout_graceful_shutdown=round(grace),
        timeout_keep_alive=_KEEP_ALIVE,
    )
    return Server(config)
