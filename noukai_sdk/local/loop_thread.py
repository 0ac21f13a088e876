"""One event loop in a thread of its own, for blocking calls into async code.

All blocking calls of the process share it, so that models keep their connections between calls, from
whichever thread those come; and a blocking call works where a loop is running already, as in Jupyter.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

T = TypeVar("T")


class LoopThread:
    """Starts its thread at the first call, and again where it is used after ``stop``.

    Attributes:
        most_calls: How many calls may be under way at once, None for no limit.
    """

    def __init__(self) -> None:
        self.most_calls: int | None = None
        self._turns: AbstractContextManager[Any] = nullcontext()
        self._lock = threading.Lock()
        self._running: _Running | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._running is not None

    def limit(self, most_calls: int | None) -> None:
        """Let further calls wait, from now on, where so many are under way; None for no limit."""
        self.most_calls = most_calls
        self._turns = threading.BoundedSemaphore(most_calls) if most_calls else nullcontext()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function on the loop and wait for its result, or raise what it raises.

        An interrupt (Ctrl-C) cancels the function.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        running = self._started()
        if running.thread is threading.current_thread():
            raise RuntimeError("a blocking call inside async code: await the async form instead")
        with self._turns:
            future = asyncio.run_coroutine_threadsafe(_await(function, args), running.loop)
            try:
                return future.result()
            finally:
                future.cancel()

    def submit(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Begin an async function on the loop, without waiting and without the limit of calls."""
        return asyncio.run_coroutine_threadsafe(_await(function, args), self._started().loop)

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of an async generator, which is closed when the iterator is."""
        end: Any = object()
        try:
            while (item := self.call(_next, items, end)) is not end:
                yield item
        finally:
            self.call(items.aclose)

    def stop(self) -> None:
        """Cancel what is running and end the thread. May be called any number of times."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def forget(self) -> None:
        """Act as if never started: in a forked child the thread does not exist."""
        self._lock = threading.Lock()
        self._running = None

    def responds(self, within: float) -> bool | None:
        """Whether the loop answers within so many seconds; None where it is not running."""
        running = self._running
        if running is None:
            return None
        answered = threading.Event()
        running.loop.call_soon_threadsafe(answered.set)
        return answered.wait(within)

    def _started(self) -> _Running:
        with self._lock:
            if self._running is None:
                self._running = _Running()
            return self._running


class _Running:
    """The thread and the way into its loop."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        ready: Future[asyncio.AbstractEventLoop] = Future()
        self.thread = threading.Thread(
            target=self._run, args=(ready,), name="noukai-loop", daemon=True
        )
        self.thread.start()
        self.loop = ready.result()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopping.set)
        self.thread.join()

    def _run(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except Exception as error:  # noqa: BLE001 - whoever asked for the loop raises it
            ready.set_exception(error)

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        # What is still running then is cancelled by asyncio.run.
        await self._stopping.wait()


async def _await(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        # This runs in a copy of the caller's context, where trio may have left its mark.
        sniffio.current_async_library_cvar.set("asyncio")
    return await function(*args)


async def _next(items: AsyncGenerator[T, None], end: T) -> T:
    return await anext(items, end)


loop_thread = LoopThread()
"""The one of this process."""

# Models want to be closed while the interpreter still has everything they need for it.
atexit.register(loop_thread.stop)
# Windows has no fork, and no such function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=loop_thread.forget)
