"""Which recording serves a call: order alone, and the input first when calls overlap."""

# ruff: noqa: PT031 - a scope raises and warns at its end too, so its block is what is tested

from __future__ import annotations

import asyncio
import gc
import random
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from noukai_sdk import ContextThreadPoolExecutor, ReplayMissError, trace_scope_sync
from noukai_sdk.replay import lanes, recording
from noukai_sdk.replay.player import ReplayConcurrencyWarning
from tests.support.replays import (
    AsyncSide,
    SessionService,
    SyncSide,
    execution,
    step,
    together,
)

pytestmark = pytest.mark.anyio

WORKERS, CALLS, SEEDS = 5, 3, 40


async def gather(side: AsyncSide, *messages: str) -> list[Any]:
    """The results of calls that are made together, in the order of the arguments."""
    flow = side.flow()
    results = await asyncio.gather(*(flow.execute(message=message) for message in messages))
    return [result.result for result in results]


def answers(*messages: str) -> list[str]:
    return [f"answer to {message}" for message in messages]


async def test_sequential_calls_match_by_position_whatever_their_input(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0, "a", took=1.0), execution(1, "b", began=1.0))
    async with side.scope() as scope:
        assert await side.ask("b", "a") == answers("a", "b")
    one, other = (entry.detail for entry in scope.report.drift)
    assert "it is the input of the recorded call 2: calls 1 and 2 look swapped" in one
    assert "it is the input of the recorded call 1: calls 1 and 2 look swapped" in other
    assert [str(finding).partition(" (")[0] for finding in scope.report.findings] == [
        "calls 1 and 2 look swapped"
    ]


async def test_async_call_claims_its_position_when_it_is_made_not_awaited(
    service: SessionService, async_side: AsyncSide
) -> None:
    steps = [[step(output=name)] for name in ("first", "second")]
    service.record(execution(0, "x", steps=steps[0]), execution(1, "x", steps=steps[1]))
    async with async_side.scope():
        first = async_side.flow().execute(message="x")
        second = async_side.flow().execute(message="x")
        with pytest.warns(ReplayConcurrencyWarning):
            assert (await second).result == "second"
        assert (await first).result == "first"


async def test_gathered_calls_each_get_the_recording_of_their_input(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(6)))
    with pytest.warns(ReplayConcurrencyWarning, match="the recording of its own input") as caught:
        async with async_side.scope() as scope:
            assert await gather(async_side, "m2", "m0", "m1") == answers("m2", "m0", "m1")
            # Once calls have overlapped, the input decides for the later ones too.
            assert await async_side.ask("m5", "m4", "m3") == answers("m5", "m4", "m3")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert scope.report.clean


async def test_calls_that_overlapped_when_recorded_match_by_input_now(
    service: SessionService, side: SyncSide
) -> None:
    service.record(*together(3))
    with pytest.warns(ReplayConcurrencyWarning, match="concurrent execute calls of flow 'grade-3'"):
        async with side.scope() as scope:
            assert await side.ask("m2", "m0", "m1") == answers("m2", "m0", "m1")
    assert scope.report.clean


async def test_overlapping_calls_match_by_the_whole_input(
    service: SessionService, async_side: AsyncSide
) -> None:
    def recorded(number: int, version: int | None, **request: Any) -> dict[str, Any]:
        call = {"slug": "grade-3", "version": version, "request": {"message": "x", **request}}
        return execution(number, result=number, call=call)

    service.record(
        recorded(0, None),
        recorded(1, 2),
        recorded(2, None, parameters={"a": 1, "b": [True, None]}),
        recorded(3, None, blockOverrides={"s": {"temperature": 0.5}}),
        recorded(4, None, attachments=[{"url": "https://x/y"}]),
    )
    calls: list[dict[str, Any]] = [
        {"attachments": [{"url": "https://x/y"}]},
        {"parameters": {"b": (True, None), "a": 1}},
        {"version": 2},
        {"block_overrides": {"s": {"temperature": 0.5}}},
        {"trace": True},  # not part of the input
    ]
    flow = async_side.flow()
    with pytest.warns(ReplayConcurrencyWarning, match="its own input"):
        async with async_side.scope() as scope:
            results = await asyncio.gather(*(flow.execute(message="x", **each) for each in calls))
    assert [result.result for result in results] == [4, 2, 1, 3, 0]
    assert scope.report.clean


