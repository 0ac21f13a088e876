"""The service's clock."""

from __future__ import annotations

import time
from datetime import datetime, timedelta, timezone

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class Clock:
    """UTC in microseconds since 1970 that never goes back and never gives the same time twice.

    Executions are ordered by these times, so two of them must never be equal, and a wall clock that
    is set back must not turn their order around.
    """

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Microseconds since 1970, always later than every time given before."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


def iso(microseconds: int | None) -> str | None:
    """A time of :class:`Clock` as ISO 8601 with all six digits, None for None.

    Example:
        >>> iso(1_000_001)
        '1970-01-01T00:00:01.000001+00:00'
    """
    if microseconds is None:
        return None
    return (_EPOCH + timedelta(microseconds=microseconds)).isoformat(timespec="microseconds")
