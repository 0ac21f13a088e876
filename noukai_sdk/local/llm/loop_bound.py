"""One pooled resource in the process's loop thread, used from any thread and any event loop.

Connections belong to the event loop that opened them. A client that lives through several
``asyncio.run`` and is called from sync code as well therefore keeps its pool in one loop, and all
callers send their work there: 0.1 ms a call, small beside any model. ``shutdown()`` releases the
resource; it is opened again where it is used again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from anyio.to_thread import run_sync

from ..runtime.loop_thread import loop_thread
from ..runtime.worker_threads import is_cancelled
from .errors import LlmClosedError

if TYPE_CHECKING:
    from typing_extensions import Self


class Closable(Protocol):
    """What a host can hold."""

    async def aclose(self) -> None:
        """Release everything."""
        ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")


@dataclass(frozen=True)
class _Opened(Generic[R]):
    """A resource where it lives. A forked child inherits it, and can do nothing with it."""

    resource: R
    holder: AsyncGenerator[R, None]
    loop: asyncio.AbstractEventLoop
    pid: int
    calls: set[asyncio.Task[Any] | None] = field(default_factory=set)

    @property
    def lives(self) -> bool:
        return self.pid == os.getpid() and not self.loop.is_closed()


class LoopBound(Generic[R]):
    """Opens a resource at once, so that a wrong setting is told at once.

    Args:
        open_resource: Opens it; called again after ``shutdown()``, and in a forked child.
    """

    def __init__(self, open_resource: Callable[[], R]) -> None:
        self._open = open_resource
        self._first: R | None = open_resource()
        self._opened: _Opened[R] | None = None
        self._closed = False

    def run(self, work: Callable[[R], Awaitable[T]]) -> T:
        """Do ``work`` with the resource and block until it is done; stop it when interrupted.

        Raises:
            LlmClosedError: The host is closed, or was closed meanwhile.
            RuntimeError: Called on the loop thread, which would wait for itself.
        """
        self._check()
        try:
            outcome: tuple[T] | None = loop_thread.call(self._do, work)
        except CancelledError:
            outcome = None  # stopped before it had begun
        return self._result(outcome)

    async def wait(self, work: Callable[[R], Awaitable[T]]) -> T:
        """As :meth:`run`, for a task; stops the work when the task is cancelled."""
        self._check()
        future = loop_thread.submit(self._do, work)
        try:
            outcome: tuple[T] | None = await _outcome(future)
        except (CancelledError, asyncio.CancelledError):
            if not future.cancelled() or is_cancelled():
                raise
            outcome = None  # stopped before it had begun
        return self._result(outcome)

    def close(self) -> None:
        """Stop what is under way and release the resource. Any number of times.

        Raises:
            RuntimeError: Called on the loop thread, which would wait for itself.
        """
        self._closed = True
        opened = self._opened
        if opened is not None and opened.lives:
            if opened.loop is _running_loop():
                raise RuntimeError("a blocking call inside async code: await aclose() instead")
            loop_thread.submit(self._release, opened).result()

    async def aclose(self) -> None:
        """As :meth:`close`, without blocking the loop."""
        self._closed = True
        opened = self._opened
        if opened is not None and opened.lives:
            await _outcome(loop_thread.submit(self._release, opened))

    def _check(self) -> None:
        if self._closed:
            raise LlmClosedError("this client was closed: make a new one")

    def _result(self, outcome: tuple[T] | None) -> T:
        if outcome is not None:
            return outcome[0]
        self._check()
        raise LlmClosedError("the runtime was shut down while this call was under way")

    async def _do(self, work: Callable[[R], Awaitable[T]]) -> tuple[T] | None:
        """The work's result, in the loop thread; None where it was stopped."""
        _forget_trio()
        opened, call = await self._here(), asyncio.current_task()
        opened.calls.add(call)
        try:
            return (await work(opened.resource),)
        except asyncio.CancelledError:
            # The caller has gone, or the client or the runtime is being closed.
            return None
        finally:
            opened.calls.discard(call)

    async def _here(self) -> _Opened[R]:
        opened = self._opened
        if opened is None or not opened.lives:
            resource, self._first = self._first or self._open(), None
            # A generator, because a loop closes those that it has begun when it ends itself.
            holder = _held(resource)
            await anext(holder)
            opened = _Opened(resource, holder, asyncio.get_running_loop(), os.getpid())
            self._opened = opened
        return opened

    async def _release(self, opened: _Opened[R]) -> None:
        _forget_trio()
        calls = [call for call in opened.calls if call is not None]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await opened.holder.aclose()
        self._opened = None


class HostedClient(Generic[R]):
    """The lifetime of a client over a host: ``close``, ``aclose``, ``with`` and ``async with``."""

    def __init__(self, host: LoopBound[R]) -> None:
        self._host = host

    def close(self) -> None:
        """Stop calls under way and close the connections. Any number of times.

        Calls after it, and those that it stops, raise LlmClosedError.
        """
        self._host.close()

    async def aclose(self) -> None:
        """As ``close``, without blocking."""
        await self._host.aclose()

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


async def _held(resource: R) -> AsyncGenerator[R, None]:
    try:
        yield resource
    finally:
        await resource.aclose()


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


async def _outcome(future: Future[T]) -> T:
    try:
        if _running_loop() is not None:
            return await asyncio.wrap_future(future)
        # trio: a thread waits in the place of a loop of asyncio's.
        return await run_sync(future.result, abandon_on_cancel=True)
    finally:
        future.cancel()


def _forget_trio() -> None:
    # The work runs in a copy of its caller's context, where trio may have left its mark.
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")
