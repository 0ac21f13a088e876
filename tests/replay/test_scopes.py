"""Replay scopes beside each other, inside each other, and after their end."""

# ruff: noqa: PT031 - calls and the end of a scope warn, so its block is what is tested

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import anyio
import pytest

from noukai_sdk import (
    ReplayLeftoverError,
    ReplayMissError,
    current_session_id,
    trace,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.replay.player import ReplayConcurrencyWarning
from noukai_sdk.session.scope import current_scope
from tests.replay.service import (
    TOOLS,
    AsyncSide,
    Service,
    Side,
    SyncSide,
    execution,
    step,
    together,
    weather,
)

pytestmark = pytest.mark.anyio


async def test_two_scopes_at_once_do_not_see_each_other(
    service: Service, async_side: AsyncSide
) -> None:
    count = 20
    for number in range(count):
        steps = [step(output=[number, n]) for n in range(3)]
        service.record(
            *(execution(n, steps=[each]) for n, each in enumerate(steps)), session_id=f"s-{number}"
        )
    results: dict[int, list[Any]] = {}

    async def request(number: int) -> None:
        async with async_side.scope(f"s-{number}") as scope:
            results[number] = []
            for n in range(3):
                assert current_session_id() == f"s-{number}"
                results[number].append((await async_side.execute(f"m{n}")).result)
        assert scope.report.clean

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(request, number)
    assert results == {n: [[n, 0], [n, 1], [n, 2]] for n in range(count)}


async def test_a_nested_scope_is_its_own_and_gives_the_outer_one_back(
    service: Service, side: Side
) -> None:
    service.record(execution(0, "outer"), execution(1, "outer again"))
    service.record(execution(0, "inner"), session_id="s-2")
    async with side.scope() as outer:
        assert (await side.execute("outer")).result == "answer to outer"
        async with side.scope("s-2") as inner:
            assert (await side.execute("inner")).result == "answer to inner"
        assert current_scope() is outer
        assert (await side.execute("outer again")).result == "answer to outer again"
    assert (len(outer.report.hits), len(inner.report.hits)) == (2, 1)


async def test_a_traced_function_joins_the_replay(service: Service, side: Side) -> None:
    service.record(execution(0))

    @trace
    async def handle() -> Any:
        return (await side.execute()).result

    async with side.scope():
        assert await handle() == "answer to m0"


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, GeneratorExit])
async def test_nothing_leaks_after_an_error(
    service: Service, side: Side, error: type[BaseException]
) -> None:
    service.record(execution(0))
    with pytest.raises(error):
        async with side.scope():
            raise error
    assert current_scope() is None


async def test_nothing_leaks_after_a_miss(service: Service, side: Side) -> None:
    service.record()
    with pytest.raises(ReplayMissError):
        async with side.scope():
            await side.execute()
    assert current_scope() is None


async def test_nothing_is_raised_over_a_cancellation(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    with anyio.CancelScope() as cancelled:
        async with async_side.scope() as scope:
            cancelled.cancel()
            await async_side.execute()
    assert cancelled.cancelled_caught
    assert current_scope() is None
    assert [entry.position for entry in scope.report.leftovers] == [1]


async def test_a_task_that_outlives_its_scope_never_goes_live(
    service: Service, async_side: AsyncSide
) -> None:
    service.record()
    refused = []
    gone = anyio.Event()

    async def background() -> None:
        await gone.wait()
        assert current_session_id() == "s-1"
        for call in (async_side.execute, async_side.events, async_side.submit):
            with pytest.raises(ReplayMissError, match="ended already") as caught:
                await call("late")
            refused.append(caught.value.kind)

    async with anyio.create_task_group() as tasks:
        async with async_side.scope() as scope:
            tasks.start_soon(background)
            await anyio.lowlevel.checkpoint()
        gone.set()
    assert refused == ["execute", "step", "job"]
    assert len(scope.report.misses) == 3


async def test_a_call_that_was_made_inside_and_awaited_outside_is_late(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0))
    with pytest.raises(ReplayLeftoverError) as caught:
        async with async_side.scope():
            late = async_side.flow().execute(message="m0")
    assert caught.value.leftovers == (("grade-3", 0),)
    with pytest.raises(ReplayMissError, match="ended already"):
        await late


async def test_a_thread_that_outlives_its_scope_never_goes_live(
    service: Service, sync_side: SyncSide
) -> None:
    service.record()
    gone = threading.Event()

    def background() -> str:
        assert gone.wait(10)
        with pytest.raises(ReplayMissError, match="ended already"):
            sync_side.flow().execute(message="late")
        return "refused"

    async def both() -> None:
        async with sync_side.scope():
            tasks.start_soon(in_thread)
            await anyio.lowlevel.checkpoint()
        gone.set()

    outcomes = []

    async def in_thread() -> None:
        outcomes.append(await anyio.to_thread.run_sync(background))

    async with anyio.create_task_group() as tasks:
        await both()
    assert outcomes == ["refused"]


async def test_a_pause_can_be_resumed_after_the_scope(service: Service, side: Side) -> None:
    service.record(weather())
    async with side.scope():
        paused = await side.execute("weather?", tools=TOOLS)
    paused = await side.resume(paused, [{"tool_call_id": "call_1", "output": "sunny"}])
    results = [{"tool_call_id": f"call_{n}", "output": "?"} for n in (2, 3)]
    assert (await side.resume(paused, results)).result == "sunny, hot, snow"


async def test_a_stream_that_is_open_at_the_end_goes_on(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0, triggerType="step"))
    async with async_side.scope() as scope:
        events = async_side.flow().events(message="m0")
        await anext(events)
    assert [event.type async for event in events][-1] == "flow_completed"
    assert scope.report.clean


async def test_tasks_of_a_group_share_the_scope(
    service: Service, async_side: AsyncSide, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own tasks")
    service.record(*together(4))

    async def nested(first: str, second: str) -> list[Any]:
        flow = async_side.flow()
        results = await asyncio.gather(flow.execute(message=first), flow.execute(message=second))
        return [result.result for result in results]

    with pytest.warns(ReplayConcurrencyWarning):
        async with async_side.scope() as scope:
            tasks = [
                asyncio.create_task(nested("m3", "m1")),
                asyncio.create_task(nested("m0", "m2")),
            ]
            both = await asyncio.gather(*tasks)
    assert both == [["answer to m3", "answer to m1"], ["answer to m0", "answer to m2"]]
    assert scope.report.clean


async def test_to_thread_carries_the_scope(service: Service, sync_side: SyncSide) -> None:
    service.record(execution(0))
    async with sync_side.scope():
        flow = sync_side.flow()
        result = await anyio.to_thread.run_sync(lambda: flow.execute(message="m0"))
    assert result.result == "answer to m0"


async def test_a_sync_client_in_an_async_scope_and_the_other_way_round(
    service: Service, sync_side: SyncSide, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    async with trace_scope(replay_session_id="s-1", client=async_side.client):
        assert (await sync_side.execute("m0")).result == "answer to m0"
        assert (await async_side.execute("m1")).result == "answer to m1"
    with trace_scope_sync(replay_session_id="s-1", client=sync_side.client):
        assert (await async_side.execute("m0")).result == "answer to m0"
        assert (await sync_side.execute("m1")).result == "answer to m1"


async def test_an_ended_scope_is_let_go(service: Service, side: Side) -> None:
    import weakref

    service.record(execution(0))
    async with side.scope() as scope:
        await side.execute()
    seen = weakref.ref(scope)
    del scope
    gc.collect()
    assert seen() is None
