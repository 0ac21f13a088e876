"""Calls that would go live where they should not: outside of a scope while a replay is under way."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ReplayError
from ..replay.callsite import call_site, warn_at

if TYPE_CHECKING:
    from ..protocol.call import FlowCall

# Weak, so that a scope whose generator was dropped and never closed does not count for ever.
_replays: WeakSet[Any] = WeakSet()
_lock = threading.Lock()


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
        f"a call of flow {call.flow} in {_whose_context()} carries no scope while a replay is under "
        "way, and would reach the live service: start the thread or task with copy_scope(function), "
        "or use ContextThreadPoolExecutor"
    )
    if strict:
        raise ReplayError(text)
    warn_at(call_site(), text, LostScopeWarning)


def _whose_context() -> str:
    import asyncio

    thread = f"thread {threading.current_thread().name!r}"
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return thread
    return f"task {task.get_name()!r} of {thread}" if task is not None else thread
