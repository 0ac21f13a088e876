"""Keep a flood of requests from becoming a flood of log lines."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Hashable

_MOST_KINDS = 256


class LineLimiter:
    """Lets one line of each kind through in a second, and counts the others.

    Example:
        >>> limiter = LineLimiter(now=lambda: 0.0)
        >>> limiter.held_back("late"), limiter.held_back("late")
        (0, None)
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._kinds: dict[Hashable, tuple[float, int]] = {}

    def held_back(self, kind: Hashable) -> int | None:
        """Return how many lines were held back since the last one; None if this one is, too."""
        now = self._now()
        next_at, count = self._kinds.get(kind, (0.0, 0))
        if now < next_at:
            self._kinds[kind] = (next_at, count + 1)
            return None
        if len(self._kinds) >= _MOST_KINDS:
            self._kinds.clear()
        self._kinds[kind] = (now + 1.0, 0)
        return count


class FloodFilter(logging.Filter):
    """A filter for loggers whose records clients can cause: one a second of each message."""

    def __init__(self) -> None:
        super().__init__()
        self._limiter = LineLimiter()

    def filter(self, record: logging.LogRecord) -> bool:
        """Return False to drop the record; add the number of dropped ones to the next."""
        held_back = self._limiter.held_back((record.name, record.levelno, record.msg))
        if held_back:
            record.msg = f"{record.getMessage()} (and {held_back} more)"
            record.args = None
        return held_back is not None


_filter = FloodFilter()


def limit_logs(*names: str) -> None:
    """Limit the records of these loggers."""
    for name in names:
        logging.getLogger(name).addFilter(_filter)
