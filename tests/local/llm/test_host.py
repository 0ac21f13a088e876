"""The event loop that a client's pool lives in."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.cross_loop_stream import CrossLoopStream
from noukai_sdk.local.llm.errors import LlmClosedError
from noukai_sdk.local.llm.loop_bound import LoopBound
from noukai_sdk.local.runtime.loop_thread import loop_thread
from noukai_sdk.local.runtime.runtime import shutdown
from tests.support.servers import wait_until

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module", autouse=True)
def the_loop_thread_ends() -> Iterator[None]:
    """So that tests which count threads find none of ours."""
    yield
    shutdown()


REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


class Resource:
    """Notes where it is used and closed."""

    opened = 0

    def __init__(self) -> None:
        Resource.opened += 1
        self.loops: set[Any] = set()
        self.closed_in: Any = None

    async def use(self) -> str:
        self.loops.add(asyncio.get_running_loop())
        return REQUEST_ID.get()

    async def aclose(self) -> None:
        self.closed_in = asyncio.get_running_loop()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio does not tell before")
async def test_a_call_that_was_stopped_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(*_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    host = LoopBound(Resource)
    monkeypatch.setattr(loop_thread, "submit", submit)
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        await host.wait(Resource.use)
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        host.run(Resource.use)


async def test_everything_happens_in_one_loop() -> None:
    resource = Resource()
    host = LoopBound(lambda: resource)
    host.run(Resource.use)
    await host.wait(Resource.use)
    await anyio.to_thread.run_sync(host.run, Resource.use)
    await host.aclose()
    assert resource.loops == {resource.closed_in}


async def test_the_callers_context_goes_along() -> None:
    host = LoopBound(Resource)
    REQUEST_ID.set("r-1")
    assert await host.wait(Resource.use) == "r-1"
    assert host.run(Resource.use) == "r-1"
    host.close()


async def test_errors_come_back() -> None:
    async def broken(_: Resource) -> None:
        raise KeyError("lost")

    host = LoopBound(Resource)
    with pytest.raises(KeyError, match="lost"):
        host.run(broken)
    with pytest.raises(KeyError, match="lost"):
        await host.wait(broken)
    host.close()


async def test_a_cancelled_task_cancels_its_work() -> None:
    begun, ended = threading.Event(), threading.Event()

    async def endless(_: Resource) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    host = LoopBound(Resource)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(host.wait, endless)
        await anyio.to_thread.run_sync(begun.wait, 10)
        tasks.cancel_scope.cancel()
    assert await anyio.to_thread.run_sync(ended.wait, 10)
    host.close()


def test_a_forked_child_opens_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = Resource.opened
    host = LoopBound(Resource)
    host.run(Resource.use)
    assert Resource.opened == opened + 1
    monkeypatch.setattr(os, "getpid", lambda: -1)
    host.run(Resource.use)
    host.run(Resource.use)
    assert Resource.opened == opened + 2
    host.close()


def test_without_trios_own_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sniffio", None)
    host = LoopBound(Resource)
    assert host.run(Resource.use) == "none"
    host.close()


async def test_the_loop_thread_must_not_wait_for_itself() -> None:
    host = LoopBound(Resource)

    async def call(_: Resource) -> None:
        host.run(Resource.use)

    async def close(_: Resource) -> None:
        host.close()

    with pytest.raises(RuntimeError, match="await the async form instead"):
        host.run(call)
    with pytest.raises(RuntimeError, match=r"await aclose\(\) instead"):
        host.run(close)
    with pytest.raises(LlmClosedError):
        host.run(Resource.use)
    await host.aclose()


async def test_work_may_use_the_host_again() -> None:
    host = LoopBound(Resource)

    async def inner(_: Resource) -> str:
        return await host.wait(Resource.use)

    assert host.run(inner) == "none"
    await host.aclose()


def test_shutting_down_releases_the_resource_and_it_opens_again() -> None:
    opened: list[Resource] = []

    def open_resource() -> Resource:
        opened.append(Resource())
        return opened[-1]

    host = LoopBound(open_resource)
    host.run(Resource.use)
    shutdown()
    assert opened[0].closed_in is not None
    host.run(Resource.use)
    assert len(opened) == 2
    shutdown()
    host.close()
    assert opened[1].closed_in is not None


def test_shutting_down_ends_what_is_under_way() -> None:
    begun = threading.Event()

    async def endless(_: Resource) -> None:
        begun.set()
        await asyncio.Event().wait()

    host = LoopBound(Resource)
    with ThreadPoolExecutor() as threads:
        call = threads.submit(host.run, endless)
        assert begun.wait(10)
        shutdown()
        with pytest.raises(LlmClosedError, match="the runtime was shut down"):
            call.result(10)


def test_a_dropped_host_closes_its_resource() -> None:
    resource = Resource()
    host = LoopBound(lambda: resource)
    host.run(Resource.use)
    del host
    wait_until(lambda: resource.closed_in is not None)


async def numbers(made: list[str], _: Resource) -> Any:
    try:
        for number in range(3):
            yield number
        yield None
    finally:
        made.append("closed")


async def test_a_relay_gives_every_value_and_closes() -> None:
    made: list[str] = []
    host = LoopBound(Resource)
    values = [
        value async for value in CrossLoopStream(host, lambda resource: numbers(made, resource))
    ]
    assert values == [0, 1, 2, None]
    assert made == ["closed"]
    host.close()


async def test_a_relay_that_is_left_closes_the_generator() -> None:
    made: list[str] = []
    host = LoopBound(Resource)
    values = CrossLoopStream(host, lambda resource: numbers(made, resource))
    assert await anext(values) == 0
    await values.aclose()
    assert made == ["closed"]
    host.close()


async def test_a_relay_that_was_never_read_is_closed() -> None:
    made: list[str] = []
    host = LoopBound(Resource)
    await CrossLoopStream(host, lambda resource: numbers(made, resource)).aclose()
    assert made == []
    host.close()


async def test_a_relay_over_a_closed_host() -> None:
    made: list[str] = []
    host = LoopBound(Resource)
    values = CrossLoopStream(host, lambda resource: numbers(made, resource))
    await anext(values)
    host.close()
    await values.aclose()
    del values
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: made == ["closed"]))


async def test_a_relay_that_outlives_a_shutdown_is_no_whole_stream() -> None:
    made: list[str] = []
    host = LoopBound(Resource)
    values = CrossLoopStream(host, lambda resource: numbers(made, resource))
    await anext(values)
    shutdown()
    assert made == ["closed"]
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        await anext(values)
    host.close()
