"""An async generator over what a task of its own produces.

The producer holds task groups and timeouts open while the consumer has the turn. In the generator
itself those would belong to whichever task happens to ask for the next item: they break where the
generator is closed by another task or by garbage collection. So the producer has a task to itself,
and every item is handed over by hand: it does not run ahead of the consumer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextvars import copy_context
from typing import Any, Generic, TypeVar

import anyio

T = TypeVar("T")
Produce = Callable[[Callable[[T | None], Awaitable[None]]], Awaitable[None]]
"""Gets the function that hands over an item, which returns when the consumer has taken it. None is
taken as well, when the consumer asks for the next item, but is none."""


async def handed_over(produce: Produce[T]) -> AsyncGenerator[T, None]:
    """The items that ``produce`` hands over; raises what it raises. Closing it stops the producer."""
    task = _Task(produce)
    try:
        async for item in task.items:
            if item is not None:
                yield item
        task.check()
    finally:
        await task.stop()


class _Task(Generic[T]):
    def __init__(self, produce: Produce[T]) -> None:
        self._send, self.items = anyio.create_memory_object_stream[T | None](0)
        self._produce = produce
        self._scope = anyio.CancelScope()
        self._finished = anyio.Event()
        self._error: BaseException | None = None
        self._native = _spawn(self._run, self._end)

    async def _run(self) -> None:
        try:
            with self._scope:
                await self._produce(self._send.send)
        except BaseException as error:
            # It belongs to the consumer, who raises it; a cancelled loop has to go on as well.
            self._error = error
            if isinstance(error, GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
        finally:
            self._end()

    def _end(self, _: object = None) -> None:
        self._send.close()
        self._finished.set()

    def check(self) -> None:
        """Raise what the producer has raised."""
        if self._error is not None:
            raise self._error

    async def stop(self) -> None:
        """Cancel the producer and wait until it has cleaned up."""
        self._scope.cancel()
        with anyio.CancelScope(shield=True):
            await self._finished.wait()
        self.items.close()


def _spawn(run: Callable[[], Awaitable[None]], end: Callable[[object], None]) -> Any:
    """Start a task outside of every task group; the caller keeps what this gives."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.spawn_system_task(run, context=copy_context())
    task = loop.create_task(_coroutine(run))
    # A task that is cancelled before its first step runs none of its code, not even a finally.
    task.add_done_callback(end)
    return task


async def _coroutine(run: Callable[[], Awaitable[None]]) -> None:
    await run()
