"""The loop thread: blocking calls from any thread, streams, stops, interrupts, forks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial

import anyio
import pytest

from noukai_sdk.local.runtime.loop_thread import LoopThread
from tests.support.servers import wait_until


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread()
    yield loop
    loop.stop()


async def thread_id() -> int:
    await anyio.lowlevel.checkpoint()
    return threading.get_ident()


async def end_the_loop() -> None:
    raise SystemExit


def test_calls_from_many_threads_run_in_one_thread(loop: LoopThread) -> None:
    assert not loop.is_running
    assert loop.responds(1) is None
    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: loop.call(thread_id), range(20)))

    async def main() -> int:
        return loop.call(thread_id)  # inside a running loop

    assert {anyio.run(main)} == threads
    assert threading.get_ident() not in threads
    assert loop.is_running
    assert loop.responds(10) is True

    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        loop.call(fail)


def test_blocking_call_on_loop_thread_raises(loop: LoopThread) -> None:
    async def call() -> None:
        loop.call(thread_id)

    async def stop() -> None:
        loop.stop()

    for function in (call, stop):
        with pytest.raises(RuntimeError, match="await the async form"):
            loop.call(function)
    assert loop.is_running


def test_call_after_stop_or_fork_starts_new_thread(loop: LoopThread) -> None:
    first = loop.call(thread_id)
    loop.stop()
    loop.stop()
    assert not loop.is_running
    assert first not in [thread.ident for thread in threading.enumerate()]
    second = loop.call(thread_id)
    running = loop._running
    assert running is not None
    loop.forget()
    assert not loop.is_running
    assert loop.call(thread_id) != second
    running.stop()


def test_stop_cancels_calls_and_streams(loop: LoopThread) -> None:
    items = loop.iterate(numbers([]))
    assert next(items) == 0
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.call, anyio.sleep_forever)
        loop.call(anyio.lowlevel.checkpoint)
        loop.stop()
        with pytest.raises(CancelledError):
            waiting.result(30)
    with pytest.raises(CancelledError, match="the runtime was shut down"):
        next(items)


def test_loop_that_is_held_up_does_not_respond(loop: LoopThread) -> None:
    release = threading.Event()

    async def block() -> None:
        release.wait(20)

    with ThreadPoolExecutor(1) as pool:
        loop.call(thread_id)
        blocked = pool.submit(loop.call, block)
        try:
            assert wait_until(lambda: loop.responds(0.05) is False)
        finally:
            release.set()
        blocked.result(30)


def test_limit_lets_further_calls_wait_but_not_nested_ones(loop: LoopThread) -> None:
    running, most = 0, 0
    two_run = asyncio.Event()

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 2:
            two_run.set()
        with anyio.fail_after(30):
            await two_run.wait()
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    loop.limit(2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: loop.call(work), range(20)))
    assert (loop.max_calls, most) == (2, 2)

    async def outer() -> int:
        with anyio.fail_after(30):
            return await anyio.to_thread.run_sync(
                partial(loop.call, thread_id), abandon_on_cancel=True
            )

    loop.limit(1)
    assert loop.call(outer) == loop.call(thread_id)


def test_loop_ended_by_system_exit_is_stopped_or_started_again(loop: LoopThread) -> None:
    for start_again in (True, False):
        with pytest.raises(SystemExit):
            loop.call(end_the_loop)
        assert wait_until(lambda: not loop.is_running)
        assert loop.responds(1) is None
        if start_again:
            loop.call(thread_id)
            assert loop.is_running
        else:
            loop.stop()


async def numbers(closed: list[str]) -> AsyncGenerator[int, None]:
    try:
        for number in range(3):
            yield number
    finally:
        closed.append("closed")


def test_iterate_yields_items_and_closes_generator(loop: LoopThread) -> None:
    closed: list[str] = []
    assert list(loop.iterate(numbers(closed))) == [0, 1, 2]
    for number in loop.iterate(numbers(closed)):
        if number == 1:
            break
    assert closed == ["closed", "closed"]


def test_loop_that_cannot_start_raises(loop: LoopThread, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(running: object, started: object) -> None:
        raise OSError("too many open files")

    monkeypatch.setattr("noukai_sdk.local.runtime.loop_thread._Running._serve", fail)
    with pytest.raises(OSError, match="too many open files"):
        loop.call(thread_id)


def run_code(code: str) -> list[str]:
    """Run Python code in a process of its own, with ``loop_thread`` imported; return its output."""
    header = (
        "import os, signal, threading, warnings, anyio\n"
        "from noukai_sdk.local.runtime.loop_thread import loop_thread\n"
    )
    command = [sys.executable, "-W", "error", "-c", header + code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    return done.stdout.split()


CALL = """
async def hang():
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await anyio.sleep_forever()
    finally:
        print("cancelled")

try:
    loop_thread.call(hang)
except KeyboardInterrupt:
    loop_thread.stop()
    print("interrupted")
"""
STREAM = """
async def items():
    try:
        yield 1
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.1)
        print("closed")

try:
    for _ in loop_thread.iterate(items()):
        pass
except KeyboardInterrupt:
    loop_thread.stop()
    print("interrupted")
"""
FORK = """
async def one():
    return 1

loop_thread.call(one)
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    os._exit(0 if loop_thread.call(one) == 1 else 1)
print(os.waitpid(child, 0)[1])
"""


def test_interrupt_cancels_call_or_closes_generator() -> None:
    assert run_code(CALL) == ["cancelled", "interrupted"]
    assert run_code(STREAM) == ["closed", "interrupted"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_child_starts_its_own_thread() -> None:
    assert run_code(FORK) == ["0"]
