"""HTTP clients and their faults. The only module that imports an HTTP library.

httpx's pool slows down with the number of requests under way (DEPENDENCIES.md: 1,114 requests a
second at 1, 432 at 64), so an async client of ours spreads them over several pools. With the extra
``fast`` it takes httpx2 over aiohttp instead, which needs only one.
"""

from __future__ import annotations

import asyncio
import importlib.util
import platform
import ssl
from collections.abc import AsyncGenerator, Callable
from functools import cache, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import httpx

from .errors import APIConnectionError, APITimeoutError, NoukaiError

# More pools than this bring nothing; fewer requests a pool than this open connections for nothing.
MOST_POOLS = 16
REQUESTS_PER_POOL = 8

_NOT_SENT = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol"})
_NOT_SENT_AIOHTTP = frozenset({"ClientConnectorError", "ConnectionTimeoutError", "InvalidURL"})
_HTTP_FAULTS = frozenset({"HTTPError", "StreamError", "InvalidURL", "OSError"})


def user_agent(version: str) -> str:
    """The User-Agent of WIRE.md for this version of the SDK."""
    python = platform.python_version()
    return (
        f"noukai-python/{version} "
        f"(httpx/{httpx.__version__}; python/{python}; {platform.system().lower()})"
    )


def sync_client() -> httpx.Client:
    """A client with a pool that opens as many connections as there are calls under way."""
    return httpx.Client(limits=httpx.Limits(max_connections=None), verify=_tls())


@cache
def _tls() -> ssl.SSLContext:
    # Loading the certificates takes some 20 ms: once a process, not once a pool.
    return httpx.create_ssl_context()


def fault_from(error: BaseException, path: str) -> NoukaiError | None:
    """The SDK's error for an HTTP library's, None for an error that is no fault of the network.

    Goes by the names of the classes, so that httpx2 and aiohttp under httpx are understood as well.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    if not names & _HTTP_FAULTS:
        return None
    said = str(error) or type(error).__name__
    timed_out = "TimeoutException" in names and not _disconnected(error)
    kind = APITimeoutError if timed_out else APIConnectionError
    return kind(
        f"{path}: {'timed out' if timed_out else 'connection failed'}: {said}",
        request_sent=not _never_sent(error, names),
    )


def _never_sent(error: BaseException, names: set[str]) -> bool:
    below = _aiohttp_cause(error)
    return bool(names & _NOT_SENT) if below is None else bool(below & _NOT_SENT_AIOHTTP)


def _disconnected(error: BaseException) -> bool:
    # httpx-aiohttp reports a server that hung up as ConnectTimeout.
    below = _aiohttp_cause(error)
    return below is not None and "TimeoutError" not in below


def _aiohttp_cause(error: BaseException) -> set[str] | None:
    cause = error.__cause__
    if cause is None or not type(cause).__module__.startswith("aiohttp"):
        return None
    return {kind.__name__ for kind in type(cause).__mro__}


class Pool:
    """One async client and the number of requests that it has under way."""

    __slots__ = ("busy", "client")

    def __init__(self, client: Any) -> None:
        self.client = client
        self.busy = 0


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
        pool = min(self._pools, key=lambda pool: pool.busy, default=None)
        if pool is None or (pool.busy >= REQUESTS_PER_POOL and len(self._pools) < self._most):
            pool = Pool(self._make())
            self._pools.append(pool)
        pool.busy += 1
        return pool

    async def aclose(self) -> None:
        await self._guard.aclose()

    async def _close_with_loop(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            for pool in self._pools:
                await pool.client.aclose()


class AsyncClients:
    """The HTTP clients behind one AsyncNoukai: connections belong to the event loop they were made in."""

    def __init__(self) -> None:
        self._by_loop: WeakKeyDictionary[Any, _LoopPools] = WeakKeyDictionary()

    async def take(self) -> Pool:
        """The pool with the fewest requests; give it back by counting ``busy`` down."""
        loop = _running_loop()
        pools = self._by_loop.get(loop)
        if pools is None:
            make, most = _async_client_factory(isinstance(loop, asyncio.AbstractEventLoop))
            pools = self._by_loop[loop] = _LoopPools(make, most)
            await pools.start()
        return pools.take()

    async def aclose(self) -> None:
        """Close what was opened in this event loop; other loops close theirs when they stop."""
        pools = self._by_loop.pop(_running_loop(), None)
        if pools is not None:
            await pools.aclose()


def _running_loop() -> Any:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token()


@lru_cache(maxsize=2)
def _async_client_factory(on_asyncio: bool) -> tuple[Callable[[], Any], int]:
    if on_asyncio and _has_fast():
        from httpx2 import Limits
        from httpx_aiohttp.httpx2 import Httpx2AiohttpClient

        # aiohttp reads 0 as "no limit", and None as its default of 100.
        return lambda: Httpx2AiohttpClient(limits=Limits(max_connections=0)), 1
    limits = httpx.Limits(max_connections=None)
    return lambda: httpx.AsyncClient(limits=limits, verify=_tls()), MOST_POOLS


def _has_fast() -> bool:
    return all(importlib.util.find_spec(name) for name in ("httpx2", "httpx_aiohttp"))