async def test_call_with_new_input_takes_a_recording_that_the_others_leave(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(4)))
    with pytest.warns(ReplayConcurrencyWarning, match="matched by position"):
        async with async_side.scope() as scope:
            # m0 is played here, so it is not found by input again.
            assert await async_side.ask("m0") == answers("m0")
            assert await gather(async_side, "new", "m1", "m3") == answers("m2", "m1", "m3")
    (drift,) = scope.report.drift
    assert "message" in drift.detail


async def test_one_call_too_many_misses_with_its_new_input(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    with pytest.warns(ReplayConcurrencyWarning):
        async with async_side.scope():
            calls = [async_side.execute(message) for message in ("new", "m1", "m0")]
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(results[0], ReplayMissError)
    assert [result.result for result in results[1:]] == answers("m1", "m0")


async def test_equal_or_unknown_inputs_are_served_in_recorded_order_with_a_warning(
    service: SessionService, async_side: AsyncSide
) -> None:
    for snapshot, reason in (
        ({"inputSnapshot": {"message": "same"}}, "the same input.*recorded order"),
        ({}, "matched by position"),
    ):
        service.record(*(execution(n, steps=[step(output=n, **snapshot)]) for n in range(3)))
        with pytest.warns(ReplayConcurrencyWarning, match=reason):
            async with async_side.scope() as scope:
                flow = async_side.flow()
                first, second, third = (flow.execute(message="same") for _ in range(3))
                assert [(await call).result for call in (third, first, second)] == [2, 0, 1]
        assert scope.report.clean


async def test_two_kinds_of_decisions_are_two_warnings(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1), execution(2, "same"), execution(3, "same"))
    with pytest.warns(ReplayConcurrencyWarning) as caught:
        async with async_side.scope():
            await gather(async_side, "m0", "m1")
            await gather(async_side, "same", "same")
    assert len(caught) == 2


async def test_recorded_times_decide_whether_calls_overlapped(
    service: SessionService, side: SyncSide
) -> None:
    for times in ((None, None), ("never", "x"), ("", "0")):
        fields = {"startedAt": times[0], "completedAt": times[1]}
        service.record(execution(0, **fields), execution(1, **fields))
        async with side.scope() as scope:
            await side.ask("m0", "m1")
        assert scope.report.clean
    # A time without a zone is UTC.
    service.record(
        execution(0, startedAt="2026-05-31T12:00:00", completedAt="2026-05-31T12:00:02.1234567Z"),
        execution(1, startedAt="2026-05-31T14:00:01+02:00"),
    )
    with pytest.warns(ReplayConcurrencyWarning):
        async with side.scope():
            assert await side.ask("m1", "m0") == answers("m1", "m0")


async def test_call_inside_an_open_stream_is_matched_without_a_warning_in_order(
    service: SessionService, side: SyncSide
) -> None:
    service.record(
        execution(0, triggerType="step", took=3),
        *(execution(n, triggerType="step") for n in (5, 6)),
    )
    async with side.scope() as scope:
        stream = side.flow().steps(message="m0")
        first = await side.next(stream)
        assert await side.outputs("m5") == answers("m5")
        assert first.output == "answer to m0"
        await side.close(stream)
        assert await side.outputs("m6") == answers("m6")
    assert scope.report.clean

    service.record(*(execution(n, triggerType="step") for n in range(3)))
    with pytest.warns(ReplayConcurrencyWarning):
        async with side.scope():
            stream = side.flow().steps(message="m0")
            await side.next(stream)
            assert await side.outputs("m2") == answers("m2")
            assert await side.outputs("m1") == answers("m1")
            await side.close(stream)


async def test_stream_that_is_dropped_is_not_under_way(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*(execution(n, triggerType="step") for n in range(2)))
    async with async_side.scope() as scope:
        async for _ in async_side.flow().steps(message="m0"):
            break
        assert await async_side.outputs("m1") == answers("m1")
    gc.collect()
    await anyio.lowlevel.checkpoint()
    assert scope.report.clean


