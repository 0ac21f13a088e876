"""The current scope: the only module that touches the ContextVar."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .scope import Scope

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


@contextmanager
def active(scope: Scope | None) -> Iterator[None]:
    """Run a block inside ``scope``. Never raises by itself."""
    outer = enter(scope)
    try:
        yield
    finally:
        leave(scope, outer)
