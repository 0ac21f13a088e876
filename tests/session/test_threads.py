"""The scope in threads: where it is carried automatically, and the helpers for the rest."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk import (
    ContextThreadPoolExecutor,
    copy_scope,
    current_session_id,
    trace,
    trace_scope_sync,
)
from noukai_sdk.session.scope import current_scope

pytestmark = pytest.mark.anyio


def in_thread(function: Callable[[], Any]) -> Any:
    seen: list[Any] = []
    thread = threading.Thread(target=lambda: seen.append(function()))
    thread.start()
    thread.join()
    return seen[0]


def test_copy_scope_carries_the_scope_into_any_thread() -> None:
    outside = copy_scope(current_session_id)
    with trace_scope_sync() as scope:
        assert in_thread(current_session_id) is None
        assert outside() is None
        copied = copy_scope(current_session_id)
    with trace_scope_sync() as other:
        assert copied() == in_thread(copied) == scope.session_id
        assert current_session_id() == other.session_id

    together = threading.Barrier(8)

    def wait(_: int) -> str | None:
        together.wait(20)
        return current_session_id()

    with trace_scope_sync() as scope, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(copy_scope(wait), range(8))) == {scope.session_id}
        assert set(pool.map(wait, range(8))) == {None}


async def test_copy_scope_of_async_functions_and_generators_keeps_their_kind() -> None:
    async def coroutine() -> str | None:
        await anyio.lowlevel.checkpoint()
        return current_session_id()

    def steps() -> Iterator[str | None]:
        yield current_session_id()

    async def async_steps() -> AsyncIterator[str | None]:
        yield current_session_id()

    with trace_scope_sync() as scope:
        copied = copy_scope(coroutine), copy_scope(steps), copy_scope(async_steps)
    assert inspect.iscoroutinefunction(copied[0])
    assert await copied[0]() == scope.session_id
    assert list(copied[1]()) == [scope.session_id]
    assert [session async for session in copied[2]()] == [scope.session_id]
    assert current_scope() is None


def test_copy_scope_passes_arguments_results_and_errors() -> None:
    def divide(a: int, *, by: int) -> float:
        return a / by

    copied = copy_scope(divide)
    assert copied(3, by=2) == 1.5
    assert inspect.signature(copied) == inspect.signature(divide)
    with pytest.raises(ZeroDivisionError):
        copied(3, by=0)
    with pytest.raises(TypeError, match="cannot decorate"):
        copy_scope(3)  # type: ignore[arg-type]  # on purpose


def test_executor_carries_the_scope_of_each_submit() -> None:
    with ContextThreadPoolExecutor(max_workers=2) as pool:
        for _ in range(3):
            with trace_scope_sync() as scope:
                submitted = pool.submit(current_session_id)
                mapped = pool.map(lambda _: current_session_id(), range(4))
            assert submitted.result() == scope.session_id
            assert set(mapped) == {scope.session_id}
        assert pool.submit(current_session_id).result() is None


def test_executor_carries_other_context_variables_and_keeps_threads_clean() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    def change() -> int:
        before = variable.get()
        variable.set(before + 10)
        return before

    variable.set(1)
    with ContextThreadPoolExecutor(1) as pool:
        assert [pool.submit(change).result() for _ in range(2)] == [1, 1]
        assert pool.submit(pow, 2, exp=3).result() == 8
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
    assert variable.get() == 1


async def test_asyncio_threads_and_tasks_carry_the_scope() -> None:
    loop = asyncio.get_running_loop()

    async def look() -> str | None:
        return current_session_id()

    with trace_scope_sync() as scope, ContextThreadPoolExecutor() as pool:
        assert await asyncio.to_thread(current_session_id) == scope.session_id
        assert await asyncio.create_task(look()) == scope.session_id
        assert await asyncio.gather(look(), look()) == [scope.session_id] * 2
        assert await loop.run_in_executor(pool, current_session_id) == scope.session_id
        # This is what the helpers are for:
        assert await loop.run_in_executor(None, current_session_id) is None
        copied = copy_scope(current_session_id)
        assert await loop.run_in_executor(None, copied) == scope.session_id


async def test_anyio_threads_and_tasks_carry_the_scope() -> None:
    seen: list[str | None] = []

    async def look() -> None:
        seen.append(current_session_id())

    @trace
    async def run() -> str | None:
        seen.append(await anyio.to_thread.run_sync(current_session_id))
        seen.append(await anyio.to_thread.run_sync(anyio.from_thread.run, look) or seen[-1])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
        return current_session_id()

    session = await run()
    assert session
    assert set(seen) == {session}
