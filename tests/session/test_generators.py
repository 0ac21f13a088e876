"""``@trace`` on generators and async generators: a scope for each step, and nothing between."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import inspect
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import Any

import anyio
import pytest

from noukai_sdk import current_session_id, trace, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope, active, capture_scope, current_scope

pytestmark = pytest.mark.anyio

Session = str | None
END = object()


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    gc.collect()
    assert current_scope() is None


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    scopes: list[Scope] = []
    monkeypatch.setattr(Scope, "verify", lambda scope: scopes.append(scope))
    return scopes


@trace
def steps(count: int = 3) -> Generator[Session, Any, Session]:
    for _ in range(count):
        yield current_session_id()
    return current_session_id()


@trace
async def async_steps(count: int = 3) -> AsyncGenerator[Session, Any]:
    for _ in range(count):
        await anyio.lowlevel.checkpoint()
        yield current_session_id()


async def drained(generator: Any) -> list[Any]:
    if inspect.isgenerator(generator):
        return list(generator)
    return [item async for item in generator]


class Step:
    """Drive a generator of either kind with one spelling."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._is_async = inspect.isasyncgen(generator)

    async def next(self) -> Any:
        if self._is_async:
            return await anext(self._generator, END)
        return next(self._generator, END)

    async def send(self, value: Any) -> Any:
        if self._is_async:
            return await self._generator.asend(value)
        return self._generator.send(value)

    async def throw(self, error: BaseException) -> Any:
        if self._is_async:
            return await self._generator.athrow(error)
        return self._generator.throw(error)

    async def close(self) -> None:
        if self._is_async:
            await self._generator.aclose()
        else:
            self._generator.close()


both = pytest.mark.parametrize("make", [steps, async_steps], ids=["plain", "async"])


def test_their_kind_and_signature_stay() -> None:
    assert inspect.isgeneratorfunction(steps)
    assert inspect.isasyncgenfunction(async_steps)
    assert not inspect.iscoroutinefunction(async_steps)
    assert str(inspect.signature(steps)).startswith("(count: 'int' = 3)")


@both
async def test_all_steps_share_one_session_and_none_is_there_between(make: Any) -> None:
    step = Step(make())
    first = await step.next()
    assert first
    assert current_scope() is None
    assert await step.next() == first
    assert await step.next() == first
    assert await step.next() is END


@both
async def test_each_generator_has_a_session_of_its_own(make: Any) -> None:
    one, other = Step(make()), Step(make())
    sessions = [await one.next(), await other.next(), await one.next(), await other.next()]
    await one.close()
    await other.close()
    assert sessions[0] == sessions[2] != sessions[1] == sessions[3]


@both
async def test_inside_a_scope_it_joins_and_stays_with_it(make: Any) -> None:
    step = Step(make())
    with trace_scope_sync() as scope:
        assert await step.next() == scope.session_id
    assert await step.next() == scope.session_id
    async with trace_scope():
        assert await step.next() == scope.session_id
    await step.close()


def test_the_return_value_comes_through() -> None:
    def outer() -> Generator[Any, Any, list[Any]]:
        result = yield from steps(1)
        return [result]

    running = outer()
    session = next(running)
    with pytest.raises(StopIteration) as stopped:
        next(running)
    assert stopped.value.value == [session]


def echo_body(log: list[Any]) -> Iterator[Any]:
    received = None
    while True:
        log.append(current_session_id())
        try:
            received = yield received
        except KeyError as error:
            received = error.args[0]
        except ValueError:
            yield "after"
            return
        finally:
            log.append(current_session_id())


def echoes(log: list[Any]) -> Any:
    return trace(echo_body)(log)


def async_echoes(log: list[Any]) -> Any:
    @trace
    async def echo() -> AsyncGenerator[Any, Any]:
        received = None
        while True:
            log.append(current_session_id())
            try:
                received = yield received
            except KeyError as error:
                received = error.args[0]
            except ValueError:
                yield "after"
                return
            finally:
                await anyio.lowlevel.checkpoint()
                log.append(current_session_id())

    return echo()


