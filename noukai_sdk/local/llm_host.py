"""One pooled resource in an event loop of its own, used from any thread and any loop.

Connections belong to the event loop that opened them. A client that lives through several
``asyncio.run`` and is called from sync code as well therefore keeps its pool in one loop, in a daemon
thread, and all callers send their work there: 0.1 ms a call, small beside any model.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from anyio.to_thread import run_sync

from .llm_errors import LlmClosedError

if TYPE_CHECKING:
    from typing_extensions import Self

_JOIN_SECONDS = 5.0


class Closable(Protocol):
    """What a host can hold."""

    async def aclose(self) -> None:
        """Release everything."""
        ...


R = TypeVar("R", bound=Closable)
T = TypeVar("T")


class Host(Generic[R]):
    """Opens a resource at once, so that a wrong setting is told at once; its thread starts at need.

    Args:
        open_resource: Opens it; called once more in each forked child that uses it.
    """

    def __init__(self, open_resource: Callable[[], R]) -> None:
        self._open = open_resource
        self._pid = os.getpid()
        self._resource = open_resource()
        self._thread: _LoopThread | None = None
        self._lock = threading.Lock()
        self._closed = False

    def run(self, work: Callable[[R], Awaitable[T]]) -> T:
        """Do ``work`` with the resource and block until it is done; stop it when interrupted.

        Raises:
            LlmClosedError: The host is closed, or was closed meanwhile.
        """
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def wait(self, work: Callable[[R], Awaitable[T]]) -> T:
        """As :meth:`run`, for a task; stops the work when the task is cancelled."""
        future = self._submit(work)
        awaitable: Awaitable[T]
        if _asyncio_runs():
            awaitable = asyncio.wrap_future(future)
        else:
            awaitable = run_sync(future.result, abandon_on_cancel=True)
        try:
            return await awaitable
        finally:
            future.cancel()

    def close(self) -> None:
        """Stop what is under way, release the resource, end the thread. Any number of times."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.stop()

    async def aclose(self) -> None:
        """As :meth:`close`, without blocking the loop."""
        await run_sync(self.close)

    def _submit(self, work: Callable[[R], Awaitable[T]]) -> Future[T]:
        with self._lock:
            if self._closed:
                raise LlmClosedError("this client was closed: make a new one")
            if self._pid != os.getpid():
                # A forked child has neither the thread nor connections of its own.
                self._pid, self._thread, self._resource = os.getpid(), None, self._open()
            if self._thread is None:
                self._thread = _LoopThread(self._resource)
                weakref.finalize(self, self._thread.stop)
            return self._thread.submit(work, self._resource)


class HostedClient(Generic[R]):
    """The lifetime of a client over a host: ``close``, ``aclose``, ``with`` and ``async with``."""

    def __init__(self, host: Host[R]) -> None:
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


class _LoopThread:
    """An event loop in a daemon thread, with the resource that it closes at its end."""

    def __init__(self, resource: Closable) -> None:
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        # Keeps no reference to this object, so that nothing keeps it alive but its users.
        self._thread = threading.Thread(
            target=lambda: asyncio.run(_serve(resource, started)), name="noukai-llm", daemon=True
        )
        self._thread.start()
        self._loop, self._stopping = started.result()

    def submit(self, work: Callable[[R], Awaitable[T]], resource: R) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(
            _guarded(work, resource, self._stopping), self._loop
        )

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        with suppress(RuntimeError):  # the loop has closed since
            self._loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not threading.current_thread():
            self._thread.join(_JOIN_SECONDS)


async def _serve(
    resource: Closable, started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]
) -> None:
    stopping = asyncio.Event()
    started.set_result((asyncio.get_running_loop(), stopping))
    await stopping.wait()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await resource.aclose()


async def _guarded(work: Callable[[R], Awaitable[T]], resource: R, stopping: asyncio.Event) -> T:
    _forget_trio()
    try:
        return await work(resource)
    except asyncio.CancelledError:
        if stopping.is_set():
            raise LlmClosedError("the client was closed while this call was under way") from None
        raise


def _forget_trio() -> None:
    # The work runs in a copy of its caller's context, where trio may have left its mark.
    sniffio: Any = sys.modules.get("sniffio")
    if sniffio is not None:
        sniffio.current_async_library_cvar.set("asyncio")


def _asyncio_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
