"""Run async code for blocking callers, on one event loop in a background thread.

All blocking calls of the process share the loop. Models therefore keep their connections between calls,
whichever thread calls, and a blocking call works inside a running event loop too, as in Jupyter.

anyio's BlockingPortal does not fit. Submitting a call to it blocks until the loop has started the call, so
a caller's own event loop stands still meanwhile. It refuses calls from the loop's own thread, which clients
inside a node make. In a forked child, dropping the portal waits for ever for a thread that is not there.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, Generic, TypeVar

T = TypeVar("T")

_is_inside: ContextVar[bool] = ContextVar("noukai_inside_loop_thread", default=False)


class LoopThread:
    """An event loop in a daemon thread.

    The first call starts the thread; after ``stop`` the next call starts a new one.

    Attributes:
        max_calls: How many calls may run at once; None for no limit.
    """

    def __init__(self) -> None:
        self.max_calls: int | None = None
        self._slots: AbstractContextManager[Any] = nullcontext()
        # Reentrant: the garbage collector may close a stream while this thread holds the lock.
        self._lock = threading.RLock()
        self._running: _Running | None = None

    @property
    def is_running(self) -> bool:
        """Whether the thread runs."""
        return self._running is not None and not self._running.loop.is_closed()

    def limit(self, max_calls: int | None) -> None:
        """Limit how many of the calls made from now on run at once; the others wait.

        A call made from inside another call does not wait, because the outer one might wait for it.
        """
        self.max_calls = max_calls
        self._slots = threading.BoundedSemaphore(max_calls) if max_calls else nullcontext()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function on the loop and wait for its result.

        An interrupt (Ctrl-C) cancels the function.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        self._raise_if_on_loop()
        with nullcontext() if _is_inside.get() else self._slots:
            call = _CancellableCall(function, args)
            try:
                return self.submit(call.run).result()
            finally:
                call.cancel()

    def submit(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Start an async function on the loop without waiting for it; the limit does not apply."""
        # Under the lock, so that a later stop() cancels the function.
        with self._lock:
            if not self.is_running:
                self._running = _Running()
            assert self._running is not None  # just started
            return asyncio.run_coroutine_threadsafe(_run(function, args), self._running.loop)

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """Iterate over an async generator; closing the iterator closes the generator.

        Raises:
            concurrent.futures.CancelledError: The loop was stopped, and the generator with it.
        """
        home: asyncio.AbstractEventLoop | None = None
        # An interrupted step is still unwinding when close() comes: close() waits for it.
        busy = asyncio.Lock()

        async def step() -> tuple[T, ...] | None:
            """Return the next item, nothing at the end, or None on another loop than before."""
            nonlocal home
            home = home or asyncio.get_running_loop()
            if home is not asyncio.get_running_loop():
                return None
            async with busy:
                async for item in items:
                    return (item,)
                return ()

        async def close() -> None:
            if home is asyncio.get_running_loop():
                async with busy:
                    await items.aclose()

        try:
            while next_item := self.call(step):
                yield next_item[0]
            if next_item is None:
                raise CancelledError("the runtime was shut down before this stream ended")
        finally:
            self.call(close)

    def stop(self) -> None:
        """Cancel everything on the loop and end the thread. May be called more than once.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        self._raise_if_on_loop()
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def forget(self) -> None:
        """Reset to the state before the first call. For forked children, which have no such thread."""
        self._lock = threading.RLock()
        self._running = None

    def responds(self, within: float) -> bool | None:
        """Return whether the loop responds within that many seconds; None if it is not running."""
        responded = threading.Event()
        with self._lock:
            if self._running is None or not self.is_running:
                return None
            self._running.loop.call_soon_threadsafe(responded.set)
        return responded.wait(within)

    def _raise_if_on_loop(self) -> None:
        running = self._running
        if running is not None and running.thread is threading.current_thread():
            raise RuntimeError("a blocking call inside async code: await the async form instead")


class _CancellableCall(Generic[T]):
    """An async function on the loop that can be cancelled from the caller's thread, also before it starts.

    A future would not do: an interrupt may come when the function runs already, and the caller has not yet
    got its future.
    """

    def __init__(self, function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> None:
        self._function, self._args = function, args
        self._is_cancelled = False
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> T:
        """Run the function, in the loop."""
        self._task = asyncio.current_task()
        if self._is_cancelled:
            raise asyncio.CancelledError
        return await self._function(*self._args)

    def cancel(self) -> None:
        """Cancel the function; do nothing if it has ended."""
        self._is_cancelled = True
        if self._task is not None and not self._task.done():
            with suppress(RuntimeError):  # the loop is closed already
                self._task.get_loop().call_soon_threadsafe(self._task.cancel)


class _Running:
    """The thread and its loop, from start to stop."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()
        started: Future[asyncio.AbstractEventLoop] = Future()
        self.thread = threading.Thread(
            target=self._run, args=(started,), name="noukai-loop", daemon=True
        )
        self.thread.start()
        self.loop = started.result()

    def stop(self) -> None:
        with suppress(RuntimeError):  # the loop is closed already
            self.loop.call_soon_threadsafe(self._stopping.set)
        self.thread.join()

    def _run(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(started))
        except BaseException as error:  # noqa: BLE001 - raised by the caller: see `started`, and call()
            if not started.done():
                started.set_exception(error)

    async def _serve(self, started: Future[asyncio.AbstractEventLoop]) -> None:
        started.set_result(asyncio.get_running_loop())
        await self._stopping.wait()  # then asyncio.run cancels the remaining tasks


async def _run(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    # The task has a copy of its caller's context, in which trio may have set the library.
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")
    _is_inside.set(True)
    return await function(*args)


loop_thread = LoopThread()
"""The loop thread of this process."""

# Before the interpreter tears down what models need to close.
atexit.register(loop_thread.stop)
# Windows cannot fork and lacks the function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=loop_thread.forget)
