"""Calls that would go live where they should not: outside of a scope while a replay is under way."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ReplayDisabledError, ReplayError

if TYPE_CHECKING:
    from ..protocol.call import FlowCall

# Weak, so that a scope whose generator was dropped and never closed does not count for ever.
_replays: WeakSet[Any] = WeakSet()
_lock = threading.Lock()
_refusals: list[str] = []


class LostScopeWarning(UserWarning):
    """A call went live from a thread or task that carries no scope, during a replay."""


def began(scope: Any) -> None:
    """A replay is under way."""
    with _lock:
        _replays.add(scope)


def ended(scope: Any) -> None:
    """The replay is over."""
    with _lock:
        _replays.discard(scope)


def check_lost(call: FlowCall) -> None:
    """Warn of a call without a scope while a replay is under way; refuse it where one is strict."""
    if not _replays:
        return
    with _lock:
        strict = any(scope.strict for scope in _replays)
    text = (
        f"a call of flow {call.flow} in thread {threading.current_thread().name!r} carries no scope "
        "while a replay is under way, and would reach the live service: start the thread with "
        "copy_scope(function), or use ContextThreadPoolExecutor"
    )
    if strict:
        raise ReplayError(text)
    warnings.warn(text, LostScopeWarning, stacklevel=6)


@contextmanager
def live_calls_refused(reason: str) -> Iterator[None]:
    """Refuse every live call in this process. Clients with an ``http_client`` of their own may go on.

    Args:
        reason: What the error says, and what to do about it.
    """
    _refusals.append(reason)
    try:
        yield
    finally:
        _refusals.remove(reason)


def check_allowed(call: FlowCall) -> None:
    """Raise ReplayDisabledError where live calls are refused."""
    if _refusals and not call.service.custom_http:
        raise ReplayDisabledError(f"a live call of flow {call.flow} was refused: {_refusals[-1]}")
