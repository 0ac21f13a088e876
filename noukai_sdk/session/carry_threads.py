"""Carry the scope into every thread and pool, by patching ``threading`` and ``concurrent.futures``.

Sentry and OpenTelemetry patch the same methods for their own contexts. All of them may be installed and
removed in any order: each calls the method that it found, and a patch of ours that others have wrapped
stays in place without effect.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from multiprocessing.pool import ThreadPool
from typing import Any

from .scope import inherited_scope, run_in_scope

_MARK = "_noukai_carries_scope"  # functools.wraps and wrapt show it on wrappers of our function too
# The threads of a pool outlive the request that happens to start them. Each task brings its own scope.
_POOLS = ("concurrent.futures.", "multiprocessing.pool", "anyio.")

_lock = threading.Lock()
_enabled = False
_turned_off = False
_patches: list[tuple[type, str, Any, Any]] = []  # class, method, what it was (or None), ours


def carry_threads(enabled: bool = True) -> None:
    """Carry the current scope into every ``Thread``, ``Timer``, ``ThreadPoolExecutor`` and ``ThreadPool``.

    ``loop.run_in_executor`` is included. The adapters call this function unless they are made with
    ``carry_threads=False``; call it yourself to use ``@trace`` without an adapter. Only the scope is
    carried, no other context variable.

    Args:
        enabled: False turns it off for the whole process, and adapters do not turn it on again.

    Example:
        >>> from threading import Thread
        >>> from noukai_sdk import carry_threads, current_session_id, trace_scope_sync
        >>> carry_threads()
        >>> with trace_scope_sync() as scope:
        ...     thread = Thread(target=lambda: print(current_session_id() == scope.session_id))
        ...     thread.start(), thread.join()
        True
        (None, None)
        >>> carry_threads(False)
    """
    global _enabled, _turned_off
    with _lock:
        _enabled, _turned_off = enabled, not enabled
        if enabled:
            _patch(threading.Thread, "start", _carrying_start)
            # OpenTelemetry adds a method of its own to Timer.
            _patch(threading.Timer, "start", _carrying_start)
            _patch(ThreadPoolExecutor, "submit", _carrying_submit)
            for name in ("apply_async", "_map_async", "imap", "imap_unordered"):
                _patch(ThreadPool, name, _carrying_task)
        else:
            _unpatch()


def carry_threads_by_default() -> None:
    """Call ``carry_threads()``, unless the program has turned it off."""
    if not _turned_off:
        carry_threads()


def _patch(owner: type, name: str, make: Callable[[Any], Any]) -> None:
    found = getattr(owner, name)
    if hasattr(found, _MARK):
        return
    ours = make(found)
    setattr(ours, _MARK, True)
    _patches.append((owner, name, owner.__dict__.get(name), ours))
    setattr(owner, name, ours)


def _unpatch() -> None:
    for patch in reversed(_patches[:]):
        owner, name, before, ours = patch
        if owner.__dict__.get(name) is not ours:
            continue  # wrapped by somebody else since: without effect while _enabled is False
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
        _patches.remove(patch)


def _carrying_start(start: Callable[..., None]) -> Callable[..., None]:
    @wraps(start)
    def carrying_start(thread: threading.Thread, /, *args: Any, **kwargs: Any) -> None:
        scope = inherited_scope()
        if scope is None or not _enabled or _is_of_pool(thread):
            start(thread, *args, **kwargs)
            return
        # On the object, because subclasses have methods of their own.
        run, attributes = thread.run, thread.__dict__
        before = attributes.get("run")

        def restore() -> None:
            if attributes.get("run") is carried:
                del attributes["run"]
                if before is not None:
                    attributes["run"] = before

        def carried(*_: Any) -> None:  # Sentry passes the thread
            restore()
            if work is None:
                run_in_scope(scope, run)
            else:
                work.run(run_in_scope, scope, run)

        attributes["run"] = carried
        work = None if scope.activity is None else scope.activity.hand_over()
        try:
            start(thread, *args, **kwargs)
        except BaseException:
            restore()
            if work is not None:
                work.end()
            raise

    return carrying_start


def _is_of_pool(thread: threading.Thread) -> bool:
    target = getattr(thread, "_target", None)
    modules = (type(thread).__module__, getattr(target, "__module__", None) or "")
    return any(module.startswith(_POOLS) for module in modules)


def _carrying_submit(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    @wraps(submit)
    def carrying_submit(
        pool: ThreadPoolExecutor, fn: Callable[..., Any], /, *args: Any, **kwargs: Any
    ) -> Future[Any]:
        scope = inherited_scope()
        if scope is None or not _enabled or _is_of_interpreters(pool):
            return submit(pool, fn, *args, **kwargs)
        if scope.activity is None:
            return submit(pool, run_in_scope, scope, fn, *args, **kwargs)
        work = scope.activity.hand_over(pool)
        try:
            future = submit(pool, work.run, run_in_scope, scope, fn, *args, **kwargs)
        except BaseException:
            work.end()
            raise
        work.becomes(future)
        return future

    return carrying_submit


def _carrying_task(method: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(method)
    def carrying_task(pool: ThreadPool, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        scope = inherited_scope()
        if scope is not None and _enabled:
            func = partial(run_in_scope, scope, func)
        return method(pool, func, *args, **kwargs)

    return carrying_task


def _is_of_interpreters(pool: ThreadPoolExecutor) -> bool:
    """Return whether the pool pickles its tasks, as the one of Python 3.14 for subinterpreters does."""
    module = sys.modules.get("concurrent.futures.interpreter")
    return module is not None and isinstance(pool, module.InterpreterPoolExecutor)
