"""Wrap a function of any kind, so that a scope is there while its body runs.

A wrapper is of the same kind as what it wraps, so ``inspect`` and frameworks see no difference.
The wrappers of generators enter the scope for each step and leave it after the step, never across a
yield, and run each step in the task that asks for it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from .scope import SteppedScope, current_scope

# What is wrapped takes and gives anything: the public decorators carry the types.
Function = Callable[..., Any]


@dataclass(frozen=True)
class ScopeFactory:
    """How a wrapped body gets its scope: a context manager for each call, in both colours."""

    plain: Callable[[], AbstractContextManager[object]]
    asynchronous: Callable[[], AbstractAsyncContextManager[object]]


def wrap(function: Any, opening: ScopeFactory) -> Any:
    """``function`` with its body inside ``opening``.

    Raises:
        TypeError: It is no function, or a class.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(wrap(function.__func__, opening))
    if not callable(function) or inspect.isclass(function):
        raise TypeError(
            f"cannot decorate {function!r}: give a function, a method or a callable object"
            " (for a class decorate its methods, for a property the function below @property)"
        )
    return _named_like(function, _wrapper_of(function)(function, opening))


def _wrapper_of(function: Function) -> Callable[[Function, ScopeFactory], Function]:
    for is_kind, wrapper in (
        (inspect.isasyncgenfunction, _async_generator),
        (inspect.iscoroutinefunction, _coroutine),
        (inspect.isgeneratorfunction, _generator),
    ):
        if is_kind(function) or is_kind(_written(function)):
            return wrapper
    return _plain


def _written(function: Any) -> Any:
    """The ``def`` that a call ends up in: below partials, and an object's ``__call__``."""
    while isinstance(function, functools.partial):
        function = function.func
    return function if inspect.isroutine(function) else type(function).__call__


def _named_like(function: Any, wrapper: Function) -> Function:
    name = getattr(_written(function), "__name__", wrapper.__name__)
    wrapper.__name__ = type(function).__name__ if name == "__call__" else name
    # An object's attributes are its state, not its description: they stay its own.
    updated = ("__dict__",) if inspect.isroutine(function) else ()
    return functools.update_wrapper(wrapper, function, updated=updated)


def _plain(function: Function, opening: ScopeFactory) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with opening.plain():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(function: Function, opening: ScopeFactory) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with opening.asynchronous():
            return await function(*args, **kwargs)

    return wrapper


def _generator(function: Function, opening: ScopeFactory) -> Function:
    def body(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with opening.plain():
            return (yield from function(*args, **kwargs))

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _Steps(body(*args, **kwargs)))

    return wrapper


class _Steps:
    """A generator whose every step runs in its own seat: what ``yield from`` needs, no more."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps
        self._seat = SteppedScope(current_scope())

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        with self._seat:
            return next(self._steps)

    def send(self, value: Any) -> Any:
        with self._seat:
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        with self._seat:
            return self._steps.throw(*error)

    def close(self) -> None:
        with self._seat:
            self._steps.close()


def _async_generator(function: Function, opening: ScopeFactory) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        seat = SteppedScope(current_scope())
        async with _Seated(opening.asynchronous(), seat):
            steps = function(*args, **kwargs)
            step = _first_step(steps)
            while True:
                try:
                    item = await seat.run(step)
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    await seat.run(steps.aclose())
                    raise
                except BaseException as error:  # noqa: BLE001  # the body decides what to do with it
                    step = steps.athrow(error)
                else:
                    step = steps.asend(sent)

    return wrapper


class _Seated:
    """An async context manager whose two ends run in a seat."""

    def __init__(self, opened: AbstractAsyncContextManager[object], seat: SteppedScope) -> None:
        self._opened = opened
        self._seat = seat

    async def __aenter__(self) -> None:
        await self._seat.run(self._opened.__aenter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._seat.run(self._opened.__aexit__(kind, error, trace))


def _first_step(steps: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Begin a generator that only its wrapper will close.

    An event loop that ends closes, all at once, every generator that it saw begin. If it knew the
    inner one too, that one would be closed from two sides at the same time, which Python refuses.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return steps.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)
