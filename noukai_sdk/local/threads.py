"""The worker threads that functions which are not async run in."""

from __future__ import annotations

from anyio import CapacityLimiter
from anyio.lowlevel import RunVar

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


def worker_limiter() -> CapacityLimiter:
    """The running event loop's limiter."""
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(_count)
        _limiter.set(limiter)
    elif limiter.total_tokens != _count:
        limiter.total_tokens = _count
    return limiter
