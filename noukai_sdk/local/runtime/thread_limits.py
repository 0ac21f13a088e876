"""Limit the worker threads of one event loop, so that blocked functions do not stop the others.

A thread cannot be stopped. The call of a function that is cancelled ends at once, and another call may
start, but its thread lives until the function returns. So a service has two limits: for calls that are
awaited, and, four times as many, for threads that are alive. One function gets a part of both.
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakValueDictionary

from anyio import CapacityLimiter, WouldBlock
from anyio.to_thread import run_sync

DEFAULT_WORKER_THREADS = 40
_ALIVE = 4


@dataclass(frozen=True)
class ThreadCounts:
    """How many worker threads one event loop may have.

    Attributes:
        awaited: How many calls run at once; the others wait.
        of_one_function: How many of these may be of the same function; None for all.
    """

    awaited: int = DEFAULT_WORKER_THREADS
    of_one_function: int | None = None


class _Share:
    """The places of one function, or of all together."""

    def __init__(self, awaited: int, *, limits_alive: bool) -> None:
        self.awaited = CapacityLimiter(awaited)
        self.alive = CapacityLimiter(_ALIVE * awaited if limits_alive else math.inf)


class WorkerThreads:
    """The worker threads of one event loop, at one depth of runs within runs."""

    def __init__(self, counts: ThreadCounts) -> None:
        self.counts = counts
        is_shared = counts.of_one_function is not None
        self._all = _Share(counts.awaited, limits_alive=is_shared)
        # A share is held by the calls that use it.
        self._of: WeakValueDictionary[Hashable, _Share] = WeakValueDictionary()

    async def call(self, function: Callable[[], Any], name: Hashable) -> Any:
        """Call a function in a worker thread; ``name`` is the same for calls of the same function."""
        shares = [self._all]
        if self.counts.of_one_function is not None:
            own = self._of.get(name)
            if own is None:
                own = self._of[name] = _Share(self.counts.of_one_function, limits_alive=True)
            shares = [own, self._all]
        place = _Place(shares, function)
        async with place.held():
            # anyio's own limit would let go of the place of a thread that lives on.
            return await run_sync(place.run, abandon_on_cancel=True, limiter=CapacityLimiter(1))


class _Place:
    """The place of one call in the limits, and of its thread, which may outlive the call."""

    def __init__(self, shares: list[_Share], function: Callable[[], Any]) -> None:
        self._shares = shares
        self._function = function
        self._run_soon = _run_soon()
        self._lock = threading.Lock()
        self._is_running = False
        self._left = threading.Event()

    @asynccontextmanager
    async def held(self) -> AsyncIterator[None]:
        """Wait for the place, and hold it in this block; that of the thread until it ends."""
        taken: list[CapacityLimiter] = []
        try:
            for share in self._shares:
                for limiter in (share.alive, share.awaited):
                    try:
                        limiter.acquire_on_behalf_of_nowait(self)
                    except WouldBlock:
                        await limiter.acquire_on_behalf_of(self)
                    taken.append(limiter)
            yield
        finally:
            with self._lock:
                self._left.set()
                kept = [share.alive for share in self._shares] if self._is_running else []
            for limiter in taken:
                if limiter not in kept:
                    limiter.release_on_behalf_of(self)

    def run(self) -> Any:
        """Run in the thread: call the function, unless its call is cancelled already."""
        with self._lock:
            if self._left.is_set():
                return None
            self._is_running = True
        try:
            return self._function()
        finally:
            with self._lock:
                self._is_running = False
                is_left = self._left.is_set()
            if is_left:
                with suppress(RuntimeError):  # the event loop is closed
                    self._run_soon(self._release_thread)

    def _release_thread(self) -> None:
        for share in self._shares:
            share.alive.release_on_behalf_of(self)


def _run_soon() -> Callable[[Callable[[], None]], Any]:
    """Return the function by which another thread runs a function on this event loop."""
    try:
        return asyncio.get_running_loop().call_soon_threadsafe
    except RuntimeError:
        import trio

        return trio.lowlevel.current_trio_token().run_sync_soon
