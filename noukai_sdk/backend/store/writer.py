"""The one writer: everything that is saved while a commit runs goes into the next one.

SQLite has one writer at a time, so writes are put together: a hundred calls that end at the same
moment cost one transaction. A run that is saved twice before it is written is written once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncEngine

from .tables import events, executions, steps

logger = logging.getLogger("noukai_sdk.backend")

Rows = list[dict[str, Any]]


class Savable(Protocol):
    """What the writer saves."""

    id: str


class Batch:
    """What goes into one transaction."""

    def __init__(self) -> None:
        self.items: dict[str, Savable] = {}
        self._done = asyncio.Event()
        self._error: Exception | None = None

    async def done(self) -> None:
        """Wait until it is on disk, or could not be stored."""
        await self._done.wait()

    async def committed(self) -> None:
        """Wait until it is on disk; raises what went wrong otherwise."""
        await self.done()
        if self._error is not None:
            raise self._error

    def finish(self, error: Exception | None = None) -> None:
        """Tell everyone who waits."""
        self._error = error
        self._done.set()


@dataclass
class Changes:
    """Rows to write: those of ``executions`` replace what is there, the others are added."""

    executions: Rows = field(default_factory=list)
    steps: Rows = field(default_factory=list)
    events: Rows = field(default_factory=list)


class Writer:
    """Commits batches, one after the other.

    Args:
        engine: The database.
        changes: Turns items into rows. Called when they are written, in one go with the loop's
            other work, so that a batch holds each item as it is at one moment.
    """

    def __init__(self, engine: AsyncEngine, changes: Callable[[Iterable[Any]], Changes]) -> None:
        self._engine = engine
        self._changes = changes
        self._insert = _inserts(engine.dialect.name)
        self._next = Batch()
        self._current: Batch | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self.lock = asyncio.Lock()
        self._task = asyncio.create_task(self._run())

    def save(self, item: Savable) -> Batch:
        """Put ``item`` into the next batch, which is given for whoever wants to wait."""
        self._next.items[item.id] = item
        self._wake.set()
        return self._next

    async def settled(self) -> None:
        """Wait until what has been saved so far is on disk, or could not be stored."""
        waiting = self._next if self._next.items else self._current
        if waiting is not None:
            await waiting.done()

    async def aclose(self) -> None:
        """Write what is left, and end."""
        self._closing = True
        self._wake.set()
        await self._task

    async def _run(self) -> None:
        while not (self._closing and not self._next.items):
            await self._wake.wait()
            self._wake.clear()
            self._current, self._next = self._next, Batch()
            await self._commit(self._current)
            self._current = None

    async def _commit(self, batch: Batch) -> None:
        try:
            async with self.lock:
                await self._write(self._changes(batch.items.values()))
        # The writer must outlive a full disk; those who wait for the batch get the error.
        except Exception as error:
            logger.exception("cannot store %d runs", len(batch.items))
            batch.finish(error)
        else:
            batch.finish()

    async def _write(self, changes: Changes) -> None:
        async with self._engine.begin() as connection:
            for statement, rows in (
                (self._insert[executions], changes.executions),
                (self._insert[steps], changes.steps),
                (self._insert[events], changes.events),
            ):
                if rows:
                    await connection.execute(statement, rows)


def _inserts(dialect: str) -> dict[Table, Any]:
    # Both dialects have the same words for it, which SQLAlchemy keeps in no class that they share.
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    upsert = insert(executions)
    changed = {column.name: upsert.excluded[column.name] for column in executions.c}
    del changed["id"]
    return {
        executions: upsert.on_conflict_do_update(index_elements=["id"], set_=changed),
        steps: insert(steps),
        events: insert(events),
    }
