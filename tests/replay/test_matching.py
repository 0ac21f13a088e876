"""Which recording answers a call: order alone, and where calls overlap their input first."""

# ruff: noqa: PT012, PT031 - a scope raises and warns at its end too, so its block is what is tested

from __future__ import annotations

import asyncio
import gc
import random
import time
import warnings
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from noukai_sdk import ContextThreadPoolExecutor, ReplayMissError, trace_scope_sync
from noukai_sdk.replay.player import ReplayConcurrencyWarning
from tests.replay.service import AsyncSide, Service, Side, SyncSide, execution, step, together

pytestmark = pytest.mark.anyio

WORKERS, CALLS, SEEDS = 5, 3, 200


async def answers(side: AsyncSide, *messages: str, **options: Any) -> list[Any]:
    """The results of calls that are made together, in the order of the arguments."""
    results: list[Any] = [None] * len(messages)

    async def ask(index: int, message: str) -> None:
        results[index] = (await side.execute(message, **options)).result

    async with anyio.create_task_group() as tasks:
        for index, message in enumerate(messages):
            tasks.start_soon(ask, index, message)
    return results


def to(*messages: str) -> list[str]:
    return [f"answer to {message}" for message in messages]


async def test_alone_the_order_decides_and_the_input_is_not_looked_at(
    service: Service, side: Side
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    async with side.scope() as scope:
        assert (await side.execute("b")).result == "answer to a"
        assert (await side.execute("a")).result == "answer to b"
    assert [entry.detail for entry in scope.report.drift] == [
        "the input differs from the recorded one in: message"
    ] * 2


async def test_the_place_is_claimed_when_the_method_is_called(
    service: Service, async_side: AsyncSide
) -> None:
    same = {"steps": [step(output="first")]}
    service.record(execution(0, "x", **same), execution(1, "x", steps=[step(output="second")]))
    async with async_side.scope():
        first = async_side.flow().execute(message="x")
        second = async_side.flow().execute(message="x")
        with pytest.warns(ReplayConcurrencyWarning):
            assert (await second).result == "second"
        assert (await first).result == "first"


async def test_of_calls_that_are_made_together_each_gets_its_own_recording(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(4)))
    with pytest.warns(ReplayConcurrencyWarning, match="the recording of its own input") as caught:
        async with async_side.scope() as scope:
            assert await answers(async_side, "m2", "m0", "m3", "m1") == to("m2", "m0", "m3", "m1")
    assert len(caught) == 1
    assert caught[0].filename == __file__.replace("test_matching", "service")
    assert scope.report.clean


async def test_gather_as_people_write_it(
    service: Service, async_side: AsyncSide, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio.gather")
    service.record(*(execution(n) for n in range(3)))
    flow = async_side.flow()
    async with async_side.scope():
        with pytest.warns(ReplayConcurrencyWarning):
            results = await asyncio.gather(*(flow.execute(message=m) for m in ("m1", "m2", "m0")))
    assert [result.result for result in results] == to("m1", "m2", "m0")


async def test_once_calls_have_overlapped_the_input_goes_on_deciding(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(4)))
    with pytest.warns(ReplayConcurrencyWarning) as caught:
        async with async_side.scope() as scope:
            await answers(async_side, "m0", "m1")
            assert (await async_side.execute("m3")).result == "answer to m3"
            assert (await async_side.execute("m2")).result == "answer to m2"
    assert scope.report.clean
    assert len(caught) == 1


async def test_where_calls_overlapped_when_recorded_the_input_decides_now(
    service: Service, side: Side
) -> None:
    service.record(*together(3))
    with pytest.warns(ReplayConcurrencyWarning, match="concurrent execute calls of flow 'grade-3'"):
        async with side.scope() as scope:
            for message in ("m2", "m0", "m1"):
                assert (await side.execute(message)).result == f"answer to {message}"
    assert scope.report.clean


