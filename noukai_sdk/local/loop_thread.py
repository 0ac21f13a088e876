"""One event loop in a thread of its own, for blocking calls into async code.

All blocking calls of the process share it, so that models keep their connections between calls, from
whichever thread those come; and a blocking call works where a loop is running already, as in Jupyter.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from concurrent.futures import wait
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, TypeVar

from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.lowlevel import checkpoint

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
        self._portal: BlockingPortal | None = None
        self._thread_id: int | None = None
        self._exits = ExitStack()

    @property
    def is_running(self) -> bool:
        """Whether there is a thread."""
        return self._portal is not None

    def limit(self, most_calls: int) -> None:
        """Let further calls wait, from now on, where so many are under way."""
        self.most_calls = most_calls
        self._turns = threading.BoundedSemaphore(most_calls)

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run an async function on the loop and wait for its result, or raise what it raises.

        An interrupt (Ctrl-C) cancels the function.

        Raises:
            RuntimeError: Called on the loop's own thread, which would wait for itself.
        """
        portal = self._started()
        if self._thread_id == threading.get_ident():
            raise RuntimeError("a blocking call inside async code: await the async form instead")
        with self._turns:
            future = portal.start_task_soon(function, *args)
            try:
                return future.result()
            finally:
                future.cancel()

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
            portal, self._portal = self._portal, None
            exits, self._exits = self._exits, ExitStack()
        if portal is not None:
            portal.call(portal.stop, True)
        exits.close()

    def forget(self) -> None:
        """Act as if never started: in a forked child the thread does not exist."""
        self._lock = threading.Lock()
        self._portal = None
        self._exits = ExitStack()

    def responds(self, within: float) -> bool | None:
        """Whether the loop answers within so many seconds; None where it is not running."""
        portal = self._portal
        return (
            None
            if portal is None
            else bool(wait([portal.start_task_soon(checkpoint)], within).done)
        )

    def _started(self) -> BlockingPortal:
        with self._lock:
            if self._portal is None:
                portal = start_blocking_portal(name="noukai-loop")
                self._portal = self._exits.enter_context(portal)
                self._thread_id = self._portal.call(_thread_id)
            return self._portal


async def _thread_id() -> int:
    return threading.get_ident()


async def _next(items: AsyncGenerator[T, None], end: T) -> T:
    return await anext(items, end)


loop_thread = LoopThread()
"""The one of this process."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=loop_thread.forget)