both_echoes = pytest.mark.parametrize("make", [echoes, async_echoes], ids=["plain", "async"])


@both_echoes
async def test_send_throw_and_close_reach_the_body_inside_the_scope(make: Any) -> None:
    log: list[Any] = []
    step = Step(make(log))
    assert await step.next() is None
    assert await step.send("sent") == "sent"
    assert await step.throw(KeyError("thrown")) == "thrown"
    assert current_scope() is None
    with active(capture_scope()) as _:
        await step.close()
    assert len(set(log)) == 1
    assert None not in log


@both_echoes
async def test_a_body_may_end_after_an_error_was_thrown_in(make: Any) -> None:
    step = Step(make([]))
    await step.next()
    assert await step.throw(ValueError()) == "after"
    assert await step.next() is END


@both_echoes
async def test_an_error_that_the_body_does_not_catch_comes_out(
    make: Any, settled: list[Scope]
) -> None:
    step = Step(make([]))
    await step.next()
    error = RuntimeError("mine")
    with pytest.raises(RuntimeError) as raised:
        await step.throw(error)
    assert raised.value is error
    assert settled == []


@both
async def test_a_whole_run_settles_once(make: Any, settled: list[Scope]) -> None:
    assert len(set(await drained(make()))) == 1
    assert len(settled) == 1


@both
async def test_an_early_end_is_silent_and_does_not_settle(make: Any, settled: list[Scope]) -> None:
    step = Step(make())
    await step.next()
    await step.close()
    await step.close()
    assert settled == []


@both
async def test_one_that_never_began_is_silent(make: Any) -> None:
    await Step(make()).close()


async def test_a_scope_that_the_body_holds_open_over_a_yield_stays_inside() -> None:
    @trace
    async def nested() -> AsyncIterator[Session]:
        yield current_session_id()
        async with trace_scope() as scope:
            yield current_session_id()
            assert current_scope() is scope
        yield current_session_id()

    steps = nested()
    seen = []
    async for session in steps:
        assert current_scope() is None
        seen.append(session)
    assert seen[0] == seen[2] != seen[1]


def test_a_plain_one_holds_a_nested_scope_inside_too() -> None:
    @trace
    def nested() -> Iterator[Session]:
        yield current_session_id()
        with trace_scope_sync() as scope:
            yield current_session_id()
            assert current_scope() is scope
        yield current_session_id()

    seen = []
    for session in nested():
        assert current_scope() is None
        seen.append(session)
    assert seen[0] == seen[2] != seen[1]


async def test_traced_generators_nest() -> None:
    @trace
    async def outer() -> AsyncIterator[Session]:
        yield current_session_id()
        async for session in async_steps(2):
            yield session
        for session in steps(2):
            yield session

    assert len(set(await drained(outer()))) == 1


async def test_task_identity_stays() -> None:
    @trace
    async def task_ids() -> AsyncIterator[int]:
        for _ in range(3):
            yield anyio.get_current_task().id
            await anyio.lowlevel.checkpoint()

    assert {task async for task in task_ids()} == {anyio.get_current_task().id}


async def test_anyio_cancel_scopes_and_task_groups_work_inside() -> None:
    @trace
    async def guarded() -> AsyncIterator[Any]:
        with anyio.move_on_after(0) as cancelled:
            await anyio.sleep_forever()
        yield cancelled.cancelled_caught
        with anyio.fail_after(30):
            yield "in time"
            await anyio.lowlevel.checkpoint()
        seen: list[Session] = []

        async def look() -> None:
            seen.append(current_session_id())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(look)
            tasks.start_soon(look)
            yield "between"
        yield set(seen) == {current_session_id()}

    assert await drained(guarded()) == [True, "in time", "between", True]


@pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="Python 3.11")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_timeout_works_inside() -> None:
    @trace
    async def guarded() -> AsyncIterator[str]:
        try:
            async with asyncio.timeout(30):
                yield "before"
                await asyncio.sleep(0)
            async with asyncio.timeout(0):
                await asyncio.sleep(30)
        except TimeoutError:
            yield "timed out"

    assert await drained(guarded()) == ["before", "timed out"]


