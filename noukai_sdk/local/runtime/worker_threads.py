"""Call functions of users: async ones on the loop, all others in worker threads."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from anyio import get_cancelled_exc_class
from anyio.lowlevel import RunVar

from .error_text import error_text
from .thread_limits import DEFAULT_WORKER_THREADS, ThreadCounts, WorkerThreads

__all__ = [
    "DEFAULT_WORKER_THREADS",
    "call_function",
    "is_cancelled",
    "limited_worker_threads",
    "set_worker_threads",
    "worker_threads",
]

# By depth: a function that waits for a run holds its thread meanwhile, so the functions of that run get
# threads of their own. Each depth waits only for deeper ones, and none for itself.
_threads: RunVar[dict[int, WorkerThreads]] = RunVar("noukai_worker_threads")
_depth: ContextVar[int] = ContextVar("noukai_worker_depth", default=0)
_counts = ThreadCounts()


def set_worker_threads(count: int) -> None:
    """Set how many functions of one event loop run at once, from now on; the others wait."""
    global _counts  # noqa: PLW0603 - one setting for the process
    _counts = ThreadCounts(count)


@contextmanager
def limited_worker_threads(count: int, of_one_function: int) -> Iterator[None]:
    """Set the limits in this block, for a service whose functions must not stop each other."""
    global _counts  # noqa: PLW0603 - one setting for the process
    before, _counts = _counts, ThreadCounts(count, of_one_function)
    try:
        yield
    finally:
        _counts = before


def worker_threads() -> int:
    """Return the number set by :func:`set_worker_threads`."""
    return _counts.awaited


async def call_function(
    function: Callable[[], Any], *, is_async: bool, name: Hashable = None
) -> Any:
    """Call a function and return its result, awaited if it is an awaitable.

    On cancellation a worker thread is abandoned, because a thread cannot be stopped. A function that
    waits for another run, as by ``Executor.execute``, cannot block it: the functions of that run have
    threads of their own.

    Args:
        function: Takes no arguments.
        is_async: Call it on the event loop and not in a worker thread.
        name: The same for calls of the same function.

    Raises:
        Exception: Whatever the function raises. An error that is not an ``Exception``, such as
            SystemExit, becomes a RuntimeError: it would end the event loop, with all other tasks on it.
    """
    if is_async:
        return await _await_result(function())

    depth = _depth.get()

    def call() -> list[Any]:
        # The thread has a copy of the context, which reaches the runs that the function starts.
        _depth.set(depth + 1)
        try:
            # In a list, because trio rejects a thread's awaitable result as a likely mistake.
            return [function()]
        except Exception:
            raise
        except BaseException as error:
            raise _as_runtime_error(error) from error

    by_depth = _threads.get(None)
    if by_depth is None:
        by_depth = {}
        _threads.set(by_depth)
    threads = by_depth.get(depth)
    if threads is None or threads.counts != _counts:
        threads = by_depth[depth] = WorkerThreads(_counts)
    (result,) = await threads.call(call, name)
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
