"""Times and durations, for people."""

from __future__ import annotations

import re
from datetime import datetime, timezone

_UNITS = (("d", 86400), ("h", 3600), ("m", 60))


def read_time(text: str | None) -> datetime | None:
    """Return a time in ISO 8601, in UTC if it has no offset; None if it is not one."""
    try:
        # Python 3.10 reads no Z.
        time = datetime.fromisoformat(re.sub("[zZ]$", "+00:00", text or ""))
    except ValueError:
        return None
    return time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)


def ago(text: str | None, now: datetime | None = None) -> str:
    """Return how long ago a time was.

    Example:
        >>> ago("2026-05-31T08:00:00Z", datetime(2026, 5, 31, 11, tzinfo=timezone.utc))
        '3h ago'
    """
    time = read_time(text)
    if time is None:
        return ""
    seconds = max(0.0, ((now or datetime.now(timezone.utc)) - time).total_seconds())
    for unit, length in _UNITS:
        if seconds >= length:
            return f"{seconds // length:.0f}{unit} ago"
    return f"{seconds:.0f}s ago"


def iso(text: str | None) -> str:
    """Return a time with seconds, in UTC, as the title of a relative one.

    Example:
        >>> iso("2026-05-31T08:00:00.123456+00:00")
        '2026-05-31 08:00:00 UTC'
    """
    time = read_time(text)
    return "" if time is None else f"{time.astimezone(timezone.utc):%Y-%m-%d %H:%M:%S} UTC"


def milliseconds_between(start: str | None, end: str | None) -> float | None:
    """Return the time between two times, None if one is missing."""
    first, last = read_time(start), read_time(end)
    return None if first is None or last is None else (last - first).total_seconds() * 1000


def duration(milliseconds: float | None) -> str:
    """Return a duration with two or three digits.

    Example:
        >>> duration(None), duration(4.2), duration(999), duration(12340), duration(754000)
        ('', '4 ms', '999 ms', '12.3 s', '12m 34s')
    """
    if milliseconds is None:
        return ""
    if milliseconds < 999.5:
        return f"{milliseconds:.0f} ms"
    seconds = milliseconds / 1000
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02}m"
