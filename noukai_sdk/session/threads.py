"""Carry the scope into one function or one pool, or leave it.

``asyncio.to_thread``, anyio's threads and the sync endpoints of FastAPI carry the scope by themselves.
``threading.Thread``, ``ThreadPoolExecutor`` and ``loop.run_in_executor`` do so under an adapter (see
``carry_threads``).
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from typing import ParamSpec, TypeVar, cast

from .scope import DETACHED, active, current_scope
from .wrapping import ScopeFactory, wrap

P = ParamSpec("P")
T = TypeVar("T")


def copy_scope(function: Callable[P, T]) -> Callable[P, T]:
    """Bind ``function`` to the scope that is current now, whichever thread or task runs it.

    Args:
        function: A function of any kind: plain, async, or a generator. It may be called any number of
            times, from several threads at once.

    Returns:
        A function of the same kind and signature.

    Raises:
        TypeError: ``function`` is a class or not callable.

    Example:
        >>> from threading import Thread
        >>> from noukai_sdk import copy_scope, current_session_id, trace_scope_sync
        >>> with trace_scope_sync() as scope:
        ...     seen = []
        ...     thread = Thread(target=copy_scope(lambda: seen.append(current_session_id())))
        ...     thread.start(), thread.join()
        (None, None)
        >>> seen == [scope.session_id]
        True
    """
    scope = current_scope()
    factory = ScopeFactory(lambda: active(scope), lambda: active(scope))
    return cast("Callable[P, T]", wrap(function, factory))


class ContextThreadPoolExecutor(ThreadPoolExecutor):
    """A ``ThreadPoolExecutor`` whose tasks run in a copy of the submitter's context.

    This carries the scope, and every other context variable (request ids, tracing spans). Takes the
    arguments of ``ThreadPoolExecutor``; works with ``map`` and ``loop.run_in_executor``.

    Example:
        >>> from noukai_sdk import ContextThreadPoolExecutor, current_session_id, trace_scope_sync
        >>> with trace_scope_sync() as scope, ContextThreadPoolExecutor(max_workers=2) as pool:
        ...     pool.submit(current_session_id).result() == scope.session_id
        True
    """

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Submit ``fn`` to run in a copy of the current context."""
        return super().submit(partial(copy_context().run, fn, *args, **kwargs))


class detached(active):  # noqa: N801  # used like a function: with detached()
    """Run code that belongs to no request: it has no scope, in a capture and in a replay.

    Start what outlives a request in it, such as a queue worker or a scheduler. Threads and tasks that
    start inside inherit it. Use it as ``with`` or ``async with``, or as a decorator.

    Example:
        >>> from noukai_sdk import current_session_id, detached, trace_scope_sync
        >>> with trace_scope_sync(), detached():
        ...     current_session_id() is None
        True
        >>> @detached()
        ... def work() -> str | None:
        ...     return current_session_id()
        >>> with trace_scope_sync():
        ...     work() is None
        True
    """

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(DETACHED)

    def __call__(self, function: Callable[P, T]) -> Callable[P, T]:
        """Return ``function``, of any kind, with its body detached."""
        return cast("Callable[P, T]", wrap(function, ScopeFactory(detached, detached)))
