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

import anyio

from .library import async_client, closed_during_call, fast_client, fast_is_on
from .outcomes import raise_if_closed

# Seconds that a client is kept for the next request. httpx drops a connection after as many.
KEPT = 5.0
# How many that were kept too long one request takes away: all at once would hold it up.
MOST_DISMISSED = 10

# After so many seconds without a request the loop gets a few turns to hear of connections that the server
# has closed: aiohttp would send on one of them if the loop stood still meanwhile. (httpx looks itself.)
QUIET = 0.5
TURNS = 3

# How many requests may be young at once, and for how many seconds one is. A thousand that are sent in one
# breath cost Python's collector a fifth of the time; sent in waves they do not, and those that are answered
# late, as models do, stop being young long before. It is as long as a processor takes to send so many:
# who waits for a place would hardly have been sent sooner. The collector runs after 700 new objects, and a
# request makes 40 of them when its turn comes: a wave of 16 stays below.
MOST_YOUNG = 16
YOUNG = 0.0125
YOUNG_FAST = 0.005


class Start:
    """A request that has just begun: young until it is answered, or for a while."""

    __slots__ = ("_timer", "_young")

    def __init__(self, young: asyncio.Semaphore, seconds: float) -> None:
        self._young: asyncio.Semaphore | None = young
        self._timer = asyncio.get_running_loop().call_later(seconds, self.end)

    def end(self) -> None:
        """It is not young any more; may be called again."""
        young, self._young = self._young, None
        if young is not None:
            self._timer.cancel()
            young.release()


class Lease:
    """A client, lent for one request. ``lender`` is None for the user's own, which we never close."""

    __slots__ = ("_lender", "_scope", "_start", "client")

    def __init__(
        self, client: Any, lender: _LoopClients | None = None, start: Start | None = None
    ) -> None:
        self.client: Any = client
        self._lender = lender
        self._start = start
        self._scope: anyio.CancelScope | None = None

    async def send(self, request: Any, *, stream: bool = False) -> Any:
        """The answer. Raises ClientClosedError where :meth:`recall` comes first."""
        if self._lender is None:
            return await self.client.send(request, stream=stream, auth=None)
        with anyio.CancelScope() as self._scope:
            return await self.client.send(request, stream=stream, auth=None)
        raise closed_during_call()

    def recall(self) -> None:
        """End the request: closing a client does not, where it has no connection yet."""
        if self._scope is not None:
            self._scope.cancel()

    def give_back(self) -> None:
        """The request is over."""
        if self._start is not None:
            self._start.end()
        if self._lender is not None:
            self._lender.take_back(self)


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
        raise_if_closed(self._closed)
        if self._given is not None:
            return self._given
        clients = await self._of_this_loop()
        start = await clients.start()
        if self._closed and start is not None:
            start.end()
        raise_if_closed(self._closed)
        return await clients.lend(start)

    async def _of_this_loop(self) -> _LoopClients:
        loop = _running_loop()
        clients = self._by_loop.get(loop)
        if clients is None:
            on_asyncio = isinstance(loop, asyncio.AbstractEventLoop)
            clients = self._by_loop[loop] = _LoopClients(on_asyncio)
            await clients.open()
        return clients

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
        self._shared = fast_client() if on_asyncio and fast_is_on() else None
        self._all: set[Any] = set() if self._shared is None else {self._shared}
        self._idle: deque[tuple[Any, float]] = deque()
        self._lent: set[Lease] = set()
        self._used = time.monotonic()
        # Event loops close their async generators before they stop: that is when connections that
        # belong to the loop must go, whether or not somebody thought of aclose().
        self._guard = self._close_with_loop()

    async def open(self) -> None:
        """Begin: from now on the end of the loop is waited for."""
        await self._guard.asend(None)

    async def start(self) -> Start | None:
        """Wait until there are few young requests."""
        young = self._young
        if young is None:
            return None
        await young.acquire()
        return Start(young, YOUNG if self._shared is None else YOUNG_FAST)

    async def lend(self, start: Start | None) -> Lease:
        """A client for the request that has just begun."""
        lease = Lease(self._client(), self, start)
        self._lent.add(lease)
        try:
            await (self._dismiss() if self._shared is None else self._listen())
        except BaseException:  # cancelled
            lease.give_back()
            raise
        return lease

    def take_back(self, lease: Lease) -> None:
        """The client of a request that is over; may be called again."""
        if lease in self._lent:
            self._lent.discard(lease)
            self._used = time.monotonic()
            if lease.client is not self._shared:
                self._idle.append((lease.client, self._used))

    def _client(self) -> Any:
        if self._shared is not None:
            return self._shared
        if self._idle:
            # The last one that came back has the warmest connection; those below it rest until they go.
            return self._idle.pop()[0]
        client = async_client()
        self._all.add(client)
        return client

    async def _dismiss(self) -> None:
        for _ in range(MOST_DISMISSED):
            if not self._idle or time.monotonic() - self._idle[0][1] <= KEPT:
                break
            client, _since = self._idle.popleft()
            self._all.discard(client)
            await client.aclose()

    async def _listen(self) -> None:
        if time.monotonic() - self._used > QUIET:
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        """End the requests under way, and close all clients."""
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
            # All three know the loop, and would keep it alive.
            self._shared = self._young = None
            del self._guard


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()
