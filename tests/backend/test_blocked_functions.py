"""Functions of steps that block their threads, beside flows that must go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import httpx
import pytest

from noukai_sdk.local.runtime.thread_limits import ThreadCounts, WorkerThreads
from tests.support.servers import wait_until

from .backends import MESSAGE, serving

released = threading.Event()
blocked = threading.Semaphore(0)


def block(message: str) -> str:
    """Wait until the test ends."""
    blocked.release()
    released.wait(60)
    return message


def work(message: str) -> str:
    return message.upper()


@pytest.fixture(autouse=True)
def _released() -> Iterator[None]:
    released.clear()
    yield
    released.set()


def test_128_blocked_functions_leave_other_flows_database_and_executor_alone(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as backend:
        backend.write_flow("blocks", f"steps: [{{id: a, function: '{__name__}:block'}}]")
        backend.write_flow("works", f"steps: [{{id: a, function: '{__name__}:work'}}]")
        try:
            jobs = [backend.submit("tests/blocks") for _ in range(128)]
            for _ in range(backend.settings.threads_of_one_function):
                assert blocked.acquire(timeout=20)
            assert not blocked.acquire(timeout=0.1)
            for _ in range(3):
                response = backend.post("tests/works/execute", MESSAGE, "beside")
                assert response.json()["result"] == MESSAGE["message"].upper()
            assert len(backend.session("beside")) == 3
            # The exchange is masked on asyncio's default executor, which resolves names, too.
            exchange = {
                "request": {"method": "GET", "origin": "http://a", "path": "/", "query": "",
                            "headers": [], "body": None, "redacted": []},
                "response": {"status": 200, "headers": [], "body": None},
                "startedAt": "2026-11-20T09:00:00Z", "completedAt": "2026-11-20T09:00:01Z",
            }  # fmt: skip
            put = backend.client.put("/seq/sessions/beside/exchange", json=exchange)
            assert put.status_code == 200
        finally:
            released.set()
        for job in jobs:
            assert backend.finished("tests/blocks", job)["status"] == "completed"


def test_caller_that_leaves_blocked_function_frees_its_place(tmp_path: Path) -> None:
    with serving(tmp_path, function_threads=2, threads_of_one_function=1) as backend:
        backend.write_flow("blocks", f"steps: [{{id: a, function: '{__name__}:block'}}]")
        backend.write_flow("works", f"steps: [{{id: a, function: '{__name__}:work'}}]")
        url = f"{backend.client.base_url}seq/acme/tests/blocks/step"
        headers = {"Authorization": "Bearer nk_dev", "X-Session-Id": "left"}

        def leave(_: int) -> None:
            with httpx.stream("POST", url, json=MESSAGE, headers=headers) as response:
                next(response.iter_bytes())
                assert blocked.acquire(timeout=20)

        for number in range(2):
            leave(number)
        wait_until(lambda: {run["status"] for run in backend.session("left")} == {"cancelled"})
        with ThreadPoolExecutor(3) as pool:
            results = pool.map(lambda _: backend.post("tests/works/execute", MESSAGE), range(3))
            assert [response.status_code for response in results] == [200] * 3


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_threads_alive_are_limited_after_their_calls_were_cancelled(
    anyio_backend: str,
) -> None:
    threads = WorkerThreads(ThreadCounts(2, of_one_function=1))
    started = 0

    def count_and_block() -> None:
        nonlocal started
        started += 1
        released.wait(60)

    async def cancelled_call() -> None:
        with anyio.move_on_after(0.05) as scope:
            await threads.call(count_and_block, "block")
        assert scope.cancelled_caught

    for _ in range(6):  # the last two wait for a thread
        await cancelled_call()
    assert started == 4
    assert await threads.call(lambda: 3, "other") == 3
    released.set()
    with anyio.fail_after(20):
        assert await threads.call(lambda: 4, "block") == 4


def test_event_loop_that_has_ended_lets_blocked_thread_end() -> None:
    begun, ended = threading.Event(), threading.Event()

    def function() -> None:
        begun.set()
        released.wait(60)
        ended.set()

    async def main() -> None:
        threads = WorkerThreads(ThreadCounts(1, of_one_function=1))
        call = asyncio.create_task(threads.call(function, "f"))
        assert await asyncio.to_thread(begun.wait, 30)
        call.cancel()

    asyncio.run(main())
    released.set()
    assert ended.wait(30)
