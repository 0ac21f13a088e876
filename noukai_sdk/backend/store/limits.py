"""Limits of organisations: concurrent runs, requests a minute, credits."""

from __future__ import annotations

from dataclasses import dataclass

from .tables import organisations

LIMIT_COLUMNS = (
    organisations.c.max_running,
    organisations.c.requests_per_minute,
    organisations.c.credit_micros,
)


@dataclass(frozen=True)
class Limits:
    """The limits of one organisation, in the order of ``LIMIT_COLUMNS``. None is no limit.

    Attributes:
        max_running: How many runs may be pending or running at once.
        requests_per_minute: How many requests the organisation's keys may send.
        credit_micros: What is left to spend, in millionths of a US dollar.
    """

    max_running: int | None = None
    requests_per_minute: int | None = None
    credit_micros: int | None = None


UNLIMITED = Limits()
