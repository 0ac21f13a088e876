"""The one writer: everything that is saved while a commit runs goes into the next one.

SQLite has one writer at a time, so writes are put together: a hundred calls that end at the same
moment cost one transaction. A run that is saved twice before it is written is written once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from .outage import StoreUnavailableError, is_outage
from .tables import events, executions, steps

logger = logging.getLogger("noukai_sdk.backend")

_BETWEEN_TRIES = 1.0
"""Seconds between two attempts to write what could not be written."""

Rows = list[dict[str, Any]]


class Savable(Protocol):
    """What the writer saves."""

    id: str


class Batch:
    """What goes into one transaction."""

    def __init__(self) -> None:
        self.items: dict[str, Savable] = {}
        self.errors: dict[str, Exception] = {}
        self._done = asyncio.Event()

    async def done(self) -> None:
        """Wait until it is on disk, or could not be stored."""
        await self._done.wait()

    def finish(self) -> None:
        """Tell everyone who waits."""
        self._done.set()


@dataclass(frozen=True)
class Saving:
    """One item on its way to the disk."""

    batch: Batch
    name: str

    async def committed(self) -> None:
        """Wait until it is on disk; raises what went wrong otherwise."""
        await self.batch.done()
        error = self.batch.errors.get(self.name)
        if error is not None:
            raise StoreUnavailableError(error, self.name) if is_outage(error) else error


@dataclass
class Changes:
    """Rows to write. One that is there already is replaced."""

    executions: Rows = field(default_factory=list)
    steps: Rows = field(default_factory=list)
    events: Rows = field(default_factory=list)

    def after(self, earlier: Changes | None) -> Changes:
        """These changes and those that could not be written before them."""
        if earlier is None:
            return self
        return Changes(self.executions, earlier.steps + self.steps, earlier.events + self.events)


class Writer:
    """Commits batches, one after the other.

    What cannot be written because the database is at fault is kept and tried again. A batch that holds
    something that can never be written is written item by item, so that no other is lost with it.

    Args:
        engine: The database.
        changes: Turns an item into rows. Called when it is written, in one go with the loop's other
            work, so that a batch holds each item as it is at one moment.
    """

    def __init__(self, engine: AsyncEngine, changes: Callable[[Any], Changes]) -> None:
        self._engine = engine
        self._changes = changes
        self._insert = _inserts(engine.dialect.name)
        self._next = Batch()
        self._current: Batch | None = None
        self._left: dict[str, Changes] = {}
        self._outage: Exception | None = None
        self._wake = asyncio.Event()
        self._closing = False
        self.lock = asyncio.Lock()
        self._task = asyncio.create_task(self._run())

    def save(self, item: Savable) -> Saving:
        """Put ``item`` into the next batch; the answer is for whoever wants to wait."""
        self._next.items[item.id] = item
        self._wake.set()
        return Saving(self._next, item.id)

    def require_working(self) -> None:
        """Raise StoreUnavailableError where the last batch could not be written, and is still kept."""
        if self._outage is not None:
            raise StoreUnavailableError(self._outage) from self._outage

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
        if self._left:
            logger.error("%d runs could not be stored and are lost", len(self._left))

    async def _run(self) -> None:
        while not (self._closing and not self._next.items):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), _BETWEEN_TRIES if self._left else None)
            self._wake.clear()
            self._current, self._next = self._next, Batch()
            await self._commit(self._current)
            self._current = None

    async def _commit(self, batch: Batch) -> None:
        async with self.lock:
            for item in batch.items.values():
                self._collect(item, batch)
            batch.errors.update(await self._write_left())
        batch.finish()

    def _collect(self, item: Savable, batch: Batch) -> None:
        # The writer must outlive what cannot be made into rows; who waits for it gets the error.
        try:
            self._left[item.id] = self._changes(item).after(self._left.get(item.id))
        except Exception as error:
            logger.exception("cannot store the run %s", item.id)
            batch.errors[item.id] = error

    async def _write_left(self) -> dict[str, Exception]:
        """Write all that is left. Gives what went wrong, by item."""
        error = await self._try(*self._left)
        if error is None or is_outage(error):
            self._note(error)
            return dict.fromkeys(self._left, error) if error else {}
        errors: dict[str, Exception] = {}
        for name in list(self._left):
            error = await self._try(name)
            if error is not None and is_outage(error):
                self._note(error)
                return {**errors, **dict.fromkeys(self._left, error)}
            if error is not None:
                logger.error("cannot store the run %s", name, exc_info=error)
                errors[name] = error
                del self._left[name]
        self._note(None)
        return errors

    async def _try(self, *names: str) -> Exception | None:
        """Write these; what is written is left no more."""
        try:
            await self._write([self._left[name] for name in names])
        except Exception as error:  # noqa: BLE001 - nothing may end the writer; the caller looks at it
            return error
        for name in names:
            del self._left[name]
        return None

    def _note(self, outage: Exception | None) -> None:
        if outage is not None and self._outage is None:
            logger.error("the database cannot be written; trying again", exc_info=outage)
        if outage is None and self._outage is not None:
            logger.warning("the database can be written again")
        self._outage = outage

    async def _write(self, changes: Sequence[Changes]) -> None:
        async with self._engine.begin() as connection:
            await self.put(connection, changes)

    async def put(self, connection: AsyncConnection, changes: Sequence[Changes]) -> None:
        """Write rows within a transaction of the caller's, who holds the lock."""
        for table, insert in self._insert.items():
            rows = [row for change in changes for row in getattr(change, table.name)]
            if rows:
                await connection.execute(insert, rows)


def _inserts(dialect: str) -> dict[Table, Any]:
    # Both dialects have the same words for it, which SQLAlchemy keeps in no class that they share.
    insert: Any = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]
    return {table: _replacing(insert(table), table) for table in (executions, steps, events)}


def _replacing(insert: Any, table: Table) -> Any:
    # A commit whose answer was lost is tried again, and finds its rows there.
    keys = [column.name for column in table.primary_key]
    rest = {c.name: insert.excluded[c.name] for c in table.c if c.name not in keys}
    return insert.on_conflict_do_update(index_elements=keys, set_=rest)