async def test_cancelled_in_mid_step() -> None:
    ended: list[Session] = []

    @trace
    async def waits() -> AsyncIterator[Session]:
        try:
            yield current_session_id()
            await anyio.sleep_forever()
        finally:
            ended.append(current_session_id())

    running = waits()
    session = await anext(running)
    with anyio.move_on_after(0):
        await anext(running)
    assert ended == [session]
    assert current_scope() is None


async def test_closed_by_another_task() -> None:
    ended: list[Session] = []

    @trace
    async def holds() -> AsyncGenerator[Session, None]:
        try:
            yield current_session_id()
        finally:
            await anyio.lowlevel.checkpoint()
            ended.append(current_session_id())

    running = holds()
    session = await anext(running)

    async def close() -> None:
        with active(other):
            await running.aclose()
            assert current_scope() is other

    other = capture_scope()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(close)
    assert ended == [session]


async def test_closed_in_another_thread() -> None:
    running = steps()
    next(running)
    thread = threading.Thread(target=running.close)
    thread.start()
    thread.join()
    with pytest.raises(StopIteration):
        next(running)


def test_garbage_is_collected_silently_in_the_right_scope() -> None:
    ended: list[Session] = []

    @trace
    def holds() -> Iterator[Session]:
        try:
            yield current_session_id()
        finally:
            ended.append(current_session_id())

    running = holds()
    session = next(running)
    other = capture_scope()
    with active(other):
        del running
        gc.collect()
        assert current_scope() is other
    assert ended == [session]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async_garbage_is_closed_by_the_loop_in_the_right_scope() -> None:
    ended: list[Session] = []
    done = asyncio.Event()

    @trace
    async def holds() -> AsyncIterator[Session]:
        try:
            yield current_session_id()
        finally:
            await asyncio.sleep(0)
            ended.append(current_session_id())
            done.set()

    running = holds()
    session = await anext(running)
    with active(capture_scope()):
        del running
        gc.collect()
        await asyncio.wait_for(done.wait(), 20)
    assert ended == [session]


def test_a_loop_that_ends_closes_what_is_left_without_a_word() -> None:
    ended: list[Session] = []
    kept: list[Any] = []
    problems: list[Any] = []

    @trace
    async def holds() -> AsyncIterator[Session]:
        try:
            yield current_session_id()
        finally:
            await asyncio.sleep(0)
            ended.append(current_session_id())

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(
            lambda loop, context: problems.append(context)
        )
        for _ in range(20):
            kept.append(holds())
            await anext(kept[-1])

    asyncio.run(main())
    assert problems == []
    assert len(set(ended)) == 20


@both
async def test_context_variables_of_the_body_reach_the_consumer_as_ever(make: Any) -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    @trace
    def sets() -> Iterator[None]:
        variable.set(1)
        yield

    @trace
    async def sets_async() -> AsyncIterator[None]:
        variable.set(1)
        yield

    step = Step(sets() if make is steps else sets_async())
    await step.next()
    await step.close()
    assert variable.get() == 1


async def test_traced_context_managers() -> None:
    @contextmanager
    @trace
    def block() -> Iterator[Session]:
        yield current_session_id()

    @asynccontextmanager
    @trace
    async def async_block() -> AsyncIterator[Session]:
        yield current_session_id()

    with block() as session:
        assert session
        assert current_scope() is None
    with pytest.raises(KeyError):
        async with async_block() as session:
            raise KeyError(session)


async def test_many_at_once_do_not_mix() -> None:
    seen: dict[int, set[Session]] = {}

    async def run(number: int) -> None:
        async with aclosing(async_steps(5)) as running:
            seen[number] = {session async for session in running}

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(run, number)
    sessions = [session for found in seen.values() for session in found]
    assert len(sessions) == len(set(sessions)) == 50
