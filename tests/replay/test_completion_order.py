"""Overlapping calls complete in a replay as they did when they were recorded."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from noukai_sdk import (
    AsyncNoukai,
    ContextThreadPoolExecutor,
    ReplayLeftoverError,
    carry_threads,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.replay import activity
from noukai_sdk.replay.cassette_file import read_cassette, write_cassette
from noukai_sdk.replay.recording import Recording
from tests.support.replays import FLOW, AsyncSide, SessionService, SyncSide, execution, iso, step

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore::noukai_sdk.replay.player.ReplayConcurrencyWarning"),
]

LOOPS = pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
REPLAYS = 100


def delay_of(request: httpx.Request) -> float:
    """The seconds after the colon of a message such as ``a:0.05``."""
    message: str = json.loads(request.content)["message"]
    return float(message.partition(":")[2] or 0)


def respond(request: httpx.Request) -> httpx.Response:
    message = json.loads(request.content)["message"]
    if message.startswith("fail"):
        return httpx.Response(500, json={"detail": {"code": "NO", "message": "no luck"}})
    return httpx.Response(200, json={"status": "completed", "result": message[0]})


async def respond_later(request: httpx.Request) -> httpx.Response:
    await anyio.sleep(delay_of(request))
    return respond(request)


@pytest.fixture
def client() -> AsyncNoukai:
    """An async client of a service that responds after the time that a message names."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(respond_later))
    return AsyncNoukai(api_key="nk_test", max_retries=0, http_client=http)


Ask = Callable[[str], Awaitable[Any]]


def asking(client: AsyncNoukai) -> Ask:
    async def ask(message: str) -> Any:
        return (await client.flow(FLOW).execute(message=message)).result

    return ask


async def hedge(ask: Ask) -> list[Any]:
    calls = [asyncio.ensure_future(ask(message)) for message in ("a:0.3", "b:0.05")]
    done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return [call.result() for call in done]


async def completed(ask: Ask) -> list[Any]:
    delays = {"a": 0.09, "b": 0.03, "c": 0.15, "d": 0.06, "e": 0.12}
    calls = [ask(f"{name}:{delay}") for name, delay in delays.items()]
    return [await call for call in asyncio.as_completed(calls)]


async def limited(ask: Ask) -> list[Any]:
    order: list[Any] = []
    limit = asyncio.Semaphore(2)

    async def work(name: str, first: float, second: float) -> None:
        async with limit:
            order.append(await ask(f"{name}:{first}"))
            order.append(await ask(f"{name.upper()}:{second}"))

    await asyncio.gather(
        asyncio.gather(work("a", 0.05, 0.01), work("b", 0.02, 0.06)),
        asyncio.gather(work("c", 0.03, 0.03), work("d", 0.01, 0.02)),
    )
    return order


async def queued(ask: Ask) -> list[Any]:
    order: list[Any] = []
    queue: asyncio.Queue[str | None] = asyncio.Queue()

    async def produce() -> None:
        for name in "abcdef":
            await queue.put(await ask(f"{name}:0.04"))
        for _ in range(2):
            await queue.put(None)

    async def consume(worker: int, delay: float) -> None:
        while (name := await queue.get()) is not None:
            order.append((worker, await ask(f"{name.upper()}:{delay}")))

    await asyncio.gather(produce(), consume(1, 0.065), consume(2, 0.13))
    return order


@pytest.mark.parametrize("program", [hedge, completed, limited, queued])
async def test_asyncio_program_replays_as_captured(
    client: AsyncNoukai, tmp_path: Path, program: Callable[[Ask], Awaitable[list[Any]]]
) -> None:
    ask = asking(client)
    async with trace_scope(record=tmp_path / "c.jsonl"):
        captured = await program(ask)
    for _ in range(REPLAYS):
        async with trace_scope(cassette=tmp_path / "c.jsonl"):
            assert await program(ask) == captured


