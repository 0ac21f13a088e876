"""Let one transaction of this process write at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from .database import StoreUnavailableError, is_outage


class Turns:
    """A lock for writing. Those that wait for a transaction that fails in an outage fail with it.

    If each of them tried in its turn, the last one of many would wait for minutes.
    """

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._outages = 0
        self._last: Exception = OSError()

    async def __aenter__(self) -> None:
        """Wait for the turn.

        Raises:
            StoreUnavailableError: The database could not be used by one that came before.
        """
        before = self._outages
        await self._lock.acquire()
        if self._outages != before:
            self._lock.release()
            raise StoreUnavailableError(self._last)

    async def __aexit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """End the turn."""
        self._lock.release()
        if isinstance(error, Exception) and is_outage(error):
            self.note(error)

    def note(self, outage: Exception) -> None:
        """Let those that wait fail."""
        self._outages += 1
        self._last = outage

    @asynccontextmanager
    async def last(self) -> AsyncIterator[Exception | None]:
        """Wait for the turn, and yield the outage that those that came before have met."""
        before = self._outages
        async with self._lock:
            yield None if self._outages == before else self._last
