"""Call functions of users: async ones on the loop, all others in worker threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import CapacityLimiter, get_cancelled_exc_class
from anyio.lowlevel import RunVar
from anyio.to_thread import run_sync

from .error_text import error_text

DEFAULT_WORKER_THREADS = 40

_limiter: RunVar[CapacityLimiter] = RunVar("noukai_worker_limiter")
_count = DEFAULT_WORKER_THREADS


def set_worker_threads(count: int) -> None:
    """Set how many functions of one event loop run at once, from now on; the others wait."""
    global _count  # noqa: PLW0603 - one setting for the process
    _count = count


def worker_threads() -> int:
    """Return the number set by :func:`set_worker_threads`."""
    return _count


async def call_function(function: Callable[[], Any], *, is_async: bool) -> Any:
    """Call a function and return its result, awaited if it is an awaitable.

    On cancellation a worker thread is abandoned, because a thread cannot be stopped.

    Args:
        function: Takes no arguments.
        is_async: Call it on the event loop and not in a worker thread.

    Raises:
        Exception: Whatever the function raises. An error that is not an ``Exception``, such as
            SystemExit, becomes a RuntimeError: it would end the event loop, with all other tasks on it.
    """
    if is_async:
        return await _await_result(function())

    def call() -> list[Any]:
        try:
            # In a list, because trio rejects a thread's awaitable result as a likely mistake.
            return [function()]
        except Exception:
            raise
        except BaseException as error:
            raise _as_runtime_error(error) from error

    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_count)
        _limiter.set(limiter)
    elif limiter.total_tokens != _count:
        limiter.total_tokens = _count
    (result,) = await run_sync(call, abandon_on_cancel=True, limiter=limiter)
    return await _await_result(result) if inspect.isawaitable(result) else result


async def _await_result(result: Awaitable[Any]) -> Any:
    try:
        return await result
    except SystemExit as error:
        raise _as_runtime_error(error) from error
    except KeyboardInterrupt as error:
        if threading.current_thread() is threading.main_thread():
            raise  # Ctrl-C is meant for the program
        raise _as_runtime_error(error) from error
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        raise _as_runtime_error(error) from error
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, get_cancelled_exc_class()):
            raise
        raise _as_runtime_error(error) from error


def is_cancelled() -> bool:
    """Return whether the running task itself is cancelled, not only one that it awaited."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return False  # trio cancels with another exception
    cancelling = getattr(task, "cancelling", None)
    return cancelling is None or cancelling() > 0  # Python 3.10 has no such count


def _as_runtime_error(error: BaseException) -> RuntimeError:
    return RuntimeError(f"the function raised {error_text(error)}")
