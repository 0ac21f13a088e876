from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar

import anyio
import pytest

from noukai_sdk.local.engine.stream import producer_stream

pytestmark = pytest.mark.anyio

Emit = Callable[[int], Awaitable[None]]


class Producer:
    """Hands over numbers and remembers how far it came."""

    def __init__(self, count: int = 3, error: Exception | None = None) -> None:
        self.made: list[int] = []
        self.stopped = anyio.Event()
        self._count = count
        self._error = error

    async def __call__(self, emit: Emit) -> None:
        try:
            async with anyio.create_task_group():
                for number in range(self._count):
                    self.made.append(number)
                    await emit(number)
        finally:
            self.stopped.set()
        if self._error is not None:
            raise self._error


async def test_items_come_in_order() -> None:
    assert [item async for item in producer_stream(Producer())] == [0, 1, 2]


async def test_an_error_comes_after_the_items() -> None:
    items = producer_stream(Producer(2, ValueError("late")))
    assert [await anext(items), await anext(items)] == [0, 1]
    with pytest.raises(ValueError, match="late"):
        await anext(items)


async def test_the_producer_does_not_run_ahead() -> None:
    producer = Producer(100)
    async with aclosing(producer_stream(producer)) as items:
        await anext(items)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert len(producer.made) <= 2


async def test_closing_stops_the_producer_and_waits_for_it() -> None:
    producer = Producer(100)
    items = producer_stream(producer)
    await anext(items)
    await items.aclose()
    assert producer.stopped.is_set()


async def test_every_item_may_be_asked_for_by_another_task_in_another_scope() -> None:
    items = producer_stream(Producer(3))
    got: list[int] = []

    async def ask() -> None:
        with anyio.fail_after(10):
            got.append(await anext(items))

    for _ in range(3):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
    async with anyio.create_task_group() as group:
        group.start_soon(items.aclose)
    assert got == [0, 1, 2]


async def test_cancelling_the_consumer_stops_the_producer() -> None:
    stopped = anyio.Event()

    async def hang(emit: Emit) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            stopped.set()

    with anyio.move_on_after(0.05):
        async for _ in producer_stream(hang):
            pass
    assert stopped.is_set()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_garbage_collection_stops_the_producer() -> None:
    producer = Producer(100)
    items = producer_stream(producer)
    await anext(items)
    del items
    gc.collect()
    with anyio.fail_after(10):
        await producer.stopped.wait()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_producer_that_is_cancelled_before_it_begins_is_no_trouble() -> None:
    """A loop that ends cancels all tasks, also those that it has not started yet."""
    producer = Producer()
    items = producer_stream(producer)
    known = asyncio.all_tasks()
    asking = asyncio.create_task(anext(items))
    await asyncio.sleep(0)
    for task in asyncio.all_tasks() - known:
        task.cancel()
    with anyio.fail_after(10), pytest.raises((asyncio.CancelledError, StopAsyncIteration)):
        await asking
    assert producer.made == []


async def test_the_producer_has_the_context_of_the_consumer() -> None:
    variable: ContextVar[str] = ContextVar("variable", default="lost")
    variable.set("kept")

    async def produce(emit: Callable[[str], Awaitable[None]]) -> None:
        await emit(variable.get())

    assert [item async for item in producer_stream(produce)] == ["kept"]


async def test_what_ends_more_than_the_producer_is_raised_too() -> None:
    class Rare(BaseException):
        pass

    async def produce(take: Callable[[int], Awaitable[None]]) -> None:
        await take(1)
        raise Rare

    with pytest.raises(Rare):
        async for _ in producer_stream(produce):
            pass
