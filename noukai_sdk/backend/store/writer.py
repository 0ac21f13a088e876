"""The writer: items that are saved while a commit runs go into the next commit.

SQLite has one writer at a time, so writes are batched: a hundred calls that end at the same moment cost
one transaction. An item that is saved twice before it is written is written once. A save that nobody waits
for waits a moment for the next one, so that a short run is one transaction from its begin to its end.

A run is written only by its owner: a row with another epoch, or one that has ended, is left as it is, and
nothing of the refused run is written.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import Connection, Table, and_, or_
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import Blobs
from .database import Database, StoreUnavailableError, is_outage, outages
from .limits import charge, charges_of
from .tables import ALL, ENDED, events, executions, sessions, steps
from .turns import Turns

logger = logging.getLogger("noukai_sdk.backend")

_RETRY_INTERVAL = 1.0
"""Seconds between two attempts to write in an outage."""

_LINGER = 0.02
"""Seconds after which saves are written that nobody waits for."""

Rows = list[dict[str, Any]]

Check = Callable[[AsyncConnection, Any, str], Awaitable[None]]
"""Called in a transaction, with the dialect's ``insert`` and an item's id. Raises to write nothing."""


class StaleOwnerError(Exception):
    """The run has another owner now, or has ended: whoever drives it must stop.

    Attributes:
        execution_id: The run.
    """

    def __init__(self, execution_id: str) -> None:
        super().__init__(f"the run {execution_id} was ended or taken over by another process")
        self.execution_id = execution_id


class Savable(Protocol):
    """An item that the writer saves."""

    id: str


@dataclass
class Changes:
    """Rows to write. A row with the same key is replaced."""

    executions: Rows = field(default_factory=list)
    steps: Rows = field(default_factory=list)
    events: Rows = field(default_factory=list)

    def after(self, earlier: Changes | None) -> Changes:
        """Return these changes merged with earlier ones that could not be written."""
        if earlier is None:
            return self
        return Changes(self.executions, earlier.steps + self.steps, earlier.events + self.events)


class Batch:
    """The items of one transaction.

    Attributes:
        wanted: The ids of the items that do not wait for a further save.
    """

    def __init__(self) -> None:
        self.items: dict[str, Savable] = {}
        self.savings: dict[str, Saving] = {}
        self.wanted: set[str] = set()
        self.errors: dict[str, Exception] = {}
        self.done = asyncio.Event()


@dataclass
class Saving:
    """One item on its way to the disk."""

    batch: Batch
    item_id: str
    writer: Writer

    @property
    def is_refused(self) -> bool:
        """Return True if the item was not written because it has another owner now."""
        return isinstance(self.batch.errors.get(self.item_id), StaleOwnerError)

    async def committed(self) -> None:
        """Wait until the item is on disk.

        Raises:
            StaleOwnerError: The run has another owner now, or has ended.
            StoreUnavailableError: The database cannot be used; the item will be written later.
        """
        await self.writer.written(self)
        error = self.batch.errors.get(self.item_id)
        if error is not None:
            raise StoreUnavailableError(error, self.item_id) if is_outage(error) else error


class Writer:
    """Commits batches, one after the other.

    In an outage of the database, unwritten changes are kept and tried again. If a batch contains an item
    that can never be written, its items are written one by one, so that no other item is lost.

    Args:
        database: The database.
        changes: Converts an item to rows. Called for all items of a batch without a pause between
            them, so that the batch has the state of one moment.
        blobs: Stores large values; None keeps them in their rows.
    """

    def __init__(
        self, database: Database, changes: Callable[[Any], Changes], blobs: Blobs | None = None
    ) -> None:
        self.blobs = blobs
        self._database = database
        self._changes = changes
        self.insert = _insert_of(database.dialect)
        self._upsert_runs = _upsert_runs(self.insert)
        self._upserts = _upserts(self.insert)
        self._upsert_sessions = _upsert_sessions(self.insert)
        self._next = Batch()
        self._current: Batch | None = None
        self._unwritten: dict[str, Changes] = {}
        self._refused: set[str] = set()
        self._outage: Exception | None = None
        self.outages = 0
        self._next_attempt = 0.0
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self.lock = Turns()
        self._task = asyncio.create_task(self._run())

    def save(self, item: Savable) -> Saving:
        """Put ``item`` into the next batch; the returned object can be waited for."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_LINGER, self._hurry)
        batch = self._next
        batch.items[item.id] = item
        return batch.savings.setdefault(item.id, Saving(batch, item.id, self))

    async def written(self, saving: Saving) -> None:
        """Wait until an item is on disk or has failed. It does not wait for further saves any more."""
        batch = saving.batch
        if batch is self._next:
            batch.wanted.add(saving.item_id)
            self._wake.set()
        await batch.done.wait()

    def _hurry(self) -> None:
        """Let no item wait for further saves."""
        self._next.wanted.update(self._next.items)
        self._wake.set()
        self._stop_timer()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def raise_if_unavailable(self) -> None:
        """Raise StoreUnavailableError if a new run could not be written at this moment."""
        try:
            self._database.engine.raise_if_hanging()
            if self._outage is not None:
                raise self._outage
        except Exception as error:
            unavailable = StoreUnavailableError(error)
            unavailable.outcome = "nothing was begun"
            raise unavailable from error

    def unwritten(self) -> set[str]:
        """Return the ids of the items that are not on disk yet."""
        current = () if self._current is None else self._current.items
        return {*self._unwritten, *self._next.items, *current}

    async def flush(self) -> None:
        """Wait until every saved item is on disk or has failed."""
        batch = self._next if self._next.items else self._current
        if batch is not None:
            self._hurry()
            await batch.done.wait()

    async def aclose(self) -> None:
        """Write unwritten items, and stop."""
        self._closing = True
        self._wake.set()
        await self._task
        if self._unwritten:
            logger.error("%d runs could not be stored and are lost", len(self._unwritten))

    async def _run(self) -> None:
        while not (self._closing and not self._next.items):
            timeout = _RETRY_INTERVAL if self._unwritten else None
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._wake.wait(), timeout)
            self._wake.clear()
            if self._closing:
                self._hurry()
            self._current, self._next = self._next, self._split_off_waiting()
            await self._commit(self._current)
            self._current = None

    def _split_off_waiting(self) -> Batch:
        """Take the items that wait for a further save out of the next batch, into the one after it."""
        batch, later = self._next, Batch()
        for item_id in batch.items.keys() - batch.wanted:
            later.items[item_id] = batch.items.pop(item_id)
            later.savings[item_id] = saving = batch.savings.pop(item_id)
            saving.batch = later
        if not later.items:
            self._stop_timer()
        return later

    async def _commit(self, batch: Batch) -> None:
        for item in batch.items.values():
            # The writer must survive an item that cannot be converted; its caller gets the error.
            try:
                earlier = self._unwritten.get(item.id)
                self._unwritten[item.id] = self._changes(item).after(earlier)
            except Exception as error:  # noqa: PERF203 - one item must not stop the others
                logger.exception("cannot store the run %s", item.id)
                batch.errors[item.id] = error
        # An outage of the object store holds up runs with large values alone.
        errors = await self._offload()
        held = {item_id: self._unwritten.pop(item_id) for item_id in errors}
        batch.errors.update(errors)
        async with self.lock.last() as outage:
            # On Postgres, it may have been due to the rows of others.
            if outage is not None and self._database.dialect == "sqlite" and not self._closing:
                self._set_outage(outage)
            batch.errors.update(await self._write_all())
            batch.errors.update({item_id: StaleOwnerError(item_id) for item_id in self._refused})
            self._refused.clear()
        self._unwritten.update(held)
        batch.done.set()

    async def _offload(self) -> dict[str, Exception]:
        """Store the large values of all unwritten changes; return the errors by item."""
        if self.blobs is None:
            return {}
        changes = self._unwritten.values()
        offloaded = (self.blobs.offload([change]) for change in changes)
        results = await asyncio.gather(*offloaded, return_exceptions=True)
        errors = dict(zip(self._unwritten, results, strict=True))
        return {item_id: error for item_id, error in errors.items() if isinstance(error, Exception)}

    async def _write_all(self) -> dict[str, Exception]:
        """Write all unwritten changes; return the errors by item."""
        if not self._unwritten and self._outage is None:
            return {}
        # An attempt may take seconds. Who came during the last one does not wait for another.
        if self._outage is not None and time.monotonic() < self._next_attempt and not self._closing:
            return dict.fromkeys(self._unwritten, self._outage)
        error = await self._write(*self._unwritten)
        if error is None or is_outage(error):
            self._set_outage(error)
            return dict.fromkeys(self._unwritten, error) if error else {}
        errors: dict[str, Exception] = {}
        for item_id in list(self._unwritten):
            error = await self._write(item_id)
            if error is not None and is_outage(error):
                self._set_outage(error)
                return {**errors, **dict.fromkeys(self._unwritten, error)}
            if error is not None:
                logger.error("cannot store the run %s", item_id, exc_info=error)
                errors[item_id] = error
                del self._unwritten[item_id]
        self._set_outage(None)
        return errors

    async def _write(self, *item_ids: str) -> Exception | None:
        """Write the changes of these items in one transaction; return the error if there is one."""
        try:
            chosen = [self._unwritten[item_id] for item_id in item_ids]
            self._refused |= await self._database.write(lambda c: self.put(c, chosen))
        except Exception as error:  # noqa: BLE001 - no error may end the writer; the caller inspects it
            return error
        for item_id in item_ids:
            del self._unwritten[item_id]
        return None

    def _set_outage(self, outage: Exception | None) -> None:
        if outage is not None:
            self.lock.note(outage)
        if outage is not None and self._outage is None:
            self.outages += 1
            reason = getattr(outage, "orig", outage)
            logger.error("the database cannot be written; trying again: %s", reason)
        if outage is None and self._outage is not None:
            logger.warning("the database can be written again")
        self._outage = outage
        self._next_attempt = time.monotonic() + _RETRY_INTERVAL

    async def insert_checked(self, item: Savable, check: Check) -> None:
        """Write a new item at once, in one transaction with ``check``, which may raise an error."""
        # SQLite has one writer at a time; on Postgres the check locks what it needs.
        lock = self.lock if self._database.dialect == "sqlite" else nullcontext()
        changes = self._changes(item)
        with outages():
            # Before the transaction, which would lock its rows for longer.
            await self.offload([changes])
            async with lock, self._database.engine.begin() as connection:
                await check(connection, self.insert, item.id)
                await connection.run_sync(self.put, [changes])

    async def offload(self, changes: Sequence[Changes]) -> None:
        """Put large values into the object store, if there is one."""
        if self.blobs is not None:
            await self.blobs.offload(changes)

    def put(self, connection: Connection, changes: Sequence[Changes]) -> set[str]:
        """Write rows in a transaction of the caller, who holds the lock.

        Returns:
            The ids of the runs that have another owner now; nothing of them is written.
        """
        # Sorted: transactions of several processes that lock the same rows must not wait in a circle.
        runs = sorted((row for change in changes for row in change.executions), key=_run_id)
        charges = charges_of(connection, runs)
        written: set[str] = set()
        if runs:
            written.update(connection.execute(self._upsert_runs, runs).scalars())
        changed = [row for row in runs if _run_id(row) in written]
        # Before the rows of sessions: other transactions lock these after an organisation, too.
        charge(connection, {id_: cost for id_, cost in charges.items() if id_ in written})
        refused = {_run_id(row) for row in runs} - written
        for table, upsert in self._upserts.items():
            rows = [row for change in changes for row in getattr(change, table.name)]
            rows = [row for row in rows if row["execution_id"] not in refused]
            if rows:
                connection.execute(upsert, rows)
        in_sessions = _session_rows(changed)
        if in_sessions:
            connection.execute(self._upsert_sessions, in_sessions)
        return refused


