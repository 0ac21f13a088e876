"""The clock, random ids and random numbers as recorded functions: a replay gets those of the capture."""

from __future__ import annotations

import random as _random
import uuid as _uuid
from datetime import datetime, timezone, tzinfo

from .decorator import recorded


@recorded(name="now", redact=False)
def now(tz: tzinfo | None = timezone.utc) -> datetime:
    """Return the current time; in a replay, the time of the capture.

    Args:
        tz: The time zone; None for local time without a zone.

    Example:
        >>> import noukai_sdk
        >>> noukai_sdk.now().tzinfo
        datetime.timezone.utc
    """
    return datetime.now(tz)


@recorded(name="uuid4", redact=False)
def uuid4() -> _uuid.UUID:
    """Return a random UUID; in a replay, that of the capture.

    Example:
        >>> import noukai_sdk
        >>> noukai_sdk.uuid4().version
        4
    """
    return _uuid.uuid4()


@recorded(name="random", redact=False)
def random() -> float:
    """Return a random number from 0 to 1; in a replay, that of the capture.

    Example:
        >>> import noukai_sdk
        >>> 0 <= noukai_sdk.random() < 1
        True
    """
    return _random.random()  # noqa: S311  # not for secrets, which no recording may hold
