"""The current scope: the only module that touches the ContextVar."""

from __future__ import annotations

from collections.abc import Awaitable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from .scope import Scope

T = TypeVar("T")

_current: ContextVar[Scope | None] = ContextVar("noukai_scope", default=None)


def current_scope() -> Scope | None:
    """The scope that runs here, None outside of one."""
    return _current.get()


def current_session_id() -> str | None:
    """The session that calls made here belong to, None outside of a scope.

    Example:
        >>> from noukai_sdk import current_session_id
        >>> current_session_id() is None
        True
    """
    scope = _current.get()
    return scope.session_id if scope is not None else None


def enter(scope: Scope | None) -> Scope | None:
    """Make ``scope`` the current one; gives the one before, for :func:`leave`."""
    outer = _current.get()
    _current.set(scope)
    return outer


def leave(scope: Scope | None, outer: Scope | None) -> None:
    """Undo :func:`enter`.

    The value is compared and set instead of reset by token, because a generator may be closed in
    another context than it was started in (garbage collection, ``aclose`` from another task): there
    a token's reset raises, and the value to restore is not this context's.
    """
    if _current.get() is scope:
        _current.set(outer)


class active:  # noqa: N801  # used like a function: with active(scope)
    """Run a block inside ``scope``, as ``with`` or ``async with``. Never raises by itself."""

    __slots__ = ("_outer", "_scope")

    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope
        self._outer: Scope | None = None

    def __enter__(self) -> None:
        self._outer = _current.get()
        _current.set(self._scope)

    def __exit__(self, *_: object) -> None:
        leave(self._scope, self._outer)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def context_with(scope: Scope) -> Context:
    """A copy of this context in which ``scope`` is current. Run code in it by ``context.run``."""
    context = copy_context()
    context.run(_current.set, scope)
    return context


class SteppedScope:
    """The current scope as a generator sees it.

    It is current during each step and gone between two, so whoever asks for the steps never sees
    it. What a step leaves behind (a ``trace_scope`` block that is open across a yield) is kept for
    the next step. ``with seat:`` is for a plain step, ``await seat.run(...)`` for an async one.
    """

    __slots__ = ("_inside", "_outside")

    def __init__(self, scope: Scope | None) -> None:
        self._inside = scope
        self._outside: Scope | None = None

    def __enter__(self) -> None:
        self._outside = _current.get()
        _current.set(self._inside)

    def __exit__(self, *_: object) -> None:
        # Not compared as in leave(): a plain step begins and ends in one context.
        self._inside = _current.get()
        _current.set(self._outside)

    async def run(self, step: Awaitable[T]) -> T:
        """Await one step."""
        outside = enter(self._inside)
        try:
            result = await step
        except GeneratorExit:
            # Dropped in mid-step, so this can be any context.
            leave(self._inside, outside)
            raise
        except BaseException:
            self._inside = enter(outside)
            raise
        self._inside = enter(outside)
        return result
