"""LoopBound and CrossLoopStream: one resource, used from any thread and any event loop."""

from __future__ import annotations

import asyncio
import contextvars
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.errors import LlmClosedError
from noukai_sdk.local.llm.loop_bound import CrossLoopStream, LoopBound
from noukai_sdk.local.runtime.loop_thread import loop_thread
from noukai_sdk.local.runtime.runtime import shutdown
from tests.local.llm.calls import happens
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_thread_stopped")]

REQUEST_ID: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="none")


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Resource:
    """Records the loops that use and close it."""

    def __init__(self) -> None:
        self.loops: set[Any] = set()
        self.closed_in: Any = None
        self.begun = threading.Event()
        self.ended = threading.Event()
        self.generators_closed = 0

    async def use(self) -> str:
        self.loops.add(asyncio.get_running_loop())
        return REQUEST_ID.get()

    async def wait_forever(self) -> None:
        self.begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.ended.set()

    async def fail(self) -> None:
        raise KeyError("lost")

    async def numbers(self) -> Any:
        try:
            for number in range(3):
                yield number
            yield None
        finally:
            self.generators_closed += 1

    async def aclose(self) -> None:
        self.closed_in = asyncio.get_running_loop()


@pytest.mark.parametrize("sniffio", [True, False])
async def test_all_work_runs_in_one_loop_with_the_callers_context(
    sniffio: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not sniffio:
        monkeypatch.delitem(sys.modules, "sniffio", raising=False)
    resource = Resource()
    bound = LoopBound(lambda: resource)
    assert bound.run(Resource.use) == "none"
    REQUEST_ID.set("r-1")
    assert await bound.run_async(Resource.use) == "r-1"
    assert await anyio.to_thread.run_sync(bound.run, Resource.use) == "r-1"
    await bound.aclose()
    assert resource.loops == {resource.closed_in}


async def test_error_of_the_work_reaches_the_caller() -> None:
    bound = LoopBound(Resource)
    with pytest.raises(KeyError, match="lost"):
        bound.run(Resource.fail)
    with pytest.raises(KeyError, match="lost"):
        await bound.run_async(Resource.fail)
    bound.close()


async def test_cancelled_task_cancels_its_work() -> None:
    resource = Resource()
    bound = LoopBound(lambda: resource)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bound.run_async, Resource.wait_forever)
        assert await happens(resource.begun)
        tasks.cancel_scope.cancel()
    assert await happens(resource.ended)
    bound.close()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="asyncio cannot tell the two cases apart")
async def test_call_cancelled_before_it_began_raises_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def submit(*_: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future

    bound = LoopBound(Resource)
    monkeypatch.setattr(loop_thread, "submit", submit)
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        await bound.run_async(Resource.use)
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        bound.run(Resource.use)


async def test_blocking_call_on_the_loop_thread_raises() -> None:
    bound = LoopBound(Resource)

    async def call(_: Resource) -> None:
        bound.run(Resource.use)

    async def close(_: Resource) -> None:
        bound.close()

    async def call_async(_: Resource) -> str:
        return await bound.run_async(Resource.use)

    assert bound.run(call_async) == "none"
    with pytest.raises(RuntimeError, match="await the async form instead"):
        bound.run(call)
    with pytest.raises(RuntimeError, match=r"await aclose\(\) instead"):
        bound.run(close)
    with pytest.raises(LlmClosedError):
        bound.run(Resource.use)
    await bound.aclose()


def test_resource_is_opened_again_after_shutdown_and_in_a_forked_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resources: list[Resource] = []

    def open_resource() -> Resource:
        resources.append(Resource())
        return resources[-1]

    bound = LoopBound(open_resource)
    bound.run(Resource.use)
    assert len(resources) == 1
    shutdown()
    assert resources[0].closed_in is not None
    bound.run(Resource.use)
    assert len(resources) == 2
    monkeypatch.setattr(os, "getpid", lambda: -1)
    bound.run(Resource.use)
    bound.run(Resource.use)
    assert len(resources) == 3
    bound.close()
    assert resources[2].closed_in is not None


def test_shutdown_ends_a_call_in_progress() -> None:
    resource = Resource()
    bound = LoopBound(lambda: resource)
    with ThreadPoolExecutor() as threads:
        call = threads.submit(bound.run, Resource.wait_forever)
        assert resource.begun.wait(30)
        shutdown()
        with pytest.raises(LlmClosedError, match="the runtime was shut down"):
            call.result(30)


def test_dropped_owner_closes_the_resource() -> None:
    resource = Resource()
    bound = LoopBound(lambda: resource)
    bound.run(Resource.use)
    del bound
    wait_until(lambda: resource.closed_in is not None)


async def test_stream_read_to_its_end_or_left_closes_the_generator() -> None:
    resource = Resource()
    bound = LoopBound(lambda: resource)
    values = [value async for value in CrossLoopStream(bound, Resource.numbers)]
    assert (values, resource.generators_closed) == ([0, 1, 2, None], 1)
    left = CrossLoopStream(bound, Resource.numbers)
    assert await anext(left) == 0
    await left.aclose()
    assert resource.generators_closed == 2
    await CrossLoopStream(bound, Resource.numbers).aclose()
    assert resource.generators_closed == 2
    bound.close()


async def test_stream_after_close_or_shutdown_raises_closed() -> None:
    resource = Resource()
    bound = LoopBound(lambda: resource)
    stream = CrossLoopStream(bound, Resource.numbers)
    await anext(stream)
    shutdown()
    assert resource.generators_closed == 1
    with pytest.raises(LlmClosedError, match="the runtime was shut down"):
        await anext(stream)
    open_stream = CrossLoopStream(bound, Resource.numbers)
    await anext(open_stream)
    bound.close()
    await open_stream.aclose()
    del open_stream
    await anyio.to_thread.run_sync(lambda: wait_until(lambda: resource.generators_closed == 2))
