"""Limit the open connections of the server, and how long a connection may take.

uvicorn closes idle connections, but waits without end for the rest of a header and for a client that
does not read its response. The protocol of this module is uvicorn's own with these timeouts, and with a
cap on connections. When the cap is reached, a new connection replaces one that waits for its client, so
a flood of idle connections does not keep good clients out.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

if TYPE_CHECKING:
    # Both protocols of uvicorn have the attributes that are used here.
    from uvicorn.protocols.http.h11_impl import H11Protocol as _Base
else:
    _Base = AutoHTTPProtocol

logger = logging.getLogger("noukai_sdk.backend.connections")

_MOST_FILES = 1024 * 1024
# Files that are not connections of clients: the database, models, flow files, the standard streams.
_OTHER_FILES = 128
_BODY = b'{"detail":{"code":"OVERLOADED","message":"too many connections; try again in a second"}}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\n"
    b"Connection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


@dataclass(frozen=True)
class ConnectionLimits:
    """The limits for connections.

    Attributes:
        max_connections: How many may be open at once. Fewer if the process may not open as many files.
        header_seconds: From the connection, or from the first byte of a further request, to the end of
            the header.
        idle_seconds: Between two requests. Longer than clients keep their connections (httpx 5,
            aiohttp 15), so that no client sends a request on a connection that is being closed.
        stalled_seconds: How long a client may leave the server's data unread.
    """

    max_connections: int = 4096
    header_seconds: float = 10.0
    idle_seconds: float = 75.0
    stalled_seconds: float = 60.0


def raise_file_limit() -> int | None:
    """Let this process open as many files as the system allows; return how many, None if unknown."""
    if sys.platform == "win32":
        return None
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, _MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        # macOS reports no limit, and refuses more than one that it does not report.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@dataclass
class Connections:
    """The open connections of a server.

    Attributes:
        limits: Their limits.
        cap: How many may be open, with room for the other files of the process.
        accept_batch: How many to accept at once.
        open: How many are open.
        dropped: How many were closed for a new one.
        refused: How many new ones were refused, because every other had a request in progress.
    """

    limits: ConnectionLimits = field(default_factory=ConnectionLimits)
    open: int = 0
    dropped: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        self.cap = self.limits.max_connections
        files = raise_file_limit()
        others = _OTHER_FILES if files is None else min(_OTHER_FILES, files // 2)
        if files is not None:
            self.cap = max(1, min(self.cap, files - others))
        # asyncio accepts connections some steps before we are asked, and closes some steps after we have
        # said so. If it meets the limit for files, it accepts none for a second.
        self.accept_batch = max(1, others // 8)
        # Connections that wait for their client, the longest-waiting first: for a whole request, and for
        # the next request.
        self._receiving: dict[GuardedProtocol, None] = {}
        self._idle: dict[GuardedProtocol, None] = {}
        self._addresses: Counter[str] = Counter()

    def add(self, connection: GuardedProtocol, address: str) -> bool:
        """Count a new connection; return False if there is no room for it."""
        if self.open >= self.cap and not self._drop_one():
            self.refused += 1
            logger.warning("a connection was refused: all %d have a request in progress", self.cap)
            return False
        self.open += 1
        self._addresses[address] += 1
        self._receiving[connection] = None
        return True

    def remove(self, connection: GuardedProtocol, address: str) -> None:
        """Forget a connection that is closed."""
        self.open -= 1
        self._addresses[address] -= 1
        if not self._addresses[address]:
            del self._addresses[address]
        self.note_busy(connection)

    def note_receiving(self, connection: GuardedProtocol) -> None:
        """Note that the client has sent a part of a request."""
        self._idle.pop(connection, None)
        self._receiving.setdefault(connection)

    def note_idle(self, connection: GuardedProtocol) -> None:
        """Note that the client has its response."""
        self._receiving.pop(connection, None)
        self._idle.pop(connection, None)
        self._idle[connection] = None

    def note_busy(self, connection: GuardedProtocol) -> None:
        """Note that the client does not keep the server waiting."""
        self._receiving.pop(connection, None)
        self._idle.pop(connection, None)

    def _drop_one(self) -> bool:
        """Close a connection that waits for its client: the first of the address that has the most.

        One that has not sent a whole request goes before one that may send its next at any moment.
        """
        waiting = self._receiving or self._idle
        if not waiting:
            return False
        most = max(self._addresses.values())
        # Behind a proxy, all have its address.
        chosen = next((c for c in waiting if self._addresses[c.address] == most), None)
        (chosen or next(iter(waiting))).drop()
        self.dropped += 1
        logger.warning("%d connections are open: one that sent nothing was closed", self.cap)
        return True


class GuardedProtocol(_Base):
    """uvicorn's protocol for one connection, with the limits of :class:`Connections`.

    Subclass it with ``guard`` set, see :func:`guarded_protocol`.
    """

    guard: Connections
    address = ""
    _is_open = False
    _header_timer: asyncio.TimerHandle | None = None
    _stalled_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # a server's transport is one of streams
        """Accept the connection, or refuse it if there are too many."""
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        super().connection_made(transport)
        if not self.guard.add(self, self.address):
            transport.write(_REFUSAL)
            transport.close()
            return
        self._is_open = True
        self._wait_for_header()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._forget()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Pass the data on, and note what the connection waits for."""
        super().data_received(data)
        if not self._is_open or self.transport.is_closing():
            return
        if self.cycle is None or self.cycle.response_complete:
            self.guard.note_receiving(self)
            self._wait_for_header()
            return
        self._cancel_header_timer()
        if self.cycle.more_body:
            self.guard.note_receiving(self)
        else:
            self.guard.note_busy(self)

    def on_response_complete(self) -> None:
        """Let the connection wait for its next request."""
        if self._is_open:
            self.guard.note_idle(self)
        super().on_response_complete()
        # A pipelined request may have begun.
        if self._is_open and not self.cycle.response_complete:
            self.guard.note_busy(self)

    def pause_writing(self) -> None:
        """Close the connection if its client does not read for a long time."""
        super().pause_writing()
        if self._is_open and self._stalled_timer is None:
            self._stalled_timer = self.loop.call_later(
                self.guard.limits.stalled_seconds, self.transport.abort
            )

    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        self._cancel_stalled_timer()

    def drop(self) -> None:
        """Close the connection at once, and make room for another."""
        self._forget()
        self.transport.abort()

    def _wait_for_header(self) -> None:
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(
                self.guard.limits.header_seconds, self._header_is_late
            )

    def _header_is_late(self) -> None:
        # Without a response: many have sent nothing, and expect none.
        self._header_timer = None
        self.transport.abort()

    def _forget(self) -> None:
        self._cancel_header_timer()
        self._cancel_stalled_timer()
        if self._is_open:
            self._is_open = False
            self.guard.remove(self, self.address)

    def _cancel_header_timer(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _cancel_stalled_timer(self) -> None:
        if self._stalled_timer is not None:
            self._stalled_timer.cancel()
            self._stalled_timer = None


def guarded_protocol(connections: Connections) -> Any:
    """Return the protocol for connections that ``connections`` counts, for uvicorn's ``http``."""
    return type("NoukaiProtocol", (GuardedProtocol,), {"guard": connections})
