"""Replay scopes: side by side, nested, shared by tasks and threads, and after their end."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
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
from tests.support.replays import (
    TOOLS,
    AsyncSide,
    SessionService,
    SyncSide,
    execution,
    step,
    together,
    weather,
)

pytestmark = pytest.mark.anyio


async def test_concurrent_scopes_do_not_see_each_other(
    service: SessionService, async_side: AsyncSide
) -> None:
    for number in range(20):
        calls = (execution(n, steps=[step(output=[number, n])]) for n in range(3))
        service.record(*calls, session_id=f"s-{number}")

    async def request(number: int) -> list[Any]:
        async with async_side.scope(f"s-{number}") as scope:
            results = []
            for n in range(3):
                assert current_session_id() == f"s-{number}"
                results += await async_side.ask(f"m{n}")
        assert scope.report.clean
        return results

    results = await asyncio.gather(*(request(number) for number in range(20)))
    assert results == [[[n, 0], [n, 1], [n, 2]] for n in range(20)]


async def test_nested_scope_is_separate_and_traced_function_joins(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0, "outer"), execution(1, "traced"))
    service.record(execution(0, "inner"), session_id="s-2")

    @trace
    async def traced() -> Any:
        return await side.ask("traced")

    async with side.scope() as outer:
        assert await side.ask("outer") == ["answer to outer"]
        async with side.scope("s-2") as inner:
            assert await side.ask("inner") == ["answer to inner"]
        assert current_scope() is outer
        assert await traced() == ["answer to traced"]
    assert (len(outer.report.hits), len(inner.report.hits)) == (2, 1)


async def test_scope_is_restored_after_any_error(service: SessionService, side: SyncSide) -> None:
    service.record(execution(0))
    for error in (ZeroDivisionError, KeyboardInterrupt, GeneratorExit):
        with pytest.raises(error):
            async with side.scope():
                raise error
        assert current_scope() is None
    with pytest.raises(ReplayMissError):
        async with side.scope():
            await side.execute(slug="a/b/never-called")
    assert current_scope() is None


async def test_scope_that_is_cancelled_raises_nothing_over_the_cancellation(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    with anyio.CancelScope() as cancelled:
        async with async_side.scope() as scope:
            cancelled.cancel()
            await async_side.execute()
    assert cancelled.cancelled_caught
    assert current_scope() is None
    assert [entry.position for entry in scope.report.leftovers] == [1]


async def test_task_that_outlives_its_scope_never_goes_live(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record()
    ended = asyncio.Event()

    async def background() -> list[Any]:
        await ended.wait()
        assert current_session_id() == "s-1"
        refused = []
        for call in (async_side.execute, async_side.events, async_side.submit):
            with pytest.raises(ReplayMissError, match="ended already") as caught:
                await call("late")
            refused.append(caught.value.kind)
        return refused

    async with async_side.scope() as scope:
        task = asyncio.create_task(background())
    ended.set()
    assert await task == ["execute", "step", "job"]
    assert len(scope.report.misses) == 3


async def test_call_made_inside_and_awaited_after_the_scope_is_refused(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0))
    with pytest.raises(ReplayLeftoverError) as caught:
        async with async_side.scope():
            late = async_side.flow().execute(message="m0")
    assert caught.value.leftovers == (("grade-3", 0),)
    with pytest.raises(ReplayMissError, match="ended already"):
        await late


async def test_thread_carries_the_scope_and_never_goes_live_after_it(
    service: SessionService, sync_side: SyncSide
) -> None:
    service.record(execution(0))
    ended = threading.Event()
    flow = sync_side.flow()

    def background() -> str:
        assert ended.wait(30)
        with pytest.raises(ReplayMissError, match="ended already"):
            flow.execute(message="late")
        return "refused"

    async with sync_side.scope():
        result = await asyncio.to_thread(flow.execute, message="m0")
        late = asyncio.create_task(asyncio.to_thread(background))
        await asyncio.sleep(0)
    ended.set()
    assert (result.result, await late) == ("answer to m0", "refused")


async def test_pause_and_stream_that_began_inside_continue_after_the_scope(
    service: SessionService, side: SyncSide
) -> None:
    service.record(weather(), execution(1, triggerType="step"))
    async with side.scope() as scope:
        paused = await side.execute("weather?", tools=TOOLS)
        events = side.flow().events(message="m1")
        await side.next(events)
    paused = await side.resume(paused, [{"tool_call_id": "call_1", "output": "sunny"}])
    results = [{"tool_call_id": f"call_{n}", "output": "?"} for n in (2, 3)]
    assert (await side.resume(paused, results)).result == "sunny, hot, snow"
    rest = [event.type async for event in events] if side.is_async else [e.type for e in events]
    assert rest[-1] == "flow_completed"
    assert not scope.report.misses


async def test_tasks_of_a_group_share_the_scope(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*together(4))

    async def nested(first: str, second: str) -> list[Any]:
        flow = async_side.flow()
        results = await asyncio.gather(flow.execute(message=first), flow.execute(message=second))
        return [result.result for result in results]

    with pytest.warns(ReplayConcurrencyWarning):
        async with async_side.scope() as scope:
            both = await asyncio.gather(nested("m3", "m1"), nested("m0", "m2"))
    assert both == [["answer to m3", "answer to m1"], ["answer to m0", "answer to m2"]]
    assert scope.report.clean


async def test_scope_of_either_kind_serves_both_clients(
    service: SessionService, sync_side: SyncSide, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    async with trace_scope(replay_session_id="s-1", client=async_side.client):
        assert await sync_side.ask("m0") == ["answer to m0"]
        assert await async_side.ask("m1") == ["answer to m1"]
    with trace_scope_sync(replay_session_id="s-1", client=sync_side.client):
        assert await async_side.ask("m0") == ["answer to m0"]
        assert await sync_side.ask("m1") == ["answer to m1"]


async def test_scope_that_has_ended_is_freed(service: SessionService, side: SyncSide) -> None:
    service.record(execution(0))
    async with side.scope() as scope:
        await side.execute()
    reference = weakref.ref(scope)
    del scope
    gc.collect()
    assert reference() is None
