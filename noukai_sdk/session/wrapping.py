"""Wrap a function of any kind so that its body runs in a scope.

A wrapper is of the same kind as the function, so ``inspect`` and frameworks see no difference. The
wrappers of generators enter the scope for each step and leave it after the step, never across a
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
from typing import Any, Literal

from .scope import SteppedScope, current_scope

# A wrapped function takes and returns anything: the public decorators carry the types.
Function = Callable[..., Any]


@dataclass(frozen=True)
class ScopeFactory:
    """Makes the context manager that a wrapped body runs in, one for each call, sync and async."""

    plain: Callable[[], AbstractContextManager[object]]
    asynchronous: Callable[[], AbstractAsyncContextManager[object]]


Kind = Literal["plain", "coroutine", "generator", "async generator"]


def wrap(function: Any, factory: ScopeFactory) -> Any:
    """Return ``function`` with its body inside the scopes of ``factory``.

    Raises:
        TypeError: ``function`` is a class or not callable.
    """
    return decorate(function, lambda kind, target: _WRAPPERS[kind](target, factory))


def decorate(function: Any, make: Callable[[Kind, Function], Function]) -> Any:
    """Return the wrapper that ``make`` returns for ``function``, as a function of the same kind.

    Args:
        function: A function, class method, static method, partial or callable object.
        make: Takes the kind and the function; returns a wrapper of that kind.

    Raises:
        TypeError: ``function`` is a class or not callable.
    """
    if isinstance(function, (classmethod, staticmethod)):
        return type(function)(decorate(function.__func__, make))
    if not callable(function) or inspect.isclass(function):
        raise TypeError(
            f"cannot decorate {function!r}: it must be a function, a method or a callable object"
            " (for a class decorate its methods, for a property the function below @property)"
        )
    # The def that a call ends up in: below partials, or an object's __call__.
    definition = function
    while isinstance(definition, functools.partial):
        definition = definition.func
    if not inspect.isroutine(definition):
        definition = type(definition).__call__
    kind: Kind = "plain"
    for is_kind, name in _KINDS:
        if is_kind(function) or is_kind(definition):
            kind = name
            break
    wrapper = make(kind, function)
    own_name = getattr(definition, "__name__", wrapper.__name__)
    wrapper.__name__ = type(function).__name__ if own_name == "__call__" else own_name
    # An object's attributes are its state, not its description: they stay its own.
    updated = ("__dict__",) if inspect.isroutine(function) else ()
    return functools.update_wrapper(wrapper, function, updated=updated)


def _plain(function: Function, factory: ScopeFactory) -> Function:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        with factory.plain():
            return function(*args, **kwargs)

    return wrapper


def _coroutine(function: Function, factory: ScopeFactory) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        async with factory.asynchronous():
            return await function(*args, **kwargs)

    return wrapper


def _generator(function: Function, factory: ScopeFactory) -> Function:
    def body(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        with factory.plain():
            return (yield from function(*args, **kwargs))

    def wrapper(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        return (yield from _Steps(body(*args, **kwargs)))

    return wrapper


class _Steps:
    """A generator whose steps run in a stepped scope, as far as ``yield from`` needs one."""

    def __init__(self, steps: Generator[Any, Any, Any]) -> None:
        self._steps = steps
        self._scope = SteppedScope(current_scope())

    def __iter__(self) -> _Steps:
        return self

    def __next__(self) -> Any:
        with self._scope:
            return next(self._steps)

    def send(self, value: Any) -> Any:
        with self._scope:
            return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        with self._scope:
            return self._steps.throw(*error)

    def close(self) -> None:
        with self._scope:
            self._steps.close()


def _async_generator(function: Function, factory: ScopeFactory) -> Function:
    async def wrapper(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        stepped = SteppedScope(current_scope())
        async with _SteppedBlock(factory.asynchronous(), stepped):
            steps = function(*args, **kwargs)
            step = first_step(steps)
            while True:
                try:
                    item = await stepped.run(step)
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    await stepped.run(steps.aclose())
                    raise
                except BaseException as error:  # noqa: BLE001  # the body decides what to do with it
                    step = steps.athrow(error)
                else:
                    step = steps.asend(sent)

    return wrapper


class _SteppedBlock:
    """An async context manager that enters and exits in a stepped scope."""

    def __init__(self, opened: AbstractAsyncContextManager[object], stepped: SteppedScope) -> None:
        self._opened = opened
        self._scope = stepped

    async def __aenter__(self) -> None:
        await self._scope.run(self._opened.__aenter__())

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool | None:
        return await self._scope.run(self._opened.__aexit__(kind, error, trace))


def first_step(steps: AsyncGenerator[Any, Any]) -> Awaitable[Any]:
    """Begin a generator that only its wrapper will close.

    An event loop that ends closes all the generators that it saw begin at once. If it knew the inner
    one too, that one would be closed from two sides at the same time, which Python refuses.
    """
    hooks = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(None, None)
    try:
        return steps.__anext__()
    finally:
        sys.set_asyncgen_hooks(*hooks)


_KINDS: tuple[tuple[Callable[[Any], bool], Kind], ...] = (
    (inspect.isasyncgenfunction, "async generator"),
    (inspect.iscoroutinefunction, "coroutine"),
    (inspect.isgeneratorfunction, "generator"),
)
_WRAPPERS: dict[Kind, Callable[[Function, ScopeFactory], Function]] = {
    "plain": _plain,
    "coroutine": _coroutine,
    "generator": _generator,
    "async generator": _async_generator,
}
