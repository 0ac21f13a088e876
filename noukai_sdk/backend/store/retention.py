"""Delete the data of expired sessions, in batches that are too short for a request to notice.

The rows of runs and sessions stay without their data, so that an expired session is not taken for an
unknown one. Pinned sessions keep everything.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import Any

from sqlalchemy import ColumnElement, and_, delete, exists, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import mark_deleted
from .engine import Engine
from .idempotency import LIFE
from .sessions import is_kept
from .tables import (
    ALL,
    ENDED,
    boundaries,
    events,
    exchanges,
    executions,
    idempotency_keys,
    outcomes,
    replays,
    sessions,
    steps,
)
from .writer import Writer

# A batch that takes less seconds is followed by a larger one, a batch that takes more by a smaller one.
_SHORT, _LONG = 0.01, 0.025
_FIRST_BATCH, _LARGEST_BATCH = 10, 500
# On Postgres nobody waits for a batch, and a busy server takes long for the smallest one, too.
_SMALLEST_BATCH = {"sqlite": 1, "postgresql": 50}
# Pages of 4 kB that SQLite gives back to the file system at once.
_PAGES = 200

Batch = Callable[[AsyncConnection, int], Awaitable[int]]
"""Deletes at most so many items in the transaction of the caller; returns how many there were."""


class Retention:
    """Deletes data that is not kept any longer. Writers go on between two batches."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    async def delete_data(self, before: int) -> None:
        """Delete the data of runs that began before ``before``, and what else their sessions have.

        Args:
            before: Microseconds since 1970.
        """
        for batch in (self._runs, _sessions, _reports):
            await self._repeat(batch, before)
        await self._give_space_back()

    async def delete_keys(self, now: int) -> None:
        """Delete the idempotency keys that are not kept any longer."""
        await self._repeat(_keys, now - LIFE)

    async def keep_size(self, limit: int) -> None:
        """Delete the data of the oldest runs until the database has at most ``limit`` bytes in use.

        SQLite alone knows its size in use.
        """
        while await self._bytes_in_use() > limit:
            oldest = select(executions.c.started_at).where(_has_data()).order_by("started_at")
            async with self._engine.connect() as connection:
                starts = (await connection.execute(oldest.limit(_FIRST_BATCH))).scalars().all()
            if not starts:
                return
            await self.delete_data(max(starts) + 1)

    def _runs(self, before: int) -> Batch:
        async def delete_batch(connection: AsyncConnection, limit: int) -> int:
            old = select(executions.c.id).where(_has_data(), executions.c.started_at < before)
            oldest = old.order_by(executions.c.started_at).limit(limit)
            # Other processes sweep, too: each takes other runs.
            oldest = oldest.with_for_update(skip_locked=True, of=executions)
            ids = (await connection.execute(oldest)).scalars().all()
            await mark_deleted(connection, self._writer, executions.c.id.in_(ids))
            for table in (steps, events):
                await connection.execute(delete(table).where(table.c.execution_id.in_(ids)))
            emptied = {"request": None, "tool_rounds": None, "result": None, "has_data": False}
            chosen = executions.c.id.in_(ids)
            await connection.execute(update(executions).where(chosen).values(emptied))
            return len(ids)

        return delete_batch

    async def _repeat(self, batch: Callable[[int], Batch], before: int) -> None:
        dialect = self._engine.dialect.name
        smallest = _SMALLEST_BATCH[dialect]
        size = done = max(_FIRST_BATCH, smallest)
        while done >= size:
            async with self._writer.lock if dialect == "sqlite" else nullcontext():
                start = time.monotonic()
                async with self._engine.begin() as connection:
                    done = await batch(before)(connection, size)
                took = time.monotonic() - start
            # As long as the batch took, so that the sweep has at most half of the database's time.
            await asyncio.sleep(took)
            if done >= size and took < _SHORT:
                size = done = min(size * 2, _LARGEST_BATCH)
            elif took > _LONG:
                size = max(size // 2, smallest)

    async def _give_space_back(self) -> None:
        """Shrink SQLite's file by the pages that are free. Postgres does so itself (autovacuum)."""
        if self._engine.dialect.name != "sqlite":
            return
        free = await self._pragma("freelist_count")
        while free:
            start = time.monotonic()
            async with self._writer.lock, self._engine.connect() as connection:
                # As a script: a statement without rows would end after the first page.
                driver: Any = (await connection.get_raw_connection()).driver_connection
                await driver.executescript(f"PRAGMA incremental_vacuum({_PAGES})")
            await asyncio.sleep(time.monotonic() - start)
            before, free = free, await self._pragma("freelist_count")
            if free >= before:
                return  # a file that was made before 0.3 cannot shrink; its free pages are used again

    async def _bytes_in_use(self) -> int:
        pages = await self._pragma("page_count") - await self._pragma("freelist_count")
        return pages * await self._pragma("page_size")

    async def _pragma(self, name: str) -> int:
        async with self._engine.connect() as connection:
            return int((await connection.exec_driver_sql(f"PRAGMA {name}")).scalar_one())


def _has_data() -> ColumnElement[bool]:
    """Return the condition that a run has data that may be deleted: a run in progress needs its own."""
    is_ended = executions.c.status.in_(ENDED)
    kept = is_kept(executions.c.session_id, executions.c.org)
    return and_(executions.c.has_data, is_ended, ~kept)


def _sessions(before: int) -> Batch:
    async def delete_batch(connection: AsyncConnection, limit: int) -> int:
        old = sessions.alias()
        of_org = or_(executions.c.org == old.c.org, old.c.org == ALL)
        later_run = exists().where(
            executions.c.session_id == old.c.session_id, executions.c.started_at >= before, of_org
        )
        is_old = and_(old.c.started_at < before, ~later_run, ~is_kept(old.c.session_id, old.c.org))
        oldest = select(old.c.session_id, old.c.org).where(is_old).order_by(old.c.started_at)
        keys = [tuple(row) for row in await connection.execute(oldest.limit(limit))]
        for table in (boundaries, exchanges, outcomes, replays):
            is_expired = tuple_(table.c.session_id, table.c.org).in_(keys)
            await connection.execute(delete(table).where(is_expired))
        expired = tuple_(sessions.c.session_id, sessions.c.org).in_(keys)
        await connection.execute(update(sessions).where(expired).values(started_at=None))
        return len(keys)

    return delete_batch


def _keys(before: int) -> Batch:
    async def delete_batch(connection: AsyncConnection, limit: int) -> int:
        row = idempotency_keys.c
        key = (row.org, row.path, row.key)
        old = select(*key).where(row.created_at < before).limit(limit)
        keys = [tuple(each) for each in await connection.execute(old)]
        await connection.execute(delete(idempotency_keys).where(tuple_(*key).in_(keys)))
        return len(keys)

    return delete_batch


def _reports(before: int) -> Batch:
    async def delete_batch(connection: AsyncConnection, limit: int) -> int:
        is_old = and_(replays.c.stored_at < before, ~is_kept(replays.c.session_id, replays.c.org))
        key = (replays.c.session_id, replays.c.org, replays.c.replay_id)
        keys = [
            tuple(row) for row in await connection.execute(select(*key).where(is_old).limit(limit))
        ]
        await connection.execute(delete(replays).where(tuple_(*key).in_(keys)))
        return len(keys)

    return delete_batch
