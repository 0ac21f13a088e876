"""One pooled resource in the process's loop thread, used from any thread and any event loop.

Connections belong to the event loop that opened them. A client that outlives several ``asyncio.run``
calls, and is called from sync code as well, therefore keeps its pool in one loop, and all callers send
their work there: 0.1 ms a call, little beside any model. ``shutdown()`` releases the resource; the next
call opens it again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from anyio import CancelScope
from anyio.to_thread import run_sync

from ..runtime.loop_thread import loop_thread
from ..runtime.worker_threads import is_cancelled
from .errors import LlmClosedError

if TYPE_CHECKING:
    from typing_extensions import Self


class Closable(Protocol):
    """A resource that can be closed."""

    async def aclose(self) -> None:
        """Release everything."""
        ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")


@dataclass(frozen=True)
class _Opened(Generic[R]):
    """A resource and the loop that it belongs to. A forked child inherits it, but cannot use it."""

    resource: R
    holder: AsyncGenerator[R, None]
    loop: asyncio.AbstractEventLoop
    pid: int
    calls: set[asyncio.Task[Any] | None] = field(default_factory=set)

    @property
    def is_usable(self) -> bool:
        return self.pid == os.getpid() and not self.loop.is_closed()


class LoopBound(Generic[R]):
    """Hold a resource in the loop thread. It is opened at once, so that a wrong setting fails early.

    Args:
        open_resource: Opens it; called again after ``shutdown()``, and in a forked child.
    """

    def __init__(self, open_resource: Callable[[], R]) -> None:
        self._open = open_resource
        self._first: R | None = open_resource()
        self._opened: _Opened[R] | None = None
        self._closed = False

    def run(self, work: Callable[[R], Awaitable[T]]) -> T:
        """Run ``work`` with the resource and block until it is done; cancel it on an interrupt.

        Raises:
            LlmClosedError: This was closed, before the call or during it.
            RuntimeError: Called on the loop thread, which would wait for itself.
        """
        self._raise_if_closed()
        try:
            result: tuple[T] | None = loop_thread.call(self._run, work)
        except CancelledError:
            result = None  # cancelled before it began
        return self._unpack(result)

    async def run_async(self, work: Callable[[R], Awaitable[T]]) -> T:
        """Run ``work`` without blocking; otherwise as :meth:`run`.

        Cancelling the calling task cancels the work.
        """
        self._raise_if_closed()
        future = loop_thread.submit(self._run, work)
        try:
            result: tuple[T] | None = await _wait_for(future)
        except (CancelledError, asyncio.CancelledError):
            if not future.cancelled() or is_cancelled():
                raise
            result = None  # cancelled before it began, and not by the calling task
        return self._unpack(result)

    def close(self) -> None:
        """Cancel the calls in progress and release the resource. May be called any number of times.

        Raises:
            RuntimeError: Called on the loop thread, which would wait for itself.
        """
        self._closed = True
        opened = self._opened
        if opened is not None and opened.is_usable:
            if opened.loop is _running_loop():
                raise RuntimeError("a blocking call inside async code: await aclose() instead")
            loop_thread.submit(self._release, opened).result()

    async def aclose(self) -> None:
        """Close without blocking the loop; otherwise as :meth:`close`."""
        self._closed = True
        opened = self._opened
        if opened is not None and opened.is_usable:
            await _wait_for(loop_thread.submit(self._release, opened))

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise LlmClosedError("this client was closed: make a new one")

    def _unpack(self, result: tuple[T] | None) -> T:
        if result is not None:
            return result[0]
        self._raise_if_closed()
        raise LlmClosedError("the runtime was shut down while this call was under way")

    async def _run(self, work: Callable[[R], Awaitable[T]]) -> tuple[T] | None:
        """Run the work in the loop thread; return None if it was cancelled."""
        _unmark_trio()
        opened = self._opened
        if opened is None or not opened.is_usable:
            resource, self._first = self._first or self._open(), None
            # A loop that ends closes the async generators that it has started, and so the resource.
            holder = _hold(resource)
            await anext(holder)
            opened = _Opened(resource, holder, asyncio.get_running_loop(), os.getpid())
            self._opened = opened
        call = asyncio.current_task()
        opened.calls.add(call)
        try:
            return (await work(opened.resource),)
        except asyncio.CancelledError:
            # The caller was cancelled, or the client or the runtime is being closed.
            return None
        finally:
            opened.calls.discard(call)

    async def _release(self, opened: _Opened[R]) -> None:
        _unmark_trio()
        calls = [call for call in opened.calls if call is not None]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await opened.holder.aclose()
        self._opened = None


class CrossLoopStream(Generic[R, T]):
    """Read in any event loop the values of a generator that runs in the loop thread.

    This is not a generator itself: a loop that ends closes all generators that it has seen at once,
    even those that another loop is running.

    Args:
        bound: The resource that the generator uses.
        start: Creates the generator.
    """

    def __init__(self, bound: LoopBound[R], start: Callable[[R], AsyncGenerator[T, None]]) -> None:
        self._bound = bound
        self._start = start
        self._stream: AsyncGenerator[T, None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        # A cancelled step still unwinds in the loop thread: closing has to wait for its end.
        self._busy = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        value = await self._bound.run_async(self._step)
        if value is None:
            raise StopAsyncIteration
        return value[0]

    async def aclose(self) -> None:
        """Close the generator, and wait for its end."""
        with CancelScope(shield=True), suppress(LlmClosedError):
            await self._bound.run_async(self._end)

    async def _step(self, resource: R) -> tuple[T] | None:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise LlmClosedError("the runtime was shut down while this stream was read")
        async with self._busy:
            self._loop, self._stream = loop, self._stream or self._start(resource)
            async for value in self._stream:
                return (value,)
            return None

    async def _end(self, _: R) -> None:
        async with self._busy:
            if self._stream is not None and self._loop is asyncio.get_running_loop():
                await self._stream.aclose()


class LoopBoundClient(Generic[R]):
    """The lifetime of a client: ``close``, ``aclose``, ``with`` and ``async with``."""

    def __init__(self, bound: LoopBound[R]) -> None:
        self._bound = bound

    def close(self) -> None:
        """Cancel the calls in progress and close the connections. May be called any number of times.

        Later calls, and the cancelled ones, raise LlmClosedError.
        """
        self._bound.close()

    async def aclose(self) -> None:
        """Close without blocking; otherwise as :meth:`close`."""
        await self._bound.aclose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


async def _hold(resource: R) -> AsyncGenerator[R, None]:
    try:
        yield resource
    finally:
        await resource.aclose()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _wait_for(future: Future[T]) -> T:
    try:
        if _running_loop() is not None:
            return await asyncio.wrap_future(future)
        # trio cannot await a future of another loop, so a thread waits for it.
        return await run_sync(future.result, abandon_on_cancel=True)
    finally:
        future.cancel()


def _unmark_trio() -> None:
    # The work runs in a copy of its caller's context, which trio may have marked as its own.
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")
