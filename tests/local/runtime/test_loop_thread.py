from __future__ import annotations

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


def test_all_calls_run_in_one_thread(loop: LoopThread) -> None:
    assert not loop.is_running
    assert loop.responds(1) is None
    with ThreadPoolExecutor(4) as pool:
        threads = set(pool.map(lambda _: loop.call(thread_id), range(20)))
    assert len(threads) == 1
    assert threading.get_ident() not in threads
    assert loop.is_running
    assert loop.responds(10) is True


def test_errors_come_out_as_they_are(loop: LoopThread) -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        loop.call(fail)


def test_a_call_inside_itself_is_refused(loop: LoopThread) -> None:
    async def inside() -> None:
        loop.call(thread_id)

    with pytest.raises(RuntimeError, match="await the async form"):
        loop.call(inside)


def test_a_call_works_where_a_loop_is_running(loop: LoopThread) -> None:
    async def main() -> int:
        return loop.call(thread_id)

    assert anyio.run(main) == loop.call(thread_id)


def test_it_starts_again_after_a_stop(loop: LoopThread) -> None:
    before = loop.call(thread_id)
    loop.stop()
    loop.stop()
    assert not loop.is_running
    assert before not in [thread.ident for thread in threading.enumerate()]
    loop.call(thread_id)
    assert loop.is_running


def test_what_is_forgotten_starts_anew(loop: LoopThread) -> None:
    before = loop.call(thread_id)
    running = loop._running
    assert running is not None
    loop.forget()
    assert not loop.is_running
    assert loop.call(thread_id) != before
    running.stop()


def test_stopping_cancels_what_is_under_way(loop: LoopThread) -> None:
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(loop.call, anyio.sleep_forever)
        wait_until(lambda: loop.is_running, what="the loop is running")
        loop.call(anyio.lowlevel.checkpoint)
        loop.stop()
        with pytest.raises(CancelledError):
            waiting.result(10)


def test_a_loop_that_is_held_up_does_not_respond(loop: LoopThread) -> None:
    go_on = threading.Event()

    async def block() -> None:
        go_on.wait(20)

    with ThreadPoolExecutor(1) as pool:
        loop.call(thread_id)
        blocked = pool.submit(loop.call, block)
        try:
            assert wait_until(lambda: loop.responds(0.05) is False)
        finally:
            go_on.set()
        blocked.result(10)


def test_calls_wait_for_their_turn(loop: LoopThread) -> None:
    running, most = 0, 0

    async def work() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        running -= 1

    loop.limit(2)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: loop.call(work), range(20)))
    assert loop.max_calls == 2
    assert most <= 2


def test_a_call_out_of_another_one_does_not_wait_for_it(loop: LoopThread) -> None:
    async def outer() -> int:
        inner = partial(loop.call, thread_id)
        with anyio.fail_after(10):
            return await anyio.to_thread.run_sync(inner, abandon_on_cancel=True)

    loop.limit(1)
    assert loop.call(outer) == loop.call(thread_id)


def test_a_stop_inside_itself_is_refused(loop: LoopThread) -> None:
    async def inside() -> None:
        loop.stop()

    with pytest.raises(RuntimeError, match="await the async form"):
        loop.call(inside)
    assert loop.is_running


def test_a_loop_that_something_has_ended_is_started_again(loop: LoopThread) -> None:
    async def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.call(end)
    assert wait_until(lambda: not loop.is_running)
    assert loop.responds(1) is None
    loop.call(thread_id)
    assert loop.is_running


def test_a_loop_that_something_has_ended_can_be_stopped(loop: LoopThread) -> None:
    async def end() -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        loop.call(end)
    assert wait_until(lambda: not loop.is_running)
    loop.stop()


async def numbers(closed: list[str]) -> AsyncGenerator[int, None]:
    try:
        for number in range(3):
            yield number
    finally:
        closed.append("closed")


def test_items_are_iterated_and_the_generator_closed(loop: LoopThread) -> None:
    closed: list[str] = []
    assert list(loop.iterate(numbers(closed))) == [0, 1, 2]
    for number in loop.iterate(numbers(closed)):
        if number == 1:
            break
    assert closed == ["closed", "closed"]


def test_a_stop_is_not_the_end_of_a_generator(loop: LoopThread) -> None:
    items = loop.iterate(numbers([]))
    assert next(items) == 0
    loop.stop()
    with pytest.raises(CancelledError, match="the runtime was shut down"):
        next(items)


def test_a_loop_that_cannot_start_says_so(
    loop: LoopThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(running: object, ready: object) -> None:
        raise OSError("no loop today")

    monkeypatch.setattr("noukai_sdk.local.runtime.loop_thread._Running._serve", fail)
    with pytest.raises(OSError, match="no loop today"):
        loop.call(thread_id)


def test_an_interrupt_cancels_the_call() -> None:
    code = """
import os, signal, threading, anyio
from noukai_sdk.local.runtime.loop_thread import loop_thread

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
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["cancelled", "interrupted"], done.stderr


def test_an_interrupt_closes_the_generator() -> None:
    code = """
import os, signal, threading, anyio
from noukai_sdk.local.runtime.loop_thread import loop_thread

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
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["closed", "interrupted"], done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_starts_a_thread_of_its_own() -> None:
    code = """
import os, warnings
from noukai_sdk.local.runtime.loop_thread import loop_thread

async def one():
    return 1

loop_thread.call(one)
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    os._exit(0 if loop_thread.call(one) == 1 else 1)
print(os.waitpid(child, 0)[1])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0", done.stderr
