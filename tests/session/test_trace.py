"""``@trace`` on functions, methods, callable objects and partials."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock

import anyio
import pytest

from noukai_sdk import current_session_id, trace, trace_scope, trace_scope_sync
from noukai_sdk.session.scope import Scope

pytestmark = pytest.mark.anyio


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
async def test_traced_call_opens_a_scope_or_joins_the_current_one(function: Any) -> None:
    traced = trace(function)
    first, second = await call(traced), await call(traced)
    assert None not in (first, second)
    assert first != second
    with trace_scope_sync() as scope:
        assert await call(traced) == scope.session_id
    async with trace_scope() as scope:
        assert await call(traced) == scope.session_id
    assert await call(trace()(function))
    assert await call(trace(capture=False)(function)) is None
    with pytest.raises(TypeError, match="unexpected"):
        await call(functools.partial(traced, wrong=1))


@both
def test_traced_function_keeps_its_signature_and_kind(function: Any) -> None:
    traced = trace(function)
    assert inspect.signature(traced) == inspect.signature(function)
    is_async = inspect.iscoroutinefunction(function) or "Async" in repr(function)
    assert inspect.iscoroutinefunction(traced) == is_async
    assert not inspect.isgeneratorfunction(traced)
    assert not inspect.isasyncgenfunction(traced)


async def test_traced_function_keeps_its_name_and_documentation() -> None:
    traced = trace(coroutine)
    assert traced.__name__ == "coroutine"
    assert traced.__doc__ == "What it does."
    assert traced.__module__ == __name__
    assert inspect.unwrap(traced) is coroutine
    assert trace(functools.partial(plain)).__name__ == "plain"
    assert trace(Async()).__name__ == "Async"
    assert await trace(AsyncMock(return_value=3))() == 3

    class Counting:
        def __init__(self) -> None:
            self.state = 1

        def __call__(self) -> int:
            return self.state

    assert not hasattr(trace(Counting()), "state")


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
async def test_traced_method_is_bound_as_it_was(name: str, bound_to: str) -> None:
    item = Methods()
    seen, session = await call(getattr(item, name))
    assert seen is {"object": item, "class": Methods, "nothing": None}[bound_to]
    assert session
    if bound_to != "object":
        assert (await call(getattr(Methods, name)))[0] is seen


def test_traced_bound_method_and_property_work() -> None:
    item = Methods()
    assert trace(item.method)()[0] is item
    assert item.property_below[1]


def test_trace_of_no_function_or_with_unknown_option_is_a_type_error() -> None:
    things: list[Any] = [Methods, property(plain), 3, "text", None.__class__]
    for thing in things:
        with pytest.raises(TypeError, match="cannot decorate"):
            trace(thing)
    with pytest.raises(TypeError, match="replay_sesion_id"):
        trace(replay_sesion_id="x")


async def test_nested_traced_functions_share_one_session() -> None:
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


async def test_concurrent_traced_calls_have_separate_sessions() -> None:
    seen: list[str | None] = []
    async with anyio.create_task_group() as tasks:
        for _ in range(100):
            tasks.start_soon(gather, seen, trace(coroutine))
    assert len(set(seen)) == 100


async def test_traced_call_that_fails_or_is_cancelled_is_not_verified(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    verified: list[Scope] = []
    monkeypatch.setattr(Scope, "verify", lambda scope, **_: verified.append(scope))

    @trace
    async def fails() -> None:
        raise KeyError("x")

    @trace
    async def forever() -> None:
        await anyio.sleep_forever()

    with pytest.raises(KeyError):
        await fails()
    with anyio.move_on_after(0) as cancelled:
        await forever()
    assert cancelled.cancelled_caught
    assert verified == []
    await trace(coroutine)()
    assert len(verified) == 1


def test_traced_coroutine_function_can_be_made_before_a_loop_runs() -> None:
    assert asyncio.run(trace(coroutine)())