async def test_the_whole_input_decides_where_it_was_recorded(
    service: Service, async_side: AsyncSide
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
        {"trace": True},  # no part of the input
    ]
    results = {}

    async def ask(number: int, options: dict[str, Any]) -> None:
        results[number] = (await async_side.execute("x", **options)).result

    with pytest.warns(ReplayConcurrencyWarning, match="its own input"):
        async with async_side.scope() as scope, anyio.create_task_group() as tasks:
            for number, options in enumerate(calls):
                tasks.start_soon(ask, number, options)
    assert results == {0: 4, 1: 2, 2: 1, 3: 3, 4: 0}
    assert scope.report.clean


async def test_a_call_that_was_never_recorded_takes_what_the_others_leave(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(3)))
    with pytest.warns(
        ReplayConcurrencyWarning, match="input was not recorded were answered by position"
    ):
        async with async_side.scope() as scope:
            assert await answers(async_side, "new", "m0", "m2") == to("m1", "m0", "m2")
    (drift,) = scope.report.drift
    assert "message" in drift.detail


async def test_a_recording_that_was_played_by_order_is_not_found_by_input_again(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(*(execution(n) for n in range(4)))
    with pytest.warns(ReplayConcurrencyWarning):
        async with async_side.scope() as scope:
            assert (await async_side.execute("m0")).result == "answer to m0"
            assert (await async_side.execute("m1")).result == "answer to m1"
            assert await answers(async_side, "m0", "m2") == to("m3", "m2")
    assert len(scope.report.drift) == 1


async def test_a_call_too_many_is_the_one_whose_input_is_new(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1))
    missed: list[str] = []

    async def ask(message: str) -> None:
        try:
            await async_side.execute(message)
        except ReplayMissError:
            missed.append(message)

    with pytest.warns(ReplayConcurrencyWarning), pytest.raises(ReplayMissError):
        async with async_side.scope(), anyio.create_task_group() as tasks:
            for message in ("new", "m1", "m0"):
                tasks.start_soon(ask, message)
    assert missed == ["new"]


