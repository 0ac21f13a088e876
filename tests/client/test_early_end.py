"""A caller that stops early, is cancelled or fails: the connection is closed at once, and silently."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from noukai_sdk import AsyncNoukai
from tests.support.service import DONE, NEVER, STARTED, Reply, Service, finished, output, stream
from tests.support.sides import ASYNC, SYNC, Side

ENDLESS = stream(STARTED, output("x"), then="silence")
ENDLESS_STEPS = stream(finished("a"), then="silence")
METHODS = ["steps", "events", "live_trace"]


class Boom(Exception):
    pass


def stream_of(flow: Any, method: str) -> Any:
    """Return the stream of that method."""
    if method == "live_trace":
        return flow.run("e").live_trace()
    return getattr(flow, method)(message="hi")


def leased(client: AsyncNoukai) -> int:
    """Return how many of its HTTP clients are under way."""
    loops = client._transport.clients._by_loop.values()
    return sum(len(clients._lent) for clients in loops)


async def has_recovered(client: Any, service: Service) -> None:
    """Wait for the disconnect, then call again."""
    await service.has_disconnects()
    assert leased(client) == 0
    service.reply(DONE)
    assert (await client.flow("grade-3").execute(message="hi")).status == "completed"


@pytest.mark.parametrize("method", METHODS)
def test_sync_loop_left_early_disconnects(service: Service, method: str) -> None:
    service.reply(ENDLESS_STEPS)
    with SYNC.make() as client:
        events = stream_of(client.flow("grade-3"), method)
        for _ in events:
            break
        del events
        anyio.run(service.has_disconnects)
        service.reply(DONE)
        assert client.flow("grade-3").execute(message="hi").status == "completed"


@pytest.mark.parametrize("way", ["close", "closing", "raise"])
def test_sync_stream_ended_any_way_disconnects(service: Service, way: str) -> None:
    service.reply(ENDLESS)
    with SYNC.make() as client:
        events = client.flow("grade-3").events(message="hi")
        assert next(events).type == "run_started"
        if way == "close":
            events.close()
            events.close()
        elif way == "closing":
            with contextlib.closing(events):
                assert next(events).type == "step_output"
        else:
            with pytest.raises(Boom), events:
                raise Boom
        anyio.run(service.has_disconnects)


@pytest.mark.parametrize("fast", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_async_loop_left_early_disconnects(
    service: Service, method: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``aclosing``: asyncio closes dropped generators. (trio requires ``aclosing``, and warns.)"""
    monkeypatch.setenv("NOUKAI_FAST", str(int(fast)))
    service.reply(ENDLESS_STEPS)

    async def main() -> None:
        async with Side("asyncio").client() as client:
            async for _ in stream_of(client.flow("grade-3"), method):
                break
            await has_recovered(client, service)

    asyncio.run(main())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", ["break", "raise", "other task"])
async def test_async_stream_ended_any_way_disconnects(
    every_async_side: Side, service: Service, method: str, way: str
) -> None:
    service.reply(ENDLESS_STEPS)
    async with every_async_side.client() as client:
        events = stream_of(client.flow("grade-3"), method)
        with contextlib.suppress(Boom):
            async with contextlib.aclosing(events):
                async for _ in events:
                    if way == "raise":
                        raise Boom
                    break
                if way == "other task":
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(events.aclose)
        await has_recovered(client, service)
        await events.aclose()


async def test_async_stream_never_begun_sends_nothing(
    every_async_side: Side, service: Service
) -> None:
    async with every_async_side.flow() as flow:
        events = flow.events(message="hi")
        await events.aclose()
        del events
        gc.collect()
    assert not service.requests


async def execute(flow: Any) -> None:
    await flow.execute(message="hi")


async def consume(flow: Any) -> None:
    async with contextlib.aclosing(flow.events(message="hi")) as events:
        async for _ in events:
            pass


@pytest.fixture(params=[execute, consume], ids=["execute", "events"])
def long_call(request: pytest.FixtureRequest, service: Service) -> Callable[[Any], Any]:
    """Return a call that the service never responds to, or not to the end."""
    service.reply(ENDLESS if request.param is consume else Reply(DONE, when=NEVER))
    return request.param  # type: ignore[no-any-return]  # one of the two


@pytest.mark.parametrize("way", ["cancel", "deadline", "sibling"])
async def test_call_cancelled_by_task_group_disconnects(
    every_async_side: Side, service: Service, long_call: Any, way: str
) -> None:
    async def stop(scope: anyio.CancelScope) -> None:
        await service.has_requests()
        if way == "cancel":
            scope.cancel()
        elif way == "deadline":
            scope.deadline = anyio.current_time()
        else:
            raise Boom

    async def both(flow: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop, tasks.cancel_scope)
            tasks.start_soon(long_call, flow)

    async with every_async_side.client() as client:
        if way == "sibling":
            with pytest.raises(Exception, match=r"errors|Exceptions") as caught:
                await both(client.flow("grade-3"))
            assert [type(error) for error in caught.value.exceptions] == [Boom]  # type: ignore[attr-defined]  # an exception group
        else:
            await both(client.flow("grade-3"))
        await has_recovered(client, service)


@pytest.mark.parametrize("fast", [False, True])
def test_call_in_cancelled_asyncio_task_disconnects(
    service: Service, long_call: Any, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_FAST", str(int(fast)))

    async def main() -> None:
        async with Side("asyncio").client() as client:
            task = asyncio.create_task(long_call(client.flow("grade-3")))
            await service.has_requests()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert task.cancelled()
            await has_recovered(client, service)

    asyncio.run(main())


@pytest.mark.parametrize("side", ASYNC[:2], ids=lambda side: side.name, indirect=False)
def test_stream_open_when_event_loop_ends_disconnects(
    service: Service, side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reference holds the stream, so that only the end of the loop closes it."""
    monkeypatch.setenv("NOUKAI_FAST", str(int(side.fast)))
    service.reply(ENDLESS)
    held = []

    async def main() -> None:
        events = client.flow("grade-3").events(message="hi")
        held.append(events)
        await anext(events)

    client = side.make()
    asyncio.run(main())
    anyio.run(service.has_disconnects)


async def test_call_cancelled_before_retry_sends_no_more(
    async_side: Side, service: Service
) -> None:
    service.reply(Reply(None, 503, {"retry-after": "200"}))
    retried = anyio.Event()

    def on_phase(event: dict[str, Any]) -> None:
        if event["phase"] == "retry":
            retried.set()

    async with async_side.flow(log_handler=on_phase) as flow, anyio.create_task_group() as tasks:
        tasks.start_soon(flow.run("e").trace)
        await retried.wait()
        tasks.cancel_scope.cancel()
    assert len(service.requests) == 1
