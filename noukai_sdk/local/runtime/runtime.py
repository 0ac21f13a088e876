"""Set up, inspect and shut down what the process runs flows on. All of it is optional.

Clients and executors start what they need by themselves; no function here has to be called first.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from typing import Any

from ..._version import __version__
from . import worker_threads as workers
from .hidden_keys import shown
from .loop_thread import loop_thread

_LEVELS = {
    "trace": logging.DEBUG,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}
_PACKAGE = "noukai_sdk"
_TRACE = "noukai_sdk.local.trace"
_HEALTHY_SECONDS = 5.0

_started_at: float | None = None
_handler: logging.Handler | None = None


def init(
    log_level: str | None = None, enable_tracing: bool | None = None, debug: bool | None = None
) -> None:
    """Set up logging for this package. May be called again to change the settings.

    Args:
        log_level: ``"trace"``, ``"debug"``, ``"info"``, ``"warn"`` or ``"error"``; by default
            ``"warn"``. Records go to stderr if the application has not set up logging.
        enable_tracing: Log every step of every run, with its duration.
        debug: Turn on both: level ``"debug"``, and tracing.

    Raises:
        ValueError: The level is unknown.

    Example:
        >>> init(log_level="info")
        >>> get_system_info()["runtime_initialized"]
        True
        >>> shutdown()
    """
    global _started_at, _handler  # noqa: PLW0603 - the process has one runtime
    level = "debug" if debug else log_level or "warn"
    if level not in _LEVELS:
        raise ValueError(f"log_level must be one of {', '.join(_LEVELS)}, not {shown(log_level)}")
    package = logging.getLogger(_PACKAGE)
    package.setLevel(_LEVELS[level])
    tracing = logging.DEBUG if debug or enable_tracing else logging.NOTSET
    logging.getLogger(_TRACE).setLevel(tracing)
    if _handler is None and not package.hasHandlers():
        _handler = logging.StreamHandler()
        package.addHandler(_handler)
    _started_at = _started_at or time.monotonic()


def version() -> str:
    """Return this package's version, such as ``"0.2.0"``."""
    return __version__


def get_system_info() -> dict[str, Any]:
    """Describe the platform and the runtime.

    Returns:
        ``version``, ``python_version``, ``platform``, ``cpu_count``, ``runtime_initialized``,
        ``runtime_uptime_seconds`` (0 before ``init``), ``runtime_worker_threads`` and
        ``runtime_max_blocking_threads`` (None for no limit), ``loop_thread_running``.
    """
    return {
        "version": version(),
        "python_version": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "runtime_initialized": _started_at is not None,
        "runtime_uptime_seconds": time.monotonic() - _started_at if _started_at else 0.0,
        "runtime_worker_threads": workers.worker_threads(),
        "runtime_max_blocking_threads": loop_thread.max_calls,
        "loop_thread_running": loop_thread.is_running,
    }


def health_check() -> dict[str, Any]:
    """Check whether flows can run. Healthy before ``init`` too, because it is optional.

    Returns:
        ``overall_healthy``; ``loop_thread_responds`` (None if it is not running);
        ``runtime_initialized``; ``timestamp``, in seconds since 1970.
    """
    responds = loop_thread.responds(within=_HEALTHY_SECONDS)
    return {
        "overall_healthy": responds is not False,
        "loop_thread_responds": responds,
        "runtime_initialized": _started_at is not None,
        "timestamp": time.time(),
    }


def configure_runtime(
    worker_threads: int | None = None,
    max_blocking_threads: int | None = None,
    thread_stack_size_mb: int | None = None,
) -> None:
    """Change the limits of the runtime, at once. Settings that are left out keep their values.

    Args:
        worker_threads: How many functions that are not async run at once in one event loop.
        max_blocking_threads: How many blocking calls, such as ``execute``, run at once; further
            calls wait.
        thread_stack_size_mb: Stack size of threads that start from now on, in MiB.

    Raises:
        ValueError: A number is less than 1, or the system rejects the stack size.
    """
    settings = {
        "worker_threads": worker_threads,
        "max_blocking_threads": max_blocking_threads,
        "thread_stack_size_mb": thread_stack_size_mb,
    }
    for name, value in settings.items():
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise ValueError(f"{name} must be 1 or more, not {shown(value)}")
    if thread_stack_size_mb is not None:
        previous = threading.stack_size()
        try:
            threading.stack_size(thread_stack_size_mb * 1024 * 1024)
            # Only starting a thread shows whether the system has that much memory.
            threading.Thread(target=int).start()
        except (OverflowError, RuntimeError, ValueError) as error:
            threading.stack_size(previous)
            message = f"a thread cannot have a stack of {thread_stack_size_mb} MiB: {error}"
            raise ValueError(message) from error
    if worker_threads is not None:
        workers.set_worker_threads(worker_threads)
    if max_blocking_threads is not None:
        loop_thread.limit(max_blocking_threads)


def shutdown() -> None:
    """Cancel blocking calls and streams, release threads, pools and models, and undo ``init``.

    Calls under way in other threads raise ``concurrent.futures.CancelledError`` there, or
    LlmClosedError if they are a client's. May be called more than once; clients and executors start again
    when they are used again.
    """
    global _started_at, _handler
    loop_thread.stop()
    if _handler is not None:
        logging.getLogger(_PACKAGE).removeHandler(_handler)
    for name in (_PACKAGE, _TRACE):
        logging.getLogger(name).setLevel(logging.NOTSET)
    _handler, _started_at = None, None