@LOOPS
async def test_task_group_with_a_failing_sibling_replays_as_captured(
    client: AsyncNoukai, tmp_path: Path
) -> None:
    ask = asking(client)

    async def program() -> list[str]:
        order: list[str] = []

        async def work(message: str) -> None:
            try:
                order.append(await ask(message))
            except BaseException as error:
                order.append(f"{message[0]} {type(error).__name__}")
                raise

        with suppress(Exception):  # a group, whose class Python 3.10 does not have
            async with anyio.create_task_group() as group:
                for message in ("a:0.02", "fail:0.1", "b:0.3", "c:0.06"):
                    group.start_soon(work, message)
        return order

    async with trace_scope(record=tmp_path / "c.jsonl"):
        captured = await program()
    assert captured[:3] == ["a", "c", "f FlowExecutionError"]
    for _ in range(REPLAYS):
        async with trace_scope(cassette=tmp_path / "c.jsonl"):
            assert await program() == captured


def overlapping(took: dict[str, float]) -> list[dict[str, Any]]:
    """The recordings of calls that were made together and took so many seconds."""
    return [
        execution(number, message, began=number / 1000, took=took[message])
        for number, message in enumerate(took)
    ]


def test_pool_of_threads_completes_in_recorded_order(
    service: SessionService, sync_side: SyncSide
) -> None:
    service.record(
        execution(0, "a", began=0, took=9),
        execution(1, "b", began=0.1, took=2),
        execution(2, "c", began=0.2, took=6),
        execution(3, "d", began=2.2, took=1),  # in the worker that b leaves
        execution(4, "e", began=3.3, took=4),
        execution(5, "f", began=6.3, took=2),
    )

    def ask(message: str) -> str:
        sync_side.flow().execute(message=message)
        return message

    for _ in range(REPLAYS):
        with (
            trace_scope_sync(client=sync_side.client, replay_session_id="s-1"),
            ContextThreadPoolExecutor(3) as pool,
        ):
            calls = [pool.submit(ask, message) for message in "abcdef"]
            assert [call.result() for call in as_completed(calls)] == list("bdcefa")


@LOOPS
async def test_calls_of_threads_and_tasks_share_one_order(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide
) -> None:
    service.record(*overlapping({"a": 10, "b": 4, "c": 2, "d": 12, "e": 8}))
    order: list[str] = []

    async def in_thread(message: str) -> None:
        await anyio.to_thread.run_sync(partial(sync_side.flow().execute, message=message))
        order.append(message)

    async def in_task(message: str) -> None:
        await async_side.execute(message)
        order.append(message)

    for _ in range(20):
        order.clear()
        async with async_side.scope(), anyio.create_task_group() as group:
            for message in "abcde":
                group.start_soon(in_thread if message in "ace" else in_task, message)
        assert order == list("cbead")


async def test_requests_that_replay_at_once_keep_their_own_orders(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide
) -> None:
    service.record(*overlapping(dict(zip("abcdefgh", (8, 2, 6, 4, 7, 1, 5, 3), strict=True))))
    # A thread for each call: a pool whose threads all wait for calls in its queue gives up the order.
    loop, pool = asyncio.get_running_loop(), ThreadPoolExecutor(24)
    loop.set_default_executor(ThreadPoolExecutor(24))

    def execute(message: str) -> None:
        sync_side.flow().execute(message=message)

    async def request() -> str:
        order: list[str] = []

        async def work(message: str) -> None:
            if message in "aceg":
                await async_side.execute(message)
            elif message in "bf":
                await loop.run_in_executor(pool, execute, message)
            else:
                await asyncio.to_thread(execute, message)
            order.append(message)

        async with async_side.scope() as scope:
            await asyncio.gather(*map(work, "abcdefgh"))
        assert scope.report.clean, scope.report.summary()
        return "".join(order)

    carry_threads()
    try:
        for _ in range(3):
            assert await asyncio.gather(*(request() for _ in range(12))) == ["fbhdgcea"] * 12
    finally:
        carry_threads(False)
        pool.shutdown()


