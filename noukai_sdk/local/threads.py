"""The worker threads that functions which are not async run in."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

DEFAULT_WORKER_THREADS = 40

_limiter: RunVar[CapacityLimiter] = RunVar("noukai_worker_limiter")
_count = DEFAULT_WORKER_THREADS


def set_worker_threads(count: int) -> None:
    """How many functions of one event loop run at once, from now on; others wait."""
    global _count  # noqa: PLW0603 - one setting of the process
    _count = count


def worker_threads() -> int:
    """The setting."""
    return _count


def _worker_limiter() -> CapacityLimiter:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_count)
        _limiter.set(limiter)
    elif limiter.total_tokens != _count:
        limiter.total_tokens = _count
    return limiter


async def in_thread(call: Callable[[], Any]) -> Any:
    """Call it in a worker thread. Cancelled, it is left to itself: nothing can stop a thread."""
    # In a list, because a lambda around a coroutine function gives something to await, which trio
    # takes for a mistake.
    (value,) = await run_sync(lambda: [call()], abandon_on_cancel=True, limiter=_worker_limiter())
    return await value if inspect.isawaitable(value) else value
