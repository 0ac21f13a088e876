"""The HTTP clients behind one AsyncNoukai.

httpx's pool slows down with the number of requests under way (docs/speed.md: with 1,000 of them to a
fifteenth of its speed with 8). So each request has a client of its own while it is under way. A client
takes 3 kB, and opens as many connections as one pool would for that request: one. The pool of the extra
``fast`` does not slow down, so there all requests share one client.
"""

from __future__ import annotations

import asyncio
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from contextvars import Context
from typing import Any
from weakref import WeakKeyDictionary

import anyio
from anyio.to_thread import run_sync

from ..protocol.call import Service
from ..protocol.program import Request
from .library import (
    async_client,
    async_is_ready,
    build_request,
    closed_before_call,
    closed_during_call,
    fast_client,
    fast_is_on,
    prepare_async,
)

# Seconds that an idle client is kept for the next request. httpx drops a connection after as many.
KEPT = 5.0
# How many clients that were idle too long one request closes: all at once would hold it up.
MOST_DISMISSED = 10

# After so many seconds without a request the loop gets a few turns to notice connections that the server
# has closed: aiohttp would send on one of them if the loop stood still meanwhile. (httpx looks itself.)
QUIET = 0.5
TURNS = 3


class Lease:
    """A client, lent for one request. ``lender`` is None for the user's own, which we never close."""

    __slots__ = ("_lender", "_scope", "client")

    def __init__(self, client: Any, lender: _LoopClients | None = None) -> None:
        self.client: Any = client
        self._lender = lender
        self._scope: anyio.CancelScope | None = None

    async def send(self, service: Service, request: Request, *, stream: bool = False) -> Any:
        """Send the request. Raises ClientClosedError if :meth:`recall` comes before the response."""
        built = build_request(self.client, service, request)
        if self._lender is None:
            return await self.client.send(built, stream=stream, auth=None)
        with anyio.CancelScope() as self._scope:
            return await self.client.send(built, stream=stream, auth=None)
        raise closed_during_call()

    def recall(self) -> None:
        """Cancel the request: closing a client does not, while it has no connection yet."""
        if self._scope is not None:
            self._scope.cancel()

    def give_back(self) -> None:
        """Return the client, for the next request. May be called any number of times."""
        if self._lender is not None:
            self._lender.take_back(self)


class AsyncClients:
    """Lends clients. Connections belong to the event loop they were made in.

    Args:
        own: The user's client, which is used for every request and never closed.

    Attributes:
        closed: Requests are refused.
    """

    def __init__(self, own: Any = None) -> None:
        self.closed = False
        self._own = None if own is None else Lease(own)
        self._by_loop: WeakKeyDictionary[Any, _LoopClients] = WeakKeyDictionary()
        # For clients that are dropped without aclose(): Python and aiohttp warn of what is then open.
        weakref.finalize(self, _close_dropped, self._by_loop).atexit = False

    async def take(self) -> Lease:
        """Lend a client of this event loop, to be given back after the request."""
        if self.closed:
            raise closed_before_call()
        if self._own is not None:
            return self._own
        loop = _running_loop()
        clients = self._by_loop.get(loop)
        if clients is None:
            on_asyncio = isinstance(loop, asyncio.AbstractEventLoop)
            clients = self._by_loop[loop] = _LoopClients(on_asyncio)
        if not clients.is_open:
            await clients.open()
            if self.closed:
                raise closed_before_call()
        return await clients.lend()

    async def aclose(self) -> None:
        """Close what was opened in this event loop. Other loops close theirs when they stop."""
        self.closed = True
        clients = self._by_loop.pop(_running_loop(), None)
        if clients is not None:
            await clients.aclose()


class _LoopClients:
    """The clients of one event loop.

    Attributes:
        is_open: Clients can be lent.
    """

    def __init__(self, on_asyncio: bool) -> None:
        self.is_open = False
        # Set when the call that opens them has done so, or has failed.
        self._opening: anyio.Event | None = None
        self._is_fast = on_asyncio and fast_is_on()
        self._shared: Any = None
        self._all: set[Any] = set()
        self._idle: deque[tuple[Any, float]] = deque()
        self._lent: set[Lease] = set()
        self._used = time.monotonic()
        # Event loops close their async generators before they stop. Connections that belong to the loop
        # must be closed then, even if aclose() was never called.
        self._guard = self._close_with_loop()

    async def open(self) -> None:
        """Import the HTTP library, and start the generator that waits for the end of the loop."""
        while not self.is_open:
            if self._opening is not None:
                await self._opening.wait()
                continue
            self._opening = anyio.Event()
            try:
                if not async_is_ready(self._is_fast):
                    await run_sync(prepare_async, self._is_fast, abandon_on_cancel=True)
                # It yields nothing if aclose() was called meanwhile.
                await anext(self._guard, None)
                if self._is_fast:
                    self._shared = fast_client()
                    self._all.add(self._shared)
                self.is_open = True
            finally:
                self._opening.set()
                self._opening = None

    async def lend(self) -> Lease:
        """Lend a client for one request."""
        if self._shared is not None:
            client = self._shared
        elif self._idle:
            # The last one that came back has the warmest connection. Those below it rest until they go.
            client, _since = self._idle.pop()
        else:
            client = async_client()
            self._all.add(client)
        lease = Lease(client, self)
        self._lent.add(lease)
        try:
            await (self._dismiss() if self._shared is None else self._notice_closed())
        except BaseException:  # cancelled
            lease.give_back()
            raise
        return lease

    def take_back(self, lease: Lease) -> None:
        """Take the client of a request that is over. May be called any number of times."""
        if lease in self._lent:
            self._lent.discard(lease)
            self._used = time.monotonic()
            if lease.client is not self._shared:
                self._idle.append((lease.client, self._used))

    async def _dismiss(self) -> None:
        for _ in range(MOST_DISMISSED):
            if not self._idle or time.monotonic() - self._idle[0][1] <= KEPT:
                break
            client, _since = self._idle.popleft()
            self._all.discard(client)
            await client.aclose()

    async def _notice_closed(self) -> None:
        if time.monotonic() - self._used > QUIET:
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        """Cancel the requests under way, and close all clients."""
        await self._guard.aclose()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._idle.clear()
            for lease in self._lent:
                lease.recall()
            while self._all:
                await self._all.pop().aclose()
            # Both know the loop, and would keep it alive.
            self._shared = None
            del self._guard


def _close_dropped(by_loop: WeakKeyDictionary[Any, _LoopClients]) -> None:
    """Let each event loop close its clients. Those of a loop that has ended are closed, or cannot be."""
    for loop, clients in list(by_loop.items()):
        with suppress(RuntimeError):
            if isinstance(loop, asyncio.AbstractEventLoop):
                loop.call_soon_threadsafe(_start_closing, loop, clients, context=Context())
            else:
                import trio

                loop.run_sync_soon(trio.lowlevel.spawn_system_task, clients.aclose)


def _start_closing(loop: asyncio.AbstractEventLoop, clients: _LoopClients) -> None:
    task = loop.create_task(clients.aclose())
    _closing.add(task)
    task.add_done_callback(_closing.discard)


# Event loops hold their tasks weakly.
_closing: set[asyncio.Task[None]] = set()


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()
