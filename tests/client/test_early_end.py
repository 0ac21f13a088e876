"""A caller that stops early, is cancelled or fails: the connection goes at once, and silently."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest

from noukai_sdk import AsyncNoukai
from tests.support.service import DONE, STARTED, Reply, Service, output, stream
from tests.support.sides import ASYNC, SYNC, Side

ENDLESS = stream(STARTED, output("x"), then="silence")
ON_ASYNCIO = [side for side in ASYNC if side.backend == "asyncio"]


class Boom(Exception):
    pass


async def execute(flow: Any) -> None:
    await flow.execute(message="hi")


async def consume(flow: Any, *, then_raise: bool = False) -> None:
    async with contextlib.aclosing(flow.events(message="hi")) as events:
        async for _ in events:
            if then_raise:
                raise Boom


def under_way(client: AsyncNoukai) -> int:
    """How many of its HTTP clients are not given back."""
    loops = client._transport.clients._by_loop.values()
    return sum(len(clients._lent) for clients in loops)


@pytest.mark.parametrize("method", ["steps", "events", "live_trace"])
def test_leaving_a_sync_loop(service: Service, method: str) -> None:
    service.says(
        stream({"eventType": "step_completed", "stepId": "a", "output": 1}, then="silence")
    )
    with SYNC.make() as client:
        flow = client.flow("grade-3")
        events = (
            flow.run("e").live_trace()
            if method == "live_trace"
            else getattr(flow, method)(message="hi")
        )
        for _ in events:
            break
        del events
        anyio.run(service.has_disconnects)
        service.says(DONE)
        assert flow.execute(message="hi").status == "completed"


@pytest.mark.parametrize("way", ["close", "closing", "raise", "delete"])
def test_ending_a_sync_stream(service: Service, way: str) -> None:
    service.says(ENDLESS)
    with SYNC.make() as client:
        events = client.flow("grade-3").events(message="hi")
        assert next(events).type == "run_started"
        if way == "close":
            events.close()
            events.close()
        elif way == "closing":
            with contextlib.closing(events):
                assert next(events).type == "step_output"
        elif way == "raise":
            with pytest.raises(Boom):
                events.throw(Boom())
        else:
            del events
        anyio.run(service.has_disconnects)


@pytest.mark.parametrize("side", ON_ASYNCIO, ids=lambda side: side.name, indirect=False)
@pytest.mark.parametrize("method", ["steps", "events", "live_trace"])
def test_leaving_an_async_loop(
    service: Service, side: Side, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without ``aclosing``: asyncio closes what is dropped. (trio asks for ``aclosing``, and warns.)"""
    monkeypatch.setenv("NOUKAI_FAST", "1" if side.fast else "0")
    service.says(
        stream({"eventType": "step_completed", "stepId": "a", "output": 1}, then="silence")
    )

    async def main() -> None:
        async with side.client() as client:
            flow = client.flow("grade-3")
            run = flow.run("e")
            async for _ in (
                run.live_trace() if method == "live_trace" else getattr(flow, method)(message="hi")
            ):
                break
            await service.has_disconnects()
            assert under_way(client) == 0

    asyncio.run(main())


@pytest.mark.parametrize("method", ["steps", "events", "live_trace"])
async def test_closing_an_async_stream(async_side: Side, service: Service, method: str) -> None:
    service.says(
        stream({"eventType": "step_completed", "stepId": "a", "output": 1}, then="silence")
    )
    async with async_side.client() as client:
        flow = client.flow("grade-3")
        events = (
            flow.run("e").live_trace()
            if method == "live_trace"
            else getattr(flow, method)(message="hi")
        )
        async with contextlib.aclosing(events):
            async for _ in events:
                break
        await service.has_disconnects()
        assert under_way(client) == 0
        await events.aclose()
        service.says(DONE)
        assert (await flow.execute(message="hi")).status == "completed"


async def test_an_error_in_the_loops_body(async_side: Side, service: Service) -> None:
    service.says(ENDLESS)
    async with async_side.flow() as flow:
        with pytest.raises(Boom):
            await consume(flow, then_raise=True)
        await service.has_disconnects()


async def test_closing_a_stream_from_another_task(async_side: Side, service: Service) -> None:
    service.says(ENDLESS)
    async with async_side.flow() as flow:
        events = flow.events(message="hi")
        await anext(events)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(events.aclose)
        await service.has_disconnects()


async def test_a_stream_that_was_never_begun(async_side: Side, service: Service) -> None:
    async with async_side.flow() as flow:
        events = flow.events(message="hi")
        await events.aclose()
        del events
        gc.collect()
    assert not service.requests


@pytest.fixture(params=[execute, consume], ids=["execute", "events"])
def long_call(request: pytest.FixtureRequest, service: Service) -> Callable[[Any], Any]:
    """A call that the service does not answer, or not to the end."""
    service.says(ENDLESS if request.param is consume else Reply(DONE, when=Never()))
    return request.param  # type: ignore[no-any-return]  # typed as any, or checked above


class Never:
    def is_set(self) -> bool:
        return False


async def test_a_cancel_scope(async_side: Side, service: Service, long_call: Any) -> None:
    async with async_side.client() as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long_call, client.flow("grade-3"))
            await service.has_requests()
            tasks.cancel_scope.cancel()
        await service.has_disconnects()
        assert under_way(client) == 0
        service.says(DONE)
        assert (await client.flow("grade-3").execute(message="hi")).status == "completed"


async def test_a_timeout_of_the_callers_own(
    async_side: Side, service: Service, long_call: Any
) -> None:
    async def run_out(scope: anyio.CancelScope) -> None:
        await service.has_requests()
        scope.deadline = anyio.current_time()

    async with async_side.client() as client, anyio.create_task_group() as tasks:
        with anyio.move_on_after(60) as scope:
            tasks.start_soon(run_out, scope)
            await long_call(client.flow("grade-3"))
        assert scope.cancelled_caught
        await service.has_disconnects()


async def test_a_sibling_that_fails(async_side: Side, service: Service, long_call: Any) -> None:
    async def fail() -> None:
        await service.has_requests()
        raise Boom

    async def both(flow: Any) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(long_call, flow)
            tasks.start_soon(fail)

    async with async_side.flow() as flow:
        with pytest.raises(Exception, match=r"errors|Exceptions") as caught:
            await both(flow)
        assert [type(error) for error in caught.value.exceptions] == [Boom]  # type: ignore[attr-defined]  # typed as any, or checked above
        await service.has_disconnects()


@pytest.mark.parametrize("fast", [False, True])
def test_a_cancelled_task(
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
            await service.has_disconnects()
            assert under_way(client) == 0

    asyncio.run(main())


@pytest.mark.parametrize("fast", [False, True])
def test_a_stream_that_is_open_when_the_loop_ends(
    service: Service, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held by a reference, so that only the loop's own end closes it."""
    monkeypatch.setenv("NOUKAI_FAST", str(int(fast)))
    service.says(ENDLESS)
    held = []

    async def main() -> None:
        events = client.flow("grade-3").events(message="hi")
        held.append(events)
        await anext(events)

    client = Side("asyncio").make()
    asyncio.run(main())
    anyio.run(service.has_disconnects)


async def test_cancelled_while_it_waits_for_a_retry(async_side: Side, service: Service) -> None:
    service.says(Reply(None, 503, {"retry-after": "200"}))
    told: list[str] = []
    async with (
        async_side.flow(log_handler=lambda event: told.append(event["phase"])) as flow,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(flow.run("e").trace)
        while "retry" not in told:
            await anyio.sleep(0.005)
        tasks.cancel_scope.cancel()
    assert len(service.requests) == 1
