"""The HTTP server of ``noukai dev`` and ``noukai serve``: the listening socket, and uvicorn on it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import uvicorn
from starlette.types import ASGIApp

from .connections import Connections, guarded_protocol
from .log_limits import limit_logs

# Connections that the operating system keeps for us until we accept them.
_BACKLOG = 2048


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on ``host`` and ``port``; port 0 picks a free one.

    Raises:
        OSError: The address is in use, not of this machine, or not allowed.
    """
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    # asyncio sets TCP_NODELAY only on sockets that name their protocol, and create_server names
    # none. Without it, each response on a kept-alive connection waits 40 ms for an ACK.
    kind = socket.SOCK_STREAM
    return socket.socket(family, kind, socket.IPPROTO_TCP, fileno=listener.detach())


def create_server(
    app: ASGIApp,
    *,
    grace: float,
    connections: Connections | None = None,
    after_startup: Callable[[], None] = lambda: None,
    before_shutdown: Callable[[], None] = lambda: None,
    handles_signals: bool = True,
) -> uvicorn.Server:
    """Return the server for ``app``; ``server.run(sockets=[listener])`` serves until a signal.

    Args:
        app: The backend, or middleware around it.
        grace: Seconds for calls in progress to end after the server is told to stop.
        connections: Counts and limits the open connections; by default with the default limits.
        after_startup: Called on the event loop when the server listens.
        before_shutdown: Called on the event loop when the server is told to stop.
        handles_signals: Stop at SIGINT and SIGTERM. If not, set ``server.should_exit``.
    """
    guard = connections or Connections()

    class Server(uvicorn.Server):
        def capture_signals(self) -> AbstractContextManager[None]:  # type: ignore[override]  # uvicorn's returns a generator's context
            return super().capture_signals() if handles_signals else nullcontext()

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            # asyncio has one number for the backlog, and for the connections to accept at once.
            for listener in sockets or ():
                listener.listen(_BACKLOG)
            if not self.should_exit:
                after_startup()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            before_shutdown()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=guarded_protocol(guard),
        log_level="warning",
        access_log=False,
        # There are no websocket routes: an upgrade request is answered like any other request.
        ws="none",
        backlog=guard.accept_batch,
        timeout_graceful_shutdown=round(grace),
        timeout_keep_alive=round(guard.limits.idle_seconds),
        # uvicorn trusts every client on loopback by default: one that guesses keys could name another
        # address with each request.
        proxy_headers="FORWARDED_ALLOW_IPS" in os.environ,
    )
    # uvicorn has set its loggers up by now. asyncio's reports that no file can be opened.
    limit_logs("uvicorn.error", "asyncio", "noukai_sdk.backend.connections")
    return Server(config)
