"""The decorator ``@trace``: all flow calls of a function belong to one session."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from typing import Any, ParamSpec, Protocol, TypeVar, overload

from .opening import trace_scope, trace_scope_sync
from .options import check_options
from .scope import joinable_scope
from .wrapping import ScopeFactory, wrap

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class TraceDecorator(Protocol):
    """The decorator that ``trace(...)`` with options returns."""

    @overload
    def __call__(self, function: classmethod[C, P, R], /) -> classmethod[C, P, R]: ...
    @overload
    def __call__(self, function: staticmethod[P, R], /) -> staticmethod[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Callable[P, R]: ...


@overload
def trace(function: classmethod[C, P, R], /) -> classmethod[C, P, R]: ...
@overload
def trace(function: staticmethod[P, R], /) -> staticmethod[P, R]: ...
@overload
def trace(function: Callable[P, R], /) -> Callable[P, R]: ...
@overload
def trace(**options: Any) -> TraceDecorator: ...
def trace(function: Any = None, /, **options: Any) -> Any:
    """Group the flow calls that a function makes under one session.

    Inside an active scope (a request under an adapter, another traced function, a ``trace_scope``
    block) the function joins that scope. Otherwise each call of it opens a scope of its own, for
    capture unless ``options`` say otherwise.

    Works on plain functions, coroutine functions, generators, async generators, methods, class and
    static methods, partials and callable objects, with or without parentheses. The decorated
    function keeps its signature and its kind for ``inspect``. In a generator the scope is current
    while a step runs and not between two steps; a consumer may stop early. A plain function's scope
    ends when it returns: if it returns a coroutine or a generator, decorate the function that made
    that object instead.

    Args:
        function: The function to decorate.
        options: The options of :func:`trace_scope`, for the scope that a call opens.

    Returns:
        A function of the same kind and signature.

    Raises:
        TypeError: The decorated object is not a function (but a class or a property, for example),
            or an option is unknown.
        ReplayError: At call time, if ``options`` ask for a replay and it fails.

    Example:
        >>> import noukai_sdk
        >>> @noukai_sdk.trace
        ... def session() -> str | None:
        ...     return noukai_sdk.current_session_id()
        >>> session() == session()
        False
    """
    # An unknown option is an error here, not at the first call.
    check_options(options)

    def plain() -> AbstractContextManager[object]:
        return trace_scope_sync(**options) if joinable_scope() is None else nullcontext()

    def asynchronous() -> AbstractAsyncContextManager[object]:
        return trace_scope(**options) if joinable_scope() is None else nullcontext()

    factory = ScopeFactory(plain, asynchronous)
    if function is None:
        return lambda function: wrap(function, factory)
    return wrap(function, factory)
