"""Guard against calls that would go live during a replay because their thread lost the scope."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ReplayError

if TYPE_CHECKING:
    from ..protocol.call import FlowCall

# Weak, so that a scope whose generator was dropped and never closed does not count for ever.
_replays: WeakSet[Any] = WeakSet()
_lock = threading.Lock()


class LostScopeWarning(UserWarning):
    """A call went live from a thread or task that carries no scope, during a replay."""


def began(scope: Any) -> None:
    """Note that a replay is under way."""
    with _lock:
        _replays.add(scope)


def ended(scope: Any) -> None:
    """Note that the replay is over."""
    with _lock:
        _replays.discard(scope)


def check_lost(call: FlowCall) -> None:
    """Warn of a call without a scope while a replay is under way; refuse it if one is strict."""
    if not _replays:
        return
    with _lock:
        strict = any(scope.strict for scope in _replays)
    import asyncio

    from ..replay.callsite import call_site, warn_at

    context = f"thread {threading.current_thread().name!r}"
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    if task is not None:
        context = f"task {task.get_name()!r} of {context}"
    text = (
        f"a call of flow {call.flow} in {context} carries no scope while a replay is under way, and "
        "would reach the live service: start the thread or task with copy_scope(function), or use "
        "ContextThreadPoolExecutor"
    )
    if strict:
        raise ReplayError(text)
    warn_at(call_site(), text, LostScopeWarning)