async def test_look_at_a_process_of_many_threads_reads_the_state_of_few(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide, monkeypatch: Any
) -> None:
    service.record(*overlapping({"a": 3, "b": 1, "c": 2}))
    read: set[int] = set()
    kernel_state = activity._kernel_state

    def note(thread: threading.Thread) -> str:
        read.add(thread.ident or 0)
        return kernel_state(thread)

    monkeypatch.setattr(activity, "_kernel_state", note)
    ended = threading.Event()
    idle = [threading.Thread(target=ended.wait) for _ in range(150)]
    for thread in idle:
        thread.start()
    try:
        async with async_side.scope() as scope:
            order: list[str] = []

            def work(message: str) -> None:
                sync_side.flow().execute(message=message)
                order.append(message)

            await asyncio.gather(*(asyncio.to_thread(work, message) for message in "abc"))
    finally:
        ended.set()
        for thread in idle:
            thread.join()
    assert order == ["b", "c", "a"]
    assert scope.report.clean
    assert len(read) < 100


async def test_event_loops_of_threads_replay_at_once(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*overlapping({"a": 3, "b": 1, "c": 2}))

    async def request() -> list[str]:
        async with async_side.scope() as scope:
            order = await asyncio.to_thread(asyncio.run, completion_order(async_side, *"abc"))
        assert scope.report.clean, scope.report.summary()
        return order

    assert await asyncio.gather(*(request() for _ in range(6))) == [["b", "c", "a"]] * 6


@LOOPS
def test_event_loop_that_is_made_in_the_scope_replays_with_its_threads(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide, anyio_backend: str
) -> None:
    service.record(*overlapping({"a": 4, "b": 1, "c": 3, "d": 2}))
    order: list[str] = []

    async def work(message: str) -> None:
        if message in "ab":
            await async_side.execute(message)
        else:
            await anyio.to_thread.run_sync(partial(sync_side.flow().execute, message=message))
        order.append(message)

    async def program() -> None:
        async with anyio.create_task_group() as group:
            for message in "abcd":
                group.start_soon(work, message)

    run = partial(anyio.run, program, backend=anyio_backend)
    carry_threads()
    try:
        for call in (run, lambda: pool.submit(run).result()):
            order.clear()
            with (
                trace_scope_sync(client=sync_side.client, replay_session_id="s-1") as scope,
                ThreadPoolExecutor(1) as pool,
            ):
                call()
            assert scope.report.clean, scope.report.summary()
            assert order == ["b", "d", "c", "a"]
    finally:
        carry_threads(False)


