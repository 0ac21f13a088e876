"""Streams over a task of their own, on asyncio and trio, and event streams left before their end."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, LlmClient, LlmConfig, Node
from noukai_sdk.local.engine.stream import producer_stream
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio

Send = Callable[[int | None], Awaitable[None]]

on_both = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])


class Producer:
    """Sends numbers, and remembers how far it came."""

    def __init__(self, count: int = 3, error: BaseException | None = None) -> None:
        self.sent: list[int] = []
        self.stopped = anyio.Event()
        self._count = count
        self._error = error

    async def __call__(self, send: Send) -> None:
        try:
            async with anyio.create_task_group():
                for number in range(self._count):
                    self.sent.append(number)
                    await send(number)
        finally:
            self.stopped.set()
        if self._error is not None:
            raise self._error


@on_both
async def test_producer_stream_yields_items_in_order_and_in_context() -> None:
    assert [item async for item in producer_stream(Producer())] == [0, 1, 2]
    variable: ContextVar[int] = ContextVar("variable")
    variable.set(7)

    async def produce(send: Send) -> None:
        await send(variable.get())
        await send(None)

    assert [item async for item in producer_stream(produce)] == [7]


class Rare(BaseException):
    """Like pytest's own outcomes: not an Exception."""


@on_both
@pytest.mark.parametrize("error", [ValueError("late"), Rare("late")])
async def test_producer_stream_raises_error_after_items(error: BaseException) -> None:
    items = producer_stream(Producer(2, error))
    assert [await anext(items), await anext(items)] == [0, 1]
    with pytest.raises(type(error), match="late"):
        await anext(items)


@on_both
async def test_producer_stream_does_not_run_ahead_and_stops_when_closed() -> None:
    producer = Producer(100)
    async with aclosing(producer_stream(producer)) as items:
        await anext(items)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert len(producer.sent) <= 2
    assert producer.stopped.is_set()


@on_both
async def test_producer_stream_can_be_read_and_closed_by_other_tasks() -> None:
    items = producer_stream(Producer(3))
    received: list[int] = []

    async def read() -> None:
        with anyio.fail_after(30):
            received.append(await anext(items))

    for step in (read, read, read, items.aclose):
        async with anyio.create_task_group() as group:
            group.start_soon(step)
    assert received == [0, 1, 2]


@on_both
async def test_producer_stream_stops_when_consumer_is_cancelled() -> None:
    stopped = anyio.Event()

    async def hang(send: Send) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    with anyio.move_on_after(0.05):
        async for _ in producer_stream(hang):
            pass
    assert stopped.is_set()


async def test_producer_cancelled_before_its_first_step_ends_stream() -> None:
    """A loop that ends cancels all tasks, even those that it has not started yet."""
    producer = Producer()
    items = producer_stream(producer)
    known = asyncio.all_tasks()
    reading = asyncio.create_task(anext(items))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - known:
        task.cancel()
    with anyio.fail_after(30), pytest.raises((asyncio.CancelledError, StopAsyncIteration)):
        await reading
    assert producer.sent == []


class Forever:
    """A node's function that never ends, and says when it has been stopped."""

    def __init__(self) -> None:
        self.stopped = anyio.Event()

    async def __call__(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.stopped.set()


# trio does not close generators by itself, and warns about them.
async def test_event_stream_dropped_stops_its_run() -> None:
    work = Forever()

    async def leave_early() -> None:
        async for event in Executor().execute_streaming(workflow_of(Node.function("wait", work))):
            if event.type == "step_input":
                break

    await leave_early()
    gc.collect()
    with anyio.fail_after(30):
        await work.stopped.wait()


async def test_event_stream_open_when_loop_ends_is_closed_without_errors() -> None:
    work, kept, errors = Forever(), [], []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
        events: Any = Executor().execute_streaming(workflow_of(Node.function("wait", work)))
        chunks: Any = LlmClient(LlmConfig.offline()).complete_stream("Hello there")
        kept.extend([events, chunks])
        async for event in events:
            if event.type == "step_input":
                break
        async for _ in chunks:
            break

    await anyio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert work.stopped.is_set()
    assert errors == []