async def test_call_that_never_begins_takes_no_recording(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0), execution(1, triggerType="step"))
    async with side.scope() as scope:
        unread = side.flow().events(message="x")
        del unread
        if side.is_async:
            with pytest.warns(RuntimeWarning, match="never awaited"):
                side.flow().execute(message="x")
        assert await side.ask("m0") == answers("m0")
        assert await side.outputs("m1") == answers("m1")
    assert scope.report.clean
    assert [hit.position for hit in scope.report.hits] == [0, 0]


async def test_cancelled_call_uses_its_recording(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    async with async_side.scope() as scope:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await async_side.execute("a")
        assert await async_side.ask("b") == answers("b")
    assert scope.report.summary() == "hits=1; misses=0; drift=0; leftovers=0"


def schedule(seed: int) -> list[dict[str, Any]]:
    """The recording of workers that each made sequential calls, with random latencies."""
    rnd = random.Random(seed)
    calls = []
    for worker in range(WORKERS):
        at = rnd.random() / 100
        for call in range(CALLS):
            took = 0.1 + rnd.random()
            name = f"{worker}-{call}"
            calls.append(execution(worker * CALLS + call, name, began=at, took=took))
            at += took + rnd.random() / 100
    return sorted(calls, key=lambda each: str(each["startedAt"]))


@pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")
async def test_concurrent_tasks_always_get_their_own_recordings(
    service: SessionService, async_side: AsyncSide
) -> None:
    wrong: list[tuple[int, str]] = []

    async def work(seed: int, worker: int, rnd: random.Random) -> None:
        for call in range(CALLS):
            for _ in range(rnd.randrange(6)):
                await anyio.lowlevel.checkpoint()
            name = f"{worker}-{call}"
            if await async_side.ask(name) != answers(name):
                wrong.append((seed, name))

    for seed in range(SEEDS):
        service.record(*schedule(seed))
        rnd = random.Random(-seed)
        async with async_side.scope() as scope, anyio.create_task_group() as tasks:
            for worker in range(WORKERS):
                tasks.start_soon(work, seed, worker, rnd)
        assert scope.report.clean
    assert wrong == []


@pytest.mark.filterwarnings("ignore::noukai_sdk.ReplayConcurrencyWarning")
def test_concurrent_threads_never_share_a_recording(
    service: SessionService, sync_side: SyncSide
) -> None:
    flow = sync_side.flow()

    def work(worker: int) -> list[str]:
        names = [f"{worker}-{call}" for call in range(CALLS)]
        return [name for name in names if flow.execute(message=name).result != f"answer to {name}"]

    with ContextThreadPoolExecutor(WORKERS) as pool:
        for seed in range(SEEDS):
            service.record(*schedule(seed))
            with trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope:
                running = [pool.submit(work, worker) for worker in range(WORKERS)]
                assert [each.result() for each in running] == [[]] * WORKERS
            assert scope.report.clean

        count = 400
        service.record(*(execution(n, "same", steps=[step(output=n)]) for n in range(count)))
        with trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope:
            calls = [pool.submit(flow.execute, message="same") for _ in range(count)]
            results = [call.result().result for call in calls]
    assert sorted(results) == list(range(count))
    assert sorted(hit.position for hit in scope.report.hits) == list(range(count))


def test_matching_by_input_needs_no_search(
    service: SessionService, sync_side: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of fingerprints grows with the calls, not with calls times recordings."""
    made: list[int] = []

    def counting(original: Callable[..., str]) -> Callable[..., str]:
        def fingerprint(*args: Any) -> str:
            made.append(1)
            return original(*args)

        return fingerprint

    for module in (lanes, recording):
        original = module.message_fingerprint  # type: ignore[attr-defined]  # imported there
        monkeypatch.setattr(module, "message_fingerprint", counting(original))
    count = 300
    service.record(*together(count))
    with (
        warnings.catch_warnings(),
        trace_scope_sync(replay_session_id="s-1", client=sync_side.client),
    ):
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        for number in reversed(range(count)):
            sync_side.flow().execute(message=f"m{number}")
    assert len(made) <= 3 * count
