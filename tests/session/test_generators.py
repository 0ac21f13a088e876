"""``@trace`` on generators and async generators: a scope in each step, and none between steps."""

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


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: Any) -> Any:
    """How tasks carry context and close generators differs between the two."""
    return request.param


@pytest.fixture
def verified(monkeypatch: pytest.MonkeyPatch) -> list[Scope]:
    """The scopes whose bodies ended well."""
    scopes: list[Scope] = []
    monkeypatch.setattr(Scope, "verify", lambda scope, **_: scopes.append(scope))
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


async def collect(generator: Any) -> list[Any]:
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


def test_generator_keeps_kind_signature_and_return_value() -> None:
    assert inspect.isgeneratorfunction(steps)
    assert inspect.isasyncgenfunction(async_steps)
    assert not inspect.iscoroutinefunction(async_steps)
    assert str(inspect.signature(steps)).startswith("(count: 'int' = 3)")

    def outer() -> Generator[Any, Any, list[Any]]:
        result = yield from steps(1)
        return [result]

    running = outer()
    session = next(running)
    with pytest.raises(StopIteration) as stopped:
        next(running)
    assert stopped.value.value == [session]


@both
async def test_generator_has_one_session_in_all_steps_and_none_between(make: Any) -> None:
    one, other = Step(make()), Step(make())
    sessions = []
    for _ in range(3):
        for step in (one, other):
            sessions.append(await step.next())
            assert current_scope() is None
    assert await one.next() is await other.next() is END
    assert None not in sessions
    assert len(set(sessions[::2])) == len(set(sessions[1::2])) == 1
    assert len(set(sessions)) == 2


@both
async def test_generator_made_inside_a_scope_joins_it_for_good(make: Any) -> None:
    step = Step(make())
    with trace_scope_sync() as scope:
        assert await step.next() == scope.session_id
    assert await step.next() == scope.session_id
    async with trace_scope():
        assert await step.next() == scope.session_id
    await step.close()


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
async def test_send_throw_and_close_reach_the_body_in_its_scope(make: Any) -> None:
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
async def test_thrown_error_is_caught_by_the_body_or_comes_out(
    make: Any, verified: list[Scope]
) -> None:
    step = Step(make([]))
    await step.next()
    error = RuntimeError("mine")
    with pytest.raises(RuntimeError) as raised:
        await step.throw(error)
    assert raised.value is error
    assert verified == []
    step = Step(make([]))
    await step.next()
    assert await step.throw(ValueError()) == "after"
    assert await step.next() is END


@both
async def test_generator_verifies_its_scope_once_at_its_end_only(
    make: Any, verified: list[Scope]
) -> None:
    assert len(set(await collect(make()))) == 1
    assert len(verified) == 1
    step = Step(make())
    await step.next()
    await step.close()
    await step.close()
    await Step(make()).close()  # never began
    assert len(verified) == 1


async def test_scope_held_open_over_a_yield_stays_inside_the_generator() -> None:
    @trace
    async def async_nested() -> AsyncIterator[Session]:
        yield current_session_id()
        async with trace_scope() as scope:
            yield current_session_id()
            assert current_scope() is scope
        yield current_session_id()

    @trace
    def nested() -> Iterator[Session]:
        yield current_session_id()
        with trace_scope_sync() as scope:
            yield current_session_id()
            assert current_scope() is scope
        yield current_session_id()

    for make in (nested, async_nested):
        step, seen = Step(make()), []
        for _ in range(3):
            seen.append(await step.next())
            assert current_scope() is None
        assert await step.next() is END
        assert seen[0] == seen[2] != seen[1]


async def test_nested_generators_share_one_session() -> None:
    @trace
    async def outer() -> AsyncIterator[Session]:
        yield current_session_id()
        async for session in async_steps(2):
            yield session
        for session in steps(2):
            yield session

    assert len(set(await collect(outer()))) == 1


async def test_async_generator_steps_run_in_the_task_of_the_consumer() -> None:
    @trace
    async def task_ids() -> AsyncIterator[int]:
        for _ in range(3):
            yield anyio.get_current_task().id
            await anyio.lowlevel.checkpoint()

    assert {task async for task in task_ids()} == {anyio.get_current_task().id}


async def test_cancel_scopes_and_task_groups_work_in_an_async_generator() -> None:
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

    assert await collect(guarded()) == [True, "in time", "between", True]


@pytest.mark.skipif(not hasattr(asyncio, "timeout"), reason="Python 3.11")
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_asyncio_timeout_works_in_an_async_generator() -> None:
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

    assert await collect(guarded()) == ["before", "timed out"]


async def test_async_generator_cancelled_in_a_step_ends_in_its_scope() -> None:
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


async def test_async_generator_closed_by_another_task_ends_in_its_scope() -> None:
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


def test_generator_closed_in_another_thread_or_collected_ends_in_its_scope() -> None:
    ended: list[Session] = []

    @trace
    def holds() -> Iterator[Session]:
        try:
            yield current_session_id()
        finally:
            ended.append(current_session_id())

    running: Any = holds()
    session = next(running)
    thread = threading.Thread(target=running.close)
    thread.start()
    thread.join()
    with pytest.raises(StopIteration):
        next(running)
    assert ended == [session]

    running = holds()
    session = next(running)
    other = capture_scope()
    with active(other):
        del running
        gc.collect()
        assert current_scope() is other
    assert ended[1:] == [session]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_async_generator_collected_is_closed_by_the_loop_in_its_scope() -> None:
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


def test_async_generators_left_at_the_end_of_a_loop_are_closed_silently() -> None:
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
async def test_context_variables_of_the_body_reach_the_consumer(make: Any) -> None:
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


async def test_traced_context_managers_hold_no_scope_in_their_block() -> None:
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


async def test_concurrent_async_generators_have_separate_sessions() -> None:
    seen: dict[int, set[Session]] = {}

    async def run(number: int) -> None:
        async with aclosing(async_steps(5)) as running:
            seen[number] = {session async for session in running}

    async with anyio.create_task_group() as tasks:
        for number in range(50):
            tasks.start_soon(run, number)
    sessions = [session for each in seen.values() for session in each]
    assert len(sessions) == len(set(sessions)) == 50