def _run_id(row: dict[str, Any]) -> str:
    return str(row["id"])


def _session_rows(runs: Iterable[dict[str, Any]]) -> Rows:
    """Return the rows of the sessions of these runs: of each organisation, and of all."""
    starts: dict[tuple[str, str], int] = {}
    for run in runs:
        for org in (run["org"], ALL) if run["session_id"] is not None else ():
            key = (run["session_id"], org)
            starts[key] = min(starts.get(key, run["started_at"]), run["started_at"])
    return [
        {"session_id": session_id, "org": org, "started_at": started_at, "pinned": False}
        for (session_id, org), started_at in sorted(starts.items())
    ]


def _insert_of(dialect: str) -> Any:
    # Both dialects have the same methods, but SQLAlchemy has no common class for them.
    return {"sqlite": sqlite.insert, "postgresql": postgresql.insert}[dialect]


def _upsert_sessions(insert: Any) -> Any:
    statement = insert(sessions)
    earlier = statement.excluded.started_at < sessions.c.started_at
    return statement.on_conflict_do_update(
        index_elements=["session_id", "org"],
        set_={"started_at": statement.excluded.started_at},
        # A new run brings back an expired session. Most saves change nothing here.
        where=or_(sessions.c.started_at.is_(None), earlier),
    )


def _upsert_runs(insert: Any) -> Any:
    statement = insert(executions)
    new = statement.excluded
    # A commit whose response was lost is tried again, and finds its own final state in the table.
    is_open = or_(
        # One comparison each: SQLAlchemy cannot expand a list in a statement for several rows.
        and_(*(executions.c.status != status for status in sorted(ENDED))),
        and_(executions.c.status == new.status, executions.c.completed_at == new.completed_at),
    )
    return statement.on_conflict_do_update(
        index_elements=["id"],
        # The request never changes, and can be large.
        set_={c.name: new[c.name] for c in executions.c if c.name not in ("id", "request")},
        where=and_(executions.c.epoch == new.epoch, is_open),
    ).returning(executions.c.id)


def _upserts(insert: Any) -> dict[Table, Any]:
    upserts = {}
    for table in (steps, events):
        keys = [column.name for column in table.primary_key]
        statement = insert(table)
        rest = {c.name: statement.excluded[c.name] for c in table.c if c.name not in keys}
        upserts[table] = statement.on_conflict_do_update(index_elements=keys, set_=rest)
    return upserts
