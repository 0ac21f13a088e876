"""Whether the database can be used, and how much is in progress in it; neither waits for long."""

from __future__ import annotations

import asyncio
import math
import time
from pathlib import Path

from alembic.script import ScriptDirectory
from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from .engine import Engine
from .tables import executions

_SECONDS = 2.0
# Probes and scrapers that come at once share an answer.
_FRESH_SECONDS = 1.0
_VERSION = text("SELECT version_num FROM alembic_version")
_MIGRATIONS = Path(__file__).parent.parent / "migrations"
_STATUSES = ("pending", "running")


class Health:
    """Looks at the database. A database that hangs has one waiting query of ours, not one a probe.

    Args:
        engine: The database.
        seconds: How long to wait for it.
    """

    def __init__(self, engine: Engine, seconds: float = _SECONDS) -> None:
        self._engine = engine
        self._seconds = seconds
        self._head = ScriptDirectory(str(_MIGRATIONS)).get_current_head()
        self._running: asyncio.Task[tuple[str | None, dict[str, int]]] | None = None
        self._found: tuple[str | None, dict[str, int]] = ("it was not asked yet", {})
        self._found_at = self._asked_at = -math.inf

    async def look(self) -> tuple[str | None, dict[str, int]]:
        """Return why the database cannot be used, None if it can, and the number of runs by status.

        The statuses are pending and running. There are none if they are not known.
        """
        if time.monotonic() - self._found_at < _FRESH_SECONDS:
            return self._found
        if self._running is None:
            self._running, self._asked_at = asyncio.create_task(self._ask()), time.monotonic()
        task = self._running
        left = self._asked_at + self._seconds - time.monotonic()
        done, _ = await asyncio.wait({task}, timeout=max(left, 0.0))
        if not done:
            # It is not cancelled: that would wait for the database, too.
            return f"it did not respond within {self._seconds:g} seconds", {}
        if self._running is task:
            self._running, self._found, self._found_at = None, task.result(), time.monotonic()
        return task.result()

    async def _ask(self) -> tuple[str | None, dict[str, int]]:
        try:
            async with self._engine.connect() as connection:
                version = (await connection.execute(_VERSION)).scalar_one_or_none()
                counts = await _counts(connection)
        except Exception as error:  # noqa: BLE001 - whatever it is, the database cannot be used
            return f"it cannot be used: {getattr(error, 'orig', error)}", {}
        if version != self._head:
            return f"its tables have version {version}, and this process needs {self._head}", counts
        return None, counts

    async def aclose(self) -> None:
        """Stop waiting for the database."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait({self._running}, timeout=self._seconds)


async def _counts(connection: AsyncConnection) -> dict[str, int]:
    statement = (
        select(executions.c.status, func.count())
        .where(executions.c.status.in_(_STATUSES))
        .group_by(executions.c.status)
    )
    counts = dict.fromkeys(_STATUSES, 0)
    for status, count in await connection.execute(statement):
        counts[status] = count
    return counts