def test_no_garbage_is_collected_while_the_frames_of_threads_are_read(
    service: SessionService, sync_side: SyncSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.record(*overlapping({"a": 2, "b": 1}))
    frames, collecting = sys._current_frames, []

    def current_frames() -> dict[int, Any]:
        collecting.append(gc.isenabled())
        return frames()

    monkeypatch.setattr(sys, "_current_frames", current_frames)
    with (
        trace_scope_sync(client=sync_side.client, replay_session_id="s-1"),
        ContextThreadPoolExecutor(2) as pool,
    ):
        list(pool.map(lambda message: sync_side.flow().execute(message=message), "ab"))
    assert set(collecting) == {False}
    assert gc.isenabled()


async def test_program_that_never_rests_has_no_clean_report(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*overlapping({"a": 2, "b": 1}))

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async with async_side.scope() as scope:
        spinning = asyncio.ensure_future(spin())
        assert await completion_order(async_side, *"ab") == ["b", "a"]
        spinning.cancel()
    assert not scope.report.clean
    assert "; unordered=" in scope.report.summary()


async def completion_order(side: AsyncSide, *messages: str) -> list[str]:
    """The messages of calls that are made together, in the order in which they complete."""
    order: list[str] = []

    async def work(message: str) -> None:
        await side.execute(message)
        order.append(message)

    async with anyio.create_task_group() as group:
        for message in messages:
            group.start_soon(work, message)
    return order


@LOOPS
async def test_calls_of_a_session_complete_in_recorded_order_at_once(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*overlapping({"a": 900, "b": 300, "c": 600, "d": 100}))
    began = time.monotonic()
    for messages in ("abcd", "dcba", "bdac"):
        async with async_side.scope():
            assert await completion_order(async_side, *messages) == ["d", "b", "c", "a"]
    assert time.monotonic() - began < 5


def test_changed_call_of_a_pool_takes_no_recording_of_another_call(
    service: SessionService, sync_side: SyncSide
) -> None:
    service.record(*overlapping(dict.fromkeys("abcd", 1.0)))

    def ask(message: str) -> Any:
        return sync_side.flow().execute(message=message).result

    with (
        trace_scope_sync(client=sync_side.client, replay_session_id="s-1") as scope,
        ContextThreadPoolExecutor(4) as pool,
    ):
        calls = [pool.submit(ask, message) for message in ("c, changed", "b", "a", "d")]
        results = [call.result() for call in calls]
    assert results == [f"answer to {name}" for name in "cbad"]
    assert len(scope.report.drift) == 1


def told_times(seen: dict[str, tuple[float, float]], kind: str = "execute") -> list[dict[str, Any]]:
    """The outcomes of runs that began and ended at these seconds for their caller."""
    return [
        {
            "kind": kind,
            "position": position,
            "executionId": run,
            "call": {},
            "startedAt": iso(100 + began),
            "completedAt": iso(100 + ended),
            "completed": True,
        }
        for position, (run, (began, ended)) in enumerate(seen.items())
    ]


@LOOPS
async def test_calls_complete_in_the_order_that_their_caller_saw(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*(execution(n, name, began=n, took=5.5 - n) for n, name in enumerate("abc")))
    seen = {"exec-1": (0.0, 2.0), "exec-0": (0.1, 4.0), "exec-2": (0.2, 3.0)}
    service.sessions["s-1"]["outcomes"] = told_times(seen)
    async with async_side.scope() as scope:
        assert await completion_order(async_side, *"abc") == ["b", "c", "a"]
    assert scope.report.clean


async def test_calls_that_completed_in_one_pass_of_the_event_loop_do_so_again(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*overlapping({"slow": 0.2, "fast": 0.1, "as fast": 0.0995}))
    for _ in range(REPLAYS):
        async with async_side.scope():
            calls = [
                asyncio.ensure_future(async_side.execute(message))
                for message in ("slow", "fast", "as fast")
            ]
            done, (other,) = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            other.cancel()
            assert done == set(calls[1:])


@LOOPS
async def test_calls_without_times_complete_in_the_order_of_the_calls(
    service: SessionService, async_side: AsyncSide
) -> None:
    untimed = {"startedAt": None, "completedAt": None}
    service.record(*(execution(n, name, **untimed) for n, name in enumerate("abc")))
    async with async_side.scope():
        order = await completion_order(async_side, "c", "a", "b")
    assert sorted(order) == ["a", "b", "c"]


@LOOPS
async def test_call_made_after_a_delay_of_the_program_completes_in_recorded_order(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(execution(0, "slow", took=0.5), execution(1, "late", began=0.1, took=0.1))
    order: list[str] = []

    async def work(message: str, delay: float) -> None:
        await anyio.sleep(delay)
        await async_side.execute(message)
        order.append(message)

    async with async_side.scope(), anyio.create_task_group() as group:
        group.start_soon(work, "slow", 0)
        group.start_soon(work, "late", 0.1)
    assert order == ["late", "slow"]


@LOOPS
@pytest.mark.parametrize("limit", [1, 2])
async def test_program_with_less_concurrency_now_does_not_wait_for_calls_behind_it(
    service: SessionService, async_side: AsyncSide, limit: int
) -> None:
    service.record(*overlapping({f"m{n}": 20 - n for n in range(12)}))
    began = time.monotonic()
    async with async_side.scope() as scope:
        semaphore = anyio.Semaphore(limit)

        async def work(message: str) -> None:
            async with semaphore:
                await async_side.execute(message)

        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(work, f"m{number}")
    assert scope.report.clean
    assert time.monotonic() - began < 5


@LOOPS
async def test_removed_call_is_a_leftover_and_not_waited_for_long(
    service: SessionService, async_side: AsyncSide
) -> None:
    service.record(*overlapping({f"m{n}": 20 - n for n in range(6)}))
    began = time.monotonic()
    with pytest.raises(ReplayLeftoverError):
        async with async_side.scope():
            assert await completion_order(async_side, "m0", "m1") == ["m1", "m0"]
    assert time.monotonic() - began < 3


def stream(slug: str, start: float, *chunks: float) -> Recording:
    """The recording of a stream with an output in each chunk, and the end in the last."""
    outputs = [{"eventType": "step_output", "stepId": slug, "outputData": at} for at in chunks[:-1]]
    events = (*outputs, {"eventType": "flow_completed", "result": slug})
    return Recording(
        slug=slug,
        kind="step",
        request={"message": "m0"},
        started_at=start,
        completed_at=start + chunks[-1],
        events=events,
        chunks=((0.0, 0), *((at, 1) for at in chunks)),
    )


@LOOPS
async def test_chunks_of_two_streams_come_in_recorded_order(
    async_side: AsyncSide, tmp_path: Path
) -> None:
    write_cassette(
        tmp_path / "c.jsonl", "s", [stream("a", 5, 1, 4, 5, 9), stream("b", 6, 1, 2, 5, 6)]
    )
    order: list[str] = []

    async def read(slug: str) -> None:
        events = async_side.flow(f"acme/spelling/{slug}").events(message="m0")
        async for _ in events:
            order.append(slug)  # noqa: PERF401 - when it comes

    for _ in range(10):
        order.clear()
        async with trace_scope(cassette=tmp_path / "c.jsonl"), anyio.create_task_group() as group:
            group.start_soon(read, "a")
            group.start_soon(read, "b")
        assert "".join(order) == "abbaabba"


@LOOPS
@pytest.mark.parametrize("told", ["nothing", "ends", "chunks"])
async def test_steps_of_streams_of_a_session_come_in_recorded_order(
    service: SessionService, async_side: AsyncSide, told: str
) -> None:
    def streamed(number: int, message: str, *ends: float) -> dict[str, Any]:
        starts = (number / 1000, *ends)
        steps = [
            step(f"{message}{at}", startedAt=iso(start), completedAt=iso(end))
            for at, (start, end) in enumerate(zip(starts, ends, strict=False))
        ]
        times = {"began": number / 1000, "took": ends[-1]}
        return execution(number, message, triggerType="step", steps=steps, **times)

    service.record(streamed(0, "a", 3, 7, 8), streamed(1, "b", 1, 2, 9), streamed(2, "c", 5, 6))
    expected = ["b0", "b1", "a0", "c0", "c1", "a1", "a2", "b2"]
    if told != "nothing":
        # The request of b took long to reach the service, whose clock is 100 seconds behind.
        times = {"exec-0": (0.0, 8.0), "exec-1": (-1.5, 9.0), "exec-2": (0.002, 6.0)}
        outcomes = told_times(times, kind="step")
        service.sessions["s-1"]["outcomes"] = outcomes
    if told == "chunks":
        expected = ["a0", "b0", "c0", "a1", "b1", "c1", "a2", "b2"]
        arrivals = [
            (1, 4, 7.9),
            (3.5, 6.7, 10.4),
            (3, 5.9),
        ]  # a has its steps 1, 4 and 7.9 s after it began
        for each, ends in zip(outcomes, arrivals, strict=True):
            each["chunks"] = [(0.01, 2), *((at, 2) for at in ends)]
    order: list[str] = []

    async def read(message: str) -> None:
        async for done in async_side.flow().steps(message=message):
            order.append(done.step_id)  # noqa: PERF401 - when it comes

    for _ in range(10):
        order.clear()
        async with async_side.scope(), anyio.create_task_group() as group:
            for message in "abc":
                group.start_soon(read, message)
        assert order == expected


async def test_stream_that_is_left_early_holds_no_other_call_up(
    async_side: AsyncSide, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("_MISSING", "_MISSING_AT_MOST", "_PATIENCE"):
        monkeypatch.setattr(f"noukai_sdk.replay.completion_order.{name}", 60.0)
    recordings = [stream("a", 0, 1, 2, 3), stream("grade-3", 0.5, 8, 9)]
    write_cassette(tmp_path / "c.jsonl", "s", recordings)
    async with trace_scope(cassette=tmp_path / "c.jsonl"):
        events = async_side.flow("acme/spelling/a").events(message="m0")
        assert (await anext(events)).output_data == 1
        await events.aclose()
        with anyio.fail_after(30):
            assert len(await async_side.events("m0")) == 2


async def test_sync_call_on_the_event_loop_does_not_wait_for_its_tasks(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide
) -> None:
    service.record(execution(0, "a", took=5), execution(1, "b", began=1, took=9))
    async with async_side.scope(), anyio.create_task_group() as group:
        group.start_soon(async_side.execute, "a")
        await anyio.sleep(0)
        assert sync_side.flow().execute(message="b").result == "answer to b"


async def test_thread_does_not_wait_for_a_loop_that_waits_for_the_thread(
    service: SessionService, async_side: AsyncSide, sync_side: SyncSide
) -> None:
    service.record(execution(0, "a", took=5), execution(1, "b", began=1, took=9))
    async with async_side.scope(), anyio.create_task_group() as group:
        with ContextThreadPoolExecutor(1) as pool:
            group.start_soon(async_side.execute, "a")
            await anyio.sleep(0)
            await anyio.sleep(0)
            execute = partial(sync_side.flow().execute, message="b")
            assert pool.submit(execute).result(30).result == "answer to b"


def test_capture_keeps_the_true_times_of_concurrent_calls(
    client: AsyncNoukai, tmp_path: Path
) -> None:
    async def capture() -> list[Any]:
        async with trace_scope(record=tmp_path / "c.jsonl"):
            return await completed(asking(client))

    order = asyncio.run(capture())
    recordings = read_cassette(tmp_path / "c.jsonl").recordings
    ends = {each.completed_at: each.output for each in recordings}
    assert len(ends) == 5
    assert [ends[end] for end in sorted(ends, key=float)] == order


Chains = list[list[int]]


@st.composite
def chains(draw: st.DrawFn) -> Chains:
    """Tasks that make calls of these durations one after the other; no two calls end together."""
    tasks: Chains = draw(
        st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=4), min_size=1, max_size=6)
    )
    ends: set[float] = set()
    result: list[list[float]] = []
    for number, calls in enumerate(tasks):
        now, chain = number / 1000, []
        for took in calls:
            while now + took in ends:
                took += 1
            ends.add(now + took)
            now += took
            chain.append(took)
        result.append(chain)
    return result  # type: ignore[return-value]  # integers


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@settings(max_examples=40)
@given(tasks=chains(), data=st.data())
def test_tasks_of_any_interleaving_complete_in_recorded_order(
    service: SessionService, backend: str, tasks: Chains, data: st.DataObject
) -> None:
    executions, expected = [], []
    for number, calls in enumerate(tasks):
        now = number / 1000
        for index, took in enumerate(calls):
            name = f"{number}.{index}"
            executions.append(execution(len(executions), name, began=now, took=took))
            now += took
            expected.append((now, name))
    executions.sort(key=lambda each: each["startedAt"])
    service.record(*executions)
    starts = data.draw(st.permutations(range(len(tasks))))

    async def program() -> list[str]:
        side = AsyncSide(service, "s-1")
        order: list[str] = []

        async def work(number: int) -> None:
            for index in range(len(tasks[number])):
                await side.execute(f"{number}.{index}")
                order.append(f"{number}.{index}")

        with anyio.fail_after(20):
            async with side.scope(), anyio.create_task_group() as group:
                for number in starts:
                    group.start_soon(work, number)
        return order

    assert anyio.run(program, backend=backend) == [name for _, name in sorted(expected)]
