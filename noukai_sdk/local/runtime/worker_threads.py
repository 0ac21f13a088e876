"""Calling the functions of users: async ones on the loop, the others in worker threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
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


async def called(call: Callable[[], Any], *, is_async: bool) -> Any:
    """Call it, on the loop where it is async, else in a worker thread.

    Cancelled, a thread is left to itself: nothing can stop it.

    Raises:
        Exception: What it raises. RuntimeError for what would end more than the function, such as
            SystemExit: a loop that this leaves is gone, with all that others do in it.
    """
    if is_async:
        return await _contained(call())
    # In a list, because a lambda around a coroutine function gives something to await, which trio
    # takes for a mistake.
    (value,) = await run_sync(
        lambda: [_contained_call(call)], abandon_on_cancel=True, limiter=_worker_limiter()
    )
    return await _contained(value) if inspect.isawaitable(value) else value


def _contained_call(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception:
        raise
    except BaseException as error:
        raise _ended_by(error) from error


async def _contained(value: Awaitable[Any]) -> Any:
    try:
        return await value
    except SystemExit as error:
        raise _ended_by(error) from error
    except KeyboardInterrupt as error:
        if threading.current_thread() is threading.main_thread():
            raise  # it is meant for the program
        raise _ended_by(error) from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise _ended_by(error) from error


def is_cancelled() -> bool:
    """Whether it is this task that is cancelled, and not one that the function waited for."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # trio, which has another error for that
    cancelling = getattr(task, "cancelling", None)
    return cancelling is None or cancelling() > 0  # Python 3.10 does not tell


def _ended_by(error: BaseException) -> RuntimeError:
    name = type(error).__name__
    return RuntimeError(
        f"the function raised {name}: {error}" if str(error) else f"the function raised {name}"
    )
