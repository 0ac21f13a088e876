"""Do things to their end, whatever cancels the task meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import anyio

T = TypeVar("T")


async def uninterrupted(function: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await a function to its end. A cancellation that comes meanwhile is raised when the task waits next.

    anyio's shield holds off the cancellations of anyio and trio. Asyncio's ``task.cancel()``, which is what
    ``asyncio.wait_for`` and most servers use, ends a wait in spite of it.
    """
    try:
        task: Any = asyncio.current_task()
    except RuntimeError:  # trio
        with anyio.CancelScope(shield=True):
            result = await function()
        return result  # noqa: RET504 - for mypy, the scope may swallow errors
    work = asyncio.ensure_future(function())
    is_cancelled = False
    with anyio.CancelScope(shield=True):
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError:  # noqa: PERF203 - it comes once
                is_cancelled = True
                getattr(task, "uncancel", int)()  # Python 3.10 does not count
    if is_cancelled:
        task.cancel()
    return work.result()
