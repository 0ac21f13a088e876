"""Refuse jobs while too many wait to be run."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from .errors import RequestError

_RECOUNT_SECONDS = 0.5
_MOST_ORGS = 10_000

Count = Callable[["str | None", int], Awaitable[int]]
"""Counts the waiting jobs of one organisation, or of all for None, up to a number."""


class QueueLimit:
    """Limits on how many jobs wait.

    Counting takes longer than storing a job, so a count holds for half a second, and the jobs that this
    process takes in meanwhile are added to it. Other processes can exceed the limit by as many as they take
    in within that time.

    Args:
        count: Counts the waiting jobs in the database.
        of_org: How many jobs of one organisation may wait.
        in_all: How many jobs of all organisations may wait.
    """

    def __init__(self, count: Count, *, of_org: int, in_all: int) -> None:
        self._count = count
        self._of_org = of_org
        self._in_all = in_all
        self._counted: dict[str | None, tuple[float, int]] = {}

    async def admit(self, org: str) -> None:
        """Let one more job of an organisation in.

        Raises:
            RequestError: Too many jobs wait already (429).
        """
        names: tuple[tuple[str | None, int], ...] = ((org, self._of_org), (None, self._in_all))
        for name, limit in names:
            if await self._waiting(name, limit) >= limit:
                whose = "" if name is None else f" of {name}"
                message = f"{limit} jobs{whose} wait to be run already: try again later"
                raise RequestError(429, "QUEUE_FULL", message, headers={"Retry-After": "5"})
        for name, _ in names:
            if name in self._counted:
                counted_at, waiting = self._counted[name]
                self._counted[name] = (counted_at, waiting + 1)

    async def _waiting(self, name: str | None, limit: int) -> int:
        counted_at, waiting = self._counted.get(name, (0.0, 0))
        now = time.monotonic()
        if now - counted_at > _RECOUNT_SECONDS:
            if len(self._counted) > _MOST_ORGS:
                self._counted.clear()
            waiting = await self._count(name, limit)
            self._counted[name] = (now, waiting)
        return waiting
