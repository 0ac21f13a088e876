"""The HTTP clients behind one AsyncNoukai.

httpx's pool slows down with the number of requests under way (docs/speed.md: at 1,000 to a fifteenth of
what it does at 8). So each request has a client of its own while it is under way; a client costs
3 kB, and has as many connections as one pool would have for it: one. The extra ``fast`` has a pool that
does not slow down: there all share one client.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator
from typing import Any
from weakref import WeakKeyDictionary

from .connections import async_client, fast_client, fast_is_on
from .errors import ClientClosedError

# Seconds that a client is kept for the next request. httpx drops a connection after as many.
KEPT = 5.0

# How many requests may be young at once, and for how many seconds one is. A thousand that are sent in one
# breath cost Python's collector a fifth of the time; sent in waves they do not, and those that are answered
# late, as models do, stop being young long before.
MOST_YOUNG = 64
YOUNG = 0.05


class Start:
    """A request that has just begun: young until it is answered, or for a while."""

    __slots__ = ("_timer", "_young")

    def __init__(self, young: asyncio.Semaphore) -> None:
        self._young: asyncio.Semaphore | None = young
        self._timer = asyncio.get_running_loop().call_later(YOUNG, self.end)

    def end(self) -> None:
        """It is not young any more; may be called again."""
        young, self._young = self._young, None
        if young is not None:
            self._timer.cancel()
            young.release()


class Lease:
    """A client, lent for one request."""

    __slots__ = ("_shelf", "client", "idle_since", "start")

    def __init__(self, client: Any, shelf: deque[Lease] | None = None) -> None:
        self.client: Any = client
        self.idle_since: float = 0.0
        self.start: Start | None = None
        self._shelf = shelf

    def give_back(self) -> None:
        """The request is over."""
        if self.start is not None:
            self.start.end()
        if self._shelf is not None:
            self.idle_since = time.monotonic()
            self._shelf.append(self)


class AsyncClients:
    """Lends clients. Connections belong to the event loop they were made in.

    ``given`` is the user's own client, to be used for everything and never closed.
    """

    def __init__(self, given: Any = None) -> None:
        self._given = None if given is None else Lease(given)
        self._by_loop: WeakKeyDictionary[Any, _LoopClients] = WeakKeyDictionary()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed or (
            self._given is not None and getattr(self._given.client, "is_closed", False)
        )

    async def take(self) -> Lease:
        """A client of this event loop, to be given back after the request."""
        if self._closed:
            raise ClientClosedError("this client was closed: make a new one")
        if self._given is not None:
            return self._given
        loop = _running_loop()
        clients = self._by_loop.get(loop)
        if clients is None:
            on_asyncio = isinstance(loop, asyncio.AbstractEventLoop)
            clients = self._by_loop[loop] = _LoopClients(on_asyncio)
            await clients.start()
        return await clients.take()

    async def aclose(self) -> None:
        """Close what was opened in this event loop; other loops close theirs when they stop."""
        self._closed = True
        clients = self._by_loop.pop(_running_loop(), None)
        if clients is not None:
            await clients.aclose()


class _LoopClients:
    """The clients of one event loop."""

    def __init__(self, on_asyncio: bool) -> None:
        self._young = asyncio.Semaphore(MOST_YOUNG) if on_asyncio else None
        self._shared = Lease(fast_client()) if on_asyncio and fast_is_on() else None
        self._all = set() if self._shared is None else {self._shared}
        self._idle: deque[Lease] = deque()
        # Event loops close their async generators before they stop: that is when connections that
        # belong to the loop must go, whether or not somebody thought of aclose().
        self._guard = self._close_with_loop()

    async def start(self) -> None:
        await self._guard.asend(None)

    async def take(self) -> Lease:
        start = None
        if self._young is not None:
            await self._young.acquire()
            start = Start(self._young)
        # Whoever is cancelled from here on gives the start back by its timer.
        lease = await self._lend()
        lease.start = start
        return lease

    async def _lend(self) -> Lease:
        if self._shared is not None:
            return Lease(self._shared.client)
        if self._idle and time.monotonic() - self._idle[0].idle_since > KEPT:
            await self._dismiss(self._idle.popleft())
        # The last one that came back has the warmest connection; those below it rest until they go.
        return self._idle.pop() if self._idle else self._new()

    def _new(self) -> Lease:
        lease = Lease(async_client(), self._idle)
        self._all.add(lease)
        return lease

    async def _dismiss(self, lease: Lease) -> None:
        self._all.discard(lease)
        await lease.client.aclose()

    async def aclose(self) -> None:
        await self._guard.aclose()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._idle.clear()
            while self._all:
                await self._all.pop().client.aclose()
            # Both know the loop, and would keep it alive.
            self._shared = None
            del self._guard


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()
