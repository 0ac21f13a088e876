"""The HTTP clients behind one AsyncNoukai: some for each event loop, and no more than are needed.

httpx's pool slows down with the number of requests under way (DEPENDENCIES.md: 1,114 requests a
second at 1, 432 at 64), so they are spread over several pools. With the extra ``fast`` one is enough.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import Any
from weakref import WeakKeyDictionary

from .connections import async_client, fast_client, fast_is_on
from .errors import ClientClosedError

# More pools than this bring nothing; fewer requests a pool than this open connections for nothing.
MOST_POOLS = 16
REQUESTS_PER_POOL = 8


class Pool:
    """One async client and the number of requests that it has under way."""

    __slots__ = ("busy", "client")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.busy = 0


class AsyncClients:
    """Gives out pools. Connections belong to the event loop they were made in.

    ``given`` is the user's own client, to be used for everything and never closed.
    """

    def __init__(self, given: Any = None) -> None:
        self._given = None if given is None else Pool(given)
        self._by_loop: WeakKeyDictionary[Any, _LoopPools] = WeakKeyDictionary()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether calls are refused."""
        return self._closed or (
            self._given is not None and getattr(self._given.client, "is_closed", False)
        )

    async def take(self) -> Pool:
        """A pool that has room; give it back by counting ``busy`` down."""
        if self._closed:
            raise ClientClosedError("this client was closed: make a new one")
        if self._given is not None:
            return self._given
        loop = _running_loop()
        pools = self._by_loop.get(loop)
        if pools is None:
            fast = isinstance(loop, asyncio.AbstractEventLoop) and fast_is_on()
            pools = _LoopPools(fast_client, 1) if fast else _LoopPools(async_client, MOST_POOLS)
            self._by_loop[loop] = pools
            await pools.start()
        return pools.take()

    async def aclose(self) -> None:
        """Close what was opened in this event loop; other loops close theirs when they stop."""
        self._closed = True
        pools = self._by_loop.pop(_running_loop(), None)
        if pools is not None:
            await pools.aclose()


class _LoopPools:
    """The pools of one event loop."""

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self._make = make
        self._most = most
        self._pools: list[Pool] = []
        # Event loops close their async generators before they stop: that is when connections that
        # belong to the loop must go, whether or not somebody thought of aclose().
        self._guard = self._close_with_loop()

    async def start(self) -> None:
        await self._guard.asend(None)

    def take(self) -> Pool:
        pool = self._roomy() or self._new() or min(self._pools, key=lambda pool: pool.busy)
        pool.busy += 1
        return pool

    def _roomy(self) -> Pool | None:
        # The first that has room, not the emptiest: its connections are warm, the others' may rest.
        for pool in self._pools:
            if pool.busy < REQUESTS_PER_POOL:
                return pool
        return None

    def _new(self) -> Pool | None:
        if len(self._pools) >= self._most:
            return None
        pool = Pool(self._make())
        self._pools.append(pool)
        return pool

    async def aclose(self) -> None:
        await self._guard.aclose()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for pool in self._pools:
                await pool.client.aclose()
            # Both know the loop, and would keep it alive.
            self._pools.clear()
            del self._guard


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()
