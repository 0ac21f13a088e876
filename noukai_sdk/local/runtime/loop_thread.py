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
from concurrent.futures import CancelledError, Future
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_is_inside: ContextVar[bool] = ContextVar("noukai_inside_loop_thread", default=False)


class LoopThread:
    """Starts its thread at the first call, and again where it is used after ``stop``.

    Attributes:
        most_calls: How many calls may be under way at once, None for no limit.
    """

    def __init__(self) -> None:
        self.most_calls: int | None = None
        self._turns: AbstractContextManager[Any] = nullcontext()
        # Whatever holds it may be interrupted by the garbage collector, and that by a generator's end.
        self._lock = threading.RLock()
        self._running: _Running | None = None

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._running is not None and not self._running.loop.is_closed()

    def limit(self, most_calls: int | None) -> None:
        """Let further calls wait, from now on, where so many are under way; None for no limit.

        A call out of another one does not wait: the other could wait for it for ever.
        """
        self.most_calls = most_calls
        self._turns = threading.BoundedSemaphore(most_calls) if most_calls else nullcontext()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function on the loop and wait for its result, or raise what it raises.

        An interrupt (Ctrl-C) cancels the function.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        self._check_thread()
        with nullcontext() if _is_inside.get() else self._turns:
            future = self.submit(function, *args)
            try:
                return future.result()
            finally:
                future.cancel()

    def submit(self, function: Callable[..., Awaitable[T]], *args: Any) -> Future[T]:
        """Begin an async function on the loop, without waiting and without the limit of calls."""
        # Under the lock, so that stop() finds what was begun before it, and cancels it.
        with self._lock:
            if not self.is_running:
                self._running = _Running()
            assert self._running is not None  # just made
            return asyncio.run_coroutine_threadsafe(_await(function, args), self._running.loop)

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items of an async generator, which is closed when the iterator is.

        Raises:
            concurrent.futures.CancelledError: The loop was stopped meanwhile, and the generator with it.
        """
        home: asyncio.AbstractEventLoop | None = None
        # A step that was interrupted goes on unwinding: closing has to wait for its end.
        busy = asyncio.Lock()

        async def step() -> list[T] | None:
            nonlocal home
            home = home or asyncio.get_running_loop()
            if home is not asyncio.get_running_loop():
                return None
            async with busy:
                async for item in items:
                    return [item]
                return []

        async def close() -> None:
            if home is asyncio.get_running_loop():
                async with busy:
                    await items.aclose()

        try:
            while found := self.call(step):
                yield found[0]
            if found is None:
                raise CancelledError("the runtime was shut down before the end of this stream")
        finally:
            self.call(close)

    def stop(self) -> None:
        """Cancel what is running and end the thread. May be called any number of times.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        self._check_thread()
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.stop()

    def forget(self) -> None:
        """Act as if never started: in a forked child the thread does not exist."""
        self._lock = threading.RLock()
        self._running = None

    def responds(self, within: float) -> bool | None:
        """Whether the loop answers within so many seconds; None where it is not running."""
        answered = threading.Event()
        with self._lock:
            if self._running is None or not self.is_running:
                return None
            self._running.loop.call_soon_threadsafe(answered.set)
        return answered.wait(within)

    def _check_thread(self) -> None:
        running = self._running
        if running is not None and running.thread is threading.current_thread():
            raise RuntimeError("a blocking call inside async code: await the async form instead")


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
        with suppress(RuntimeError):  # something has ended the loop already
            self.loop.call_soon_threadsafe(self._stopping.set)
        self.thread.join()

    def _run(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        try:
            asyncio.run(self._serve(ready))
        except BaseException as error:  # noqa: BLE001 - whoever asked for the loop or the call raises it
            if not ready.done():
                ready.set_exception(error)

    async def _serve(self, ready: Future[asyncio.AbstractEventLoop]) -> None:
        ready.set_result(asyncio.get_running_loop())
        # What is still running then is cancelled by asyncio.run.
        await self._stopping.wait()


async def _await(function: Callable[..., Awaitable[T]], args: tuple[Any, ...]) -> T:
    sniffio: Any = sys.modules.get("sniffio")
    _is_inside.set(True)
    if sniffio is not None:
        # This runs in a copy of the caller's context, where trio may have left its mark.
        sniffio.current_async_library_cvar.set("asyncio")
    return await function(*args)


loop_thread = LoopThread()
"""The one of this process."""

# Models want to be closed while the interpreter still has everything they need for it.
atexit.register(loop_thread.stop)
# Windows has no fork, and no such function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=loop_thread.forget)
