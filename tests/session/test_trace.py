"""``@trace`` on everything that can be called once: functions, methods, objects, partials."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

import noukai_sdk
from noukai_sdk import current_session_id, trace, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope, current_scope

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    assert current_scope() is None


async def call(function: Callable[..., Any], *args: Any) -> Any:
    result = function(*args)
    return await result if inspect.isawaitable(result) else result


def plain(value: int = 1, *, name: str = "n") -> Any:
    """What it does."""
    return current_session_id()


async def coroutine(value: int = 1, *, name: str = "n") -> Any:
    """What it does."""
    await anyio.lowlevel.checkpoint()
    return current_session_id()


class Plain:
    def __call__(self, value: int = 1, *, name: str = "n") -> Any:
        return current_session_id()


class Async:
    async def __call__(self, value: int = 1, *, name: str = "n") -> Any:
        return current_session_id()


def both(test: Any) -> Any:
    functions = {"plain": plain, "coroutine": coroutine, "object": Plain(), "async object": Async()}
    functions["partial"] = functools.partial(plain, 2)
    functions["async partial"] = functools.partial(coroutine, 2)
    functions["partial of an async object"] = functools.partial(Async(), 2)
    ids = list(functions)
    return pytest.mark.parametrize("function", functions.values(), ids=ids)(test)


@both
async def test_each_call_outside_opens_a_session_of_its_own(function: Any) -> None:
    traced = trace(function)
    first, second = await call(traced), await call(traced)
    assert first
    assert second
    assert first != second


@both
async def test_inside_a_scope_it_joins(function: Any) -> None:
    traced = trace(function)
    with trace_scope_sync() as scope:
        assert await call(traced) == scope.session_id
    async with trace_scope() as scope:
        assert await call(traced) == scope.session_id


@both
async def test_with_parentheses_and_options(function: Any) -> None:
    assert await call(trace()(function))
    assert await call(trace(capture=False)(function)) is None


@both
def test_signature_and_kind_stay(function: Any) -> None:
    traced = trace(function)
    assert inspect.signature(traced) == inspect.signature(function)
    is_async = inspect.iscoroutinefunction(function) or "Async" in repr(function)
    assert inspect.iscoroutinefunction(traced) == is_async
    assert not inspect.isgeneratorfunction(traced)
    assert not inspect.isasyncgenfunction(traced)


def test_names_and_documentation_stay() -> None:
    traced = trace(coroutine)
    assert traced.__name__ == "coroutine"
    assert traced.__doc__ == "What it does."
    assert traced.__module__ == __name__
    assert inspect.unwrap(traced) is coroutine
    assert trace(functools.partial(plain)).__name__ == "plain"
    assert trace(Async()).__name__ == "Async"


def test_an_objects_attributes_stay_its_own() -> None:
    class Counting:
        count = 0

        def __init__(self) -> None:
            self.state = 1

        def __call__(self) -> int:
            return self.state

    assert not hasattr(trace(Counting()), "state")


async def test_what_inspect_calls_a_coroutine_function_is_one() -> None:
    assert await trace(AsyncMock(return_value=3))() == 3


class Methods:
    @trace
    def method(self) -> tuple[object, str | None]:
        return self, current_session_id()

    @trace()
    async def async_method(self) -> tuple[object, str | None]:
        return self, current_session_id()

    @classmethod
    @trace
    def class_below(cls) -> tuple[object, str | None]:
        return cls, current_session_id()

    @trace
    @classmethod
    def class_above(cls) -> tuple[object, str | None]:
        return cls, current_session_id()

    @trace
    @classmethod
    async def async_class_above(cls) -> tuple[object, str | None]:
        return cls, current_session_id()

    @staticmethod
    @trace
    def static_below() -> tuple[object, str | None]:
        return None, current_session_id()

    @trace
    @staticmethod
    async def static_above() -> tuple[object, str | None]:
        return None, current_session_id()

    @property
    @trace
    def property_below(self) -> tuple[object, str | None]:
        return self, current_session_id()


@pytest.mark.parametrize(
    ("name", "bound_to"),
    [
        ("method", "object"),
        ("async_method", "object"),
        ("class_below", "class"),
        ("class_above", "class"),
        ("async_class_above", "class"),
        ("static_below", "nothing"),
        ("static_above", "nothing"),
    ],
)
async def test_methods(name: str, bound_to: str) -> None:
    item = Methods()
    seen, session = await call(getattr(item, name))
    assert seen is {"object": item, "class": Methods, "nothing": None}[bound_to]
    assert session
    if bound_to != "object":
        assert (await call(getattr(Methods, name)))[0] is seen


def test_a_bound_method_and_a_property() -> None:
    item = Methods()
    assert trace(item.method)()[0] is item
    assert item.property_below[1]


@pytest.mark.parametrize("thing", [Methods, property(plain), 3, "text", None.__class__])
def test_what_is_no_function_is_refused(thing: Any) -> None:
    with pytest.raises(TypeError, match="cannot decorate"):
        trace(thing)


def test_an_unknown_option_is_refused_where_it_is_written() -> None:
    with pytest.raises(TypeError, match="replay_sesion_id"):
        trace(replay_sesion_id="x")


@both
async def test_errors_pass_through(function: Any) -> None:
    with pytest.raises(TypeError, match="unexpected"):
        await call(functools.partial(trace(function), wrong=1))


async def test_traced_functions_that_call_each_other_share_one_session() -> None:
    inner = trace(coroutine)

    @trace
    async def outer() -> set[str | None]:
        seen = [current_session_id(), trace(plain)(), await inner()]
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(gather, seen, inner)
        seen.append(await anyio.to_thread.run_sync(current_session_id))
        return set(seen)

    assert len(await outer()) == 1


async def gather(seen: list[str | None], function: Callable[..., Any]) -> None:
    seen.append(await function())


async def test_concurrent_calls_have_sessions_of_their_own() -> None:
    seen: list[str | None] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(gather, seen, trace(coroutine))
    assert len(set(seen)) == 100


async def test_cancellation_passes_and_leaves_nothing() -> None:
    @trace
    async def forever() -> None:
        await anyio.sleep_forever()

    with anyio.move_on_after(0) as cancelled:
        await forever()
    assert cancelled.cancelled_caught


async def test_a_failing_body_does_not_settle(monkeypatch: pytest.MonkeyPatch) -> None:
    settled: list[Scope] = []
    monkeypatch.setattr(Scope, "verify", lambda scope: settled.append(scope))

    @trace
    async def fails() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await fails()
    assert settled == []
    await trace(coroutine)()
    assert len(settled) == 1


def test_a_traced_function_can_be_made_before_any_loop_runs() -> None:
    assert asyncio.run(noukai_sdk.trace(coroutine)())
