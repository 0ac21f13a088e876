"""Event streams over a task of their own, for ``async for`` and for ``for``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextvars import copy_context
from typing import Any, TypeVar

import anyio

from ...models.events import StreamEvent
from ..runtime.loop_thread import loop_thread
from .result import WorkflowResult
from .step_context import Models

T = TypeVar("T")

Send = Callable[[T | None], Awaitable[None]]
"""Sends an item to the consumer, and returns when the consumer has taken it. It also sends None, which the
consumer never sees: it returns when the consumer asks for the next item."""


class EventStream:
    """The events of a run. Iterating it runs the workflow, once; leaving the loop stops the run.

    Example:
        >>> for event in executor.execute_streaming(workflow):    # doctest: +SKIP
        ...     print(event.type)
    """

    def __init__(
        self,
        run: Callable[[Models, Send[StreamEvent]], Awaitable[WorkflowResult]],
        open_models: Callable[[], Awaitable[Models]],
    ) -> None:
        # The producer must not refer to this object: dropping the last reference ends the run.
        results: list[WorkflowResult] = []

        async def produce(send: Send[StreamEvent]) -> None:
            results.append(await run(await open_models(), send))

        self._results = results
        self._events: AsyncGenerator[StreamEvent, None] = producer_stream(produce)

    @property
    def result(self) -> WorkflowResult | None:
        """The outcome of the run; None before the stream has ended."""
        return self._results[0] if self._results else None

    def __aiter__(self) -> AsyncIterator[StreamEvent]:
        return self._events

    def __iter__(self) -> Iterator[StreamEvent]:
        return loop_thread.iterate(self._events)

    async def aclose(self) -> None:
        """Stop the run, if the stream has not ended."""
        await self._events.aclose()


async def producer_stream(
    produce: Callable[[Send[T]], Awaitable[None]],
) -> AsyncGenerator[T, None]:
    """Yield the items that ``produce`` sends from a task of its own, and raise what it raises.

    The producer holds task groups and timeouts open while the consumer works on an item. Inside the
    generator these would belong to the task that asks for the next item, and break when another task
    or the garbage collector closes the generator. The producer does not run ahead: each item waits
    until the consumer takes it. Closing the generator stops the producer.
    """
    send, receive = anyio.create_memory_object_stream[T | None](0)
    scope = anyio.CancelScope()
    finished = anyio.Event()
    error: BaseException | None = None

    def finish(_: object = None) -> None:
        send.close()
        finished.set()

    async def run() -> None:
        nonlocal error
        try:
            with scope:
                await produce(send.send)
        except BaseException as raised:
            # The consumer raises it. The task raises it too if it means that the task must end.
            error = raised
            if isinstance(raised, GeneratorExit | anyio.get_cancelled_exc_class()):
                raise
        finally:
            finish()

    _task = _spawn(run, finish)  # event loops hold tasks by weak references only
    try:
        async for item in receive:
            if item is not None:
                yield item
        if error is not None:
            raise error
    finally:
        scope.cancel()
        with anyio.CancelScope(shield=True):
            await finished.wait()
        receive.close()


def _spawn(run: Callable[[], Any], on_end: Callable[[object], None]) -> Any:
    """Start a task outside of every task group, and return it."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        import trio

        return trio.lowlevel.spawn_system_task(run, context=copy_context())
    task = loop.create_task(run())
    # A task that is cancelled before its first step runs none of its code, not even a finally.
    task.add_done_callback(on_end)
    return task