async def test_equal_inputs_are_answered_in_recorded_order_with_a_warning(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(
        *(
            execution(n, "same", steps=[step(output=n, inputSnapshot={"message": "same"})])
            for n in range(3)
        )
    )
    with pytest.warns(ReplayConcurrencyWarning, match="the same input.*recorded order"):
        async with async_side.scope():
            flow = async_side.flow()
            first, second, third = (flow.execute(message="same") for _ in range(3))
            assert (await third).result == 2
            assert (await first).result == 0
            assert (await second).result == 1


async def test_without_recorded_inputs_order_decides_with_a_warning(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(*(execution(n, steps=[step(output=n)]) for n in range(3)))
    with pytest.warns(ReplayConcurrencyWarning, match="answered by position"):
        async with async_side.scope() as scope:
            assert sorted(await answers(async_side, "a", "b", "c")) == [0, 1, 2]
    assert scope.report.clean


async def test_two_kinds_of_warnings_are_two_warnings(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0), execution(1), execution(2, "same"), execution(3, "same"))
    with pytest.warns(ReplayConcurrencyWarning) as caught:
        async with async_side.scope():
            await answers(async_side, "m0", "m1")
            await answers(async_side, "same", "same")
    assert len(caught) == 2


@pytest.mark.parametrize("times", [(None, None), ("never", "x"), ("", "0")])
async def test_times_that_cannot_be_read_say_nothing(
    service: Service, side: Side, times: tuple[str | None, str | None]
) -> None:
    fields = {"startedAt": times[0], "completedAt": times[1]}
    service.record(execution(0, **fields), execution(1, **fields))
    async with side.scope() as scope:
        await side.execute("m0")
        await side.execute("m1")
    assert scope.report.clean


async def test_times_with_and_without_a_zone_are_one_clock(service: Service, side: Side) -> None:
    service.record(
        execution(0, startedAt="2026-05-31T12:00:00", completedAt="2026-05-31T12:00:02.1234567Z"),
        execution(1, startedAt="2026-05-31T14:00:01+02:00"),
    )
    with pytest.warns(ReplayConcurrencyWarning):
        async with side.scope():
            assert (await side.execute("m1")).result == "answer to m1"
            assert (await side.execute("m0")).result == "answer to m0"


async def test_a_call_that_begins_when_another_ends_does_not_overlap(
    service: Service, side: Side
) -> None:
    service.record(execution(0, took=1.0), execution(1, began=1.0))
    async with side.scope() as scope:
        await side.execute("m0")
        await side.execute("m1")
    assert scope.report.clean


async def test_a_call_inside_a_stream_is_no_concurrency(service: Service, side: Side) -> None:
    service.record(
        execution(0, triggerType="step", took=3),
        *(execution(n, triggerType="step") for n in (5, 6)),
    )
    outputs = []
    async with side.scope() as scope:
        if side.is_async:
            async for outer in side.flow().steps(message="m0"):
                outputs += [each.output for each in await side.steps("m5")]
                outputs.append(outer.output)
        else:
            for outer in side.flow().steps(message="m0"):
                outputs += [each.output for each in await side.steps("m5")]
                outputs.append(outer.output)
        outputs += [each.output for each in await side.steps("m6")]
    assert outputs == to("m5", "m0", "m6")
    assert scope.report.clean


async def test_calls_beside_an_open_stream_are_told_apart_by_input(
    service: Service, side: Side
) -> None:
    service.record(*(execution(n, triggerType="step") for n in range(3)))
    with pytest.warns(ReplayConcurrencyWarning):
        async with side.scope():
            stream = side.flow().steps(message="m0")
            first = await anext(stream) if side.is_async else next(stream)
            assert first.output == "answer to m0"
            for message in ("m2", "m1"):
                assert [s.output for s in await side.steps(message)] == to(message)
            await stream.aclose() if side.is_async else stream.close()


async def test_an_abandoned_stream_is_no_concurrency(
    service: Service, async_side: AsyncSide, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("trio warns of every generator that is not closed")
    service.record(*(execution(n, triggerType="step") for n in range(2)))
    async with async_side.scope() as scope:
        async for _ in async_side.flow().steps(message="m0"):
            break
        assert [each.output for each in await async_side.steps("m1")] == to("m1")
    gc.collect()
    await anyio.lowlevel.checkpoint()
    assert scope.report.clean


async def test_a_call_that_is_never_awaited_takes_no_recording(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    async with async_side.scope() as scope:
        with pytest.warns(RuntimeWarning, match="never awaited"):
            async_side.flow().execute(message="x")
        assert (await async_side.execute("a")).result == "answer to a"
        async_side.flow().events(message="x")
        assert (await async_side.execute("b")).result == "answer to b"
    assert scope.report.clean
    assert [hit.position for hit in scope.report.hits] == [0, 1]


async def test_a_stream_that_nobody_reads_takes_no_recording(service: Service, side: Side) -> None:
    service.record(*(execution(n, triggerType="step") for n in range(2)))
    async with side.scope() as scope:
        unread = side.flow().events(message="x")
        del unread
        for message in ("m0", "m1"):
            assert [each.output for each in await side.steps(message)] == to(message)
    assert scope.report.clean


async def test_a_call_that_was_cancelled_has_used_its_recording(
    service: Service, async_side: AsyncSide
) -> None:
    service.record(execution(0, "a"), execution(1, "b"))
    async with async_side.scope() as scope:
        with anyio.CancelScope() as cancelled:
            cancelled.cancel()
            await async_side.execute("a")
        assert (await async_side.execute("b")).result == "answer to b"
    assert scope.report.summary() == "hits=1; misses=0; drift=0; leftovers=0"


def schedule(seed: int) -> list[dict[str, Any]]:
    """What workers recorded that each made calls one after the other, with latencies at random."""
    rnd = random.Random(seed)
    recorded = []
    for worker in range(WORKERS):
        at = rnd.random() / 100
        for call in range(CALLS):
            took = 0.1 + rnd.random()
            name = f"{worker}-{call}"
            recorded.append(execution(worker * CALLS + call, name, began=at, took=took))
            at += took + rnd.random() / 100
    return sorted(recorded, key=lambda each: str(each["startedAt"]))


async def test_workers_always_get_their_own_answers(
    service: Service, async_side: AsyncSide
) -> None:
    wrong: list[tuple[int, str]] = []

    async def work(seed: int, worker: int, rnd: random.Random) -> None:
        for call in range(CALLS):
            for _ in range(rnd.randrange(6)):
                await anyio.lowlevel.checkpoint()
            name = f"{worker}-{call}"
            if (await async_side.execute(name)).result != f"answer to {name}":
                wrong.append((seed, name))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        for seed in range(SEEDS):
            service.record(*schedule(seed))
            rnd = random.Random(-seed)
            async with async_side.scope() as scope, anyio.create_task_group() as tasks:
                for worker in range(WORKERS):
                    tasks.start_soon(work, seed, worker, rnd)
            assert scope.report.clean
    assert wrong == []


def test_threads_always_get_their_own_answers(service: Service, sync_side: SyncSide) -> None:
    flow = sync_side.flow()

    def work(worker: int, pauses: list[float]) -> list[str]:
        wrong = []
        for call, pause in enumerate(pauses):
            time.sleep(pause)
            name = f"{worker}-{call}"
            if flow.execute(message=name).result != f"answer to {name}":
                wrong.append(name)
        return wrong

    wrong: list[str] = []
    with warnings.catch_warnings(), ContextThreadPoolExecutor(WORKERS) as shared:
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        for seed in range(SEEDS):
            service.record(*schedule(seed))
            rnd = random.Random(-seed)
            with trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope:
                running = [
                    shared.submit(work, worker, [rnd.random() / 5000 for _ in range(CALLS)])
                    for worker in range(WORKERS)
                ]
                wrong += [name for each in running for name in each.result()]
            assert scope.report.clean
    assert wrong == []


def test_no_two_threads_get_one_recording(service: Service, sync_side: SyncSide) -> None:
    count = 400
    service.record(*(execution(n, "same", steps=[step(output=n)]) for n in range(count)))
    flow = sync_side.flow()

    def work(_: int) -> Any:
        return flow.execute(message="same").result

    with (
        warnings.catch_warnings(),
        trace_scope_sync(replay_session_id="s-1", client=sync_side.client) as scope,
        ContextThreadPoolExecutor(8) as pool,
    ):
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        results = list(pool.map(work, range(count)))
    assert sorted(results) == list(range(count))
    assert sorted(hit.position for hit in scope.report.hits) == list(range(count))


def test_a_recording_is_found_without_a_search(
    service: Service, sync_side: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of fingerprints grows with the calls, not with calls times recordings."""
    from noukai_sdk.replay import cassette, recording

    counted: list[int] = []

    def counting(original: Callable[..., str]) -> Callable[..., str]:
        def fingerprint(*args: Any) -> str:
            counted.append(1)
            return original(*args)

        return fingerprint

    monkeypatch.setattr(cassette, "message_fingerprint", counting(cassette.message_fingerprint))
    monkeypatch.setattr(recording, "message_fingerprint", counting(recording.message_fingerprint))
    count = 300
    service.record(*together(count))
    with (
        warnings.catch_warnings(),
        trace_scope_sync(replay_session_id="s-1", client=sync_side.client),
    ):
        warnings.simplefilter("ignore", ReplayConcurrencyWarning)
        for number in reversed(range(count)):
            sync_side.flow().execute(message=f"m{number}")
    assert len(counted) <= 3 * count
