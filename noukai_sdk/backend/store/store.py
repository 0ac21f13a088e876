"""The store: saves runs and finds them again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import URL, and_, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import COLUMNS, Blobs, restore
from .call_rows import SessionCalls, read_calls
from .database import Database, open_database, outages
from .health import Health
from .idempotency import IdempotencyKey, find_key, free_key
from .job_pages import JobQuery, ListedJobs, read_jobs
from .keys import KeyStore
from .limits import LimitStore
from .notices import Notices
from .processes import ProcessStore
from .published_flows import PublishedStore
from .retention import Retention
from .session_pages import ListedSession, SessionQuery, read_page
from .sessions import SessionStore
from .tables import ENDED, events, executions, steps
from .writer import Changes, Check, Savable, Saving, Writer

Row = Mapping[str, Any]


class Store:
    """The stored runs. Open one with :meth:`open`, and ``aclose`` it."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._engine = database.engine
        self._writer = writer
        self.processes = ProcessStore(database.engine, writer)
        self.sessions = SessionStore(database.engine, writer)
        self.keys = KeyStore(database.engine)
        self.limits = LimitStore(database.engine)
        self.retention = Retention(database.engine, writer)
        self.published = PublishedStore(database.engine, writer)
        self.health = Health(database.engine)

    @classmethod
    async def open(
        cls, url: URL, changes: Callable[[Any], Changes], blobs: str | Path | None = None
    ) -> Store:
        """Open the database at ``url``.

        Args:
            url: The database.
            changes: Converts a saved item to rows.
            blobs: The folder or URL for large payloads; None keeps them in the database.
        """
        objects = None if blobs is None else await asyncio.to_thread(Blobs, blobs)
        database = await open_database(url)
        return cls(database, Writer(database, changes, objects))

    async def aclose(self) -> None:
        """Write unwritten items, and close the database."""
        await self.health.aclose()
        await self._writer.aclose()
        await self._database.aclose()
        if self._writer.blobs is not None:
            await self._writer.blobs.aclose()

    async def delete_blobs(self) -> None:
        """Delete the large payloads of deleted runs."""
        if self._writer.blobs is not None:
            with outages():
                await self._writer.blobs.delete_marked(self._engine)

    @property
    def outages(self) -> int:
        """How often the database could not be written, for a time."""
        return self._writer.outages

    def raise_if_unavailable(self) -> None:
        """Raise StoreUnavailableError if a new run could not be stored at this moment."""
        self._writer.raise_if_unavailable()

    def save(self, item: Savable) -> Saving:
        """Write ``item`` soon; ``await store.save(item).committed()`` waits for it."""
        return self._writer.save(item)

    async def insert_checked(self, item: Savable, check: Check) -> None:
        """Write a new item at once, in one transaction with ``check``, which may raise an error."""
        await self._writer.insert_checked(item, check)

    async def find_key(self, key: IdempotencyKey, now: int) -> tuple[str, str] | None:
        """Return the id of the run that an idempotency key has begun, with its request's hash, or None."""
        with outages():
            async with self._engine.connect() as connection:
                return await find_key(connection, key, now)

    async def free_key(self, key: IdempotencyKey, execution_id: str) -> None:
        """Forget that an idempotency key has begun this run."""
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                await free_key(connection, key, execution_id)

    async def waiting_jobs(self, at_most: int) -> list[tuple[str, int]]:
        """Return the ids and epochs of jobs that wait, those first that were not written for longest."""
        waiting = select(executions.c.id, executions.c.epoch).where(
            executions.c.status == "pending", executions.c.trigger == "job"
        )
        rows = await self._all(waiting.order_by(executions.c.updated_at).limit(at_most))
        return [(row["id"], row["epoch"]) for row in rows]

    def unwritten(self) -> set[str]:
        """Return the ids of the runs that are saved, but not on disk yet."""
        return self._writer.unwritten()

    async def flush(self) -> None:
        """Wait until every saved item is on disk or has failed."""
        await self._writer.flush()

    async def execution(self, execution_id: str) -> Row | None:
        """Return the run's row, or None. Of its payloads it has the result alone."""
        # Postgres raises an error for a text with a null character.
        if "\0" in execution_id:
            return None
        rows = await self._all(select(executions).where(executions.c.id == execution_id))
        await self._restore(rows, "result")
        return rows[0] if rows else None

    async def pending_jobs(self, org: str | None, at_most: int) -> int:
        """Count the jobs that wait to be run, of one organisation or of all, up to ``at_most``."""
        waiting = select(executions.c.id).where(executions.c.status == "pending").limit(at_most)
        if org is not None:
            waiting = waiting.where(executions.c.org == org)
        with outages():
            async with self._engine.connect() as connection:
                counted = select(func.count()).select_from(waiting.subquery())
                return int((await connection.execute(counted)).scalar_one())

    async def in_session(self, session_id: str) -> Sequence[Row]:
        """Return the rows of a session's runs, in the order in which they began, without payloads."""
        return await self._all(
            select(executions)
            .where(executions.c.session_id == session_id)
            .order_by(executions.c.started_at)
        )

    async def session_calls(
        self,
        session_id: str,
        org: str | None,
        *,
        statuses: tuple[str, ...] | None,
        offset: int,
        limit: int,
    ) -> SessionCalls:
        """Return calls of a session without their payloads, in the order in which they began."""
        await self._writer.flush()
        with outages():
            async with self._engine.connect() as connection:
                return await read_calls(
                    connection, session_id, org, statuses=statuses, offset=offset, limit=limit
                )

    async def session_page(self, query: SessionQuery) -> list[ListedSession]:
        """Return the sessions of a page of the list, and one more if there is a next page."""
        await self._writer.flush()
        with outages():
            async with self._engine.connect() as connection:
                return await read_page(connection, query)

    async def job_page(self, query: JobQuery) -> ListedJobs:
        """Return a page of the list of jobs, with one job more if there is a next page."""
        await self._writer.flush()
        with outages():
            async with self._engine.connect() as connection:
                return await read_jobs(connection, query)

    async def steps(self, execution_ids: Sequence[str]) -> dict[str, list[Row]]:
        """Return the rows of these runs' steps, by run, in the order in which they began."""
        return await self._by_execution(steps, steps.c.number, execution_ids)

    async def events(self, execution_ids: Sequence[str]) -> dict[str, list[Row]]:
        """Return the rows of these runs' events, by run, in order."""
        return await self._by_execution(events, events.c.first, execution_ids)

    async def has_ended(self, execution_id: str) -> bool:
        """Return True if the run has ended, or does not exist."""
        status = select(executions.c.status).where(executions.c.id == execution_id)
        rows = await self._all(status)
        return not rows or rows[0]["status"] in ENDED

    async def events_from(self, execution_id: str, first: int) -> list[Row]:
        """Return the rows of a run's events whose first event has at least this number, in order."""
        of_run = select(events).where(
            events.c.execution_id == execution_id, events.c.first >= first
        )
        found = await self._all(of_run.order_by(events.c.first))
        await self._restore(found, *COLUMNS["events"])
        return found

    def notices(self) -> Notices | None:
        """Return the notices between the processes of this database; None if there is only one."""
        is_shared = self._database.dialect == "postgresql"
        return Notices(self._engine) if is_shared else None

    async def _by_execution(
        self, table: Any, order: Any, execution_ids: Sequence[str]
    ) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {execution_id: [] for execution_id in execution_ids}
        # A statement takes a limited number of parameters.
        for start in range(0, len(execution_ids), 500):
            batch = execution_ids[start : start + 500]
            chosen = select(table).where(table.c.execution_id.in_(batch)).order_by(order)
            found = await self._all(chosen)
            await self._restore(found, *COLUMNS[table.name])
            for row in found:
                rows[row["execution_id"]].append(row)
        return rows

    async def load_payloads(self, rows: Sequence[Row]) -> None:
        """Read the payloads of the runs of these rows, of :meth:`in_session`."""
        await self._restore(rows, *COLUMNS["executions"])

    async def _restore(self, rows: Sequence[Row], *columns: str) -> None:
        with outages():
            await restore(self._writer.blobs, rows, *columns)

    async def _all(self, statement: Any) -> list[Row]:
        # A caller that has received a response must find what was saved before it, even if the
        # response was an error.
        await self._writer.flush()
        with outages():
            async with self._engine.connect() as connection:
                result = await connection.execute(statement)
                names = list(result.keys())
                # A third of the time of dict(row) over mappings.
                return [dict(zip(names, row, strict=True)) for row in result]

    async def take(
        self, row: Row, owner: str | None, now: int, *, status: str = "running", **values: Any
    ) -> int | None:
        """Make ``owner`` the owner of a run, unless the run has changed since its row was read.

        From then on, whatever an earlier owner writes is refused.

        Args:
            row: The row as it was read. It must not have ended.
            owner: The id of the process; None if no process drives the run.
            now: Microseconds since 1970.
            status: The new status.
            values: Other columns to set.

        Returns:
            The run's new epoch; None if someone else has taken or ended the run.
        """
        values |= {"owner": owner, "status": status, "updated_at": now}
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                return await _take(connection, row, values)

    async def take_jobs(
        self, execution_ids: Sequence[str], owner: str, now: int, below_strikes: int
    ) -> list[Row]:
        """Make ``owner`` the owner of those of these jobs that wait, in one statement; return their rows.

        Args:
            execution_ids: The ids of the jobs.
            owner: The id of the process.
            now: Microseconds since 1970.
            below_strikes: Only jobs with fewer strikes.
        """
        waiting = and_(
            executions.c.id.in_(execution_ids),
            executions.c.status == "pending",
            executions.c.trigger == "job",
            executions.c.strikes < below_strikes,
        )
        values = {"owner": owner, "status": "running", "updated_at": now}
        statement = update(executions).where(waiting).values(epoch=executions.c.epoch + 1, **values)
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                taken = await connection.execute(statement.returning(*executions.c))
                return [dict(row) for row in taken.mappings()]

    async def give_back(self, row: Row, owner: str) -> None:
        """Undo a :meth:`take` that failed, because its commit may have succeeded all the same."""
        taken = and_(
            executions.c.id == row["id"],
            executions.c.epoch == row["epoch"] + 1,
            executions.c.status == "running",
            executions.c.owner == owner,
        )
        before = {"status": row["status"], "owner": row["owner"]}
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                await connection.execute(update(executions).where(taken).values(before))

    async def change(self, rows: Sequence[Row], changes: Callable[[Row], Changes]) -> list[str]:
        """Take runs and change them from outside: their drivers' writes are refused from then on.

        Args:
            rows: The rows as they were read.
            changes: Returns the rows to write for the run of a row, such as those that end it.

        Returns:
            The ids of the changed runs. A run that has changed since it was read stays as it is.
        """
        taken: list[Row] = []
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                for row in sorted(rows, key=lambda row: str(row["id"])):
                    epoch = await _take(connection, row, {})
                    if epoch is not None:
                        taken.append({**row, "epoch": epoch})
                rows_to_write = [changes(row) for row in taken]
                await self._writer.offload(rows_to_write)
                await connection.run_sync(self._writer.put, rows_to_write)
        return [str(row["id"]) for row in taken]

    async def taken(self, epochs: Mapping[str, int]) -> list[str]:
        """Return those of these runs, by id, that have a later epoch than the given one.

        Their owners learn of it by their next write, too, but a step can take long.
        """
        found: list[str] = []
        ids = list(epochs)
        for start in range(0, len(ids), 500):
            batch = executions.c.id.in_(ids[start : start + 500])
            with outages():
                async with self._engine.connect() as connection:
                    rows = await connection.execute(
                        select(executions.c.id, executions.c.epoch).where(batch)
                    )
                    found += [row.id for row in rows if row.epoch > epochs[row.id]]
        return found

    async def runs_in(
        self,
        statuses: Sequence[str],
        *,
        before: int | None = None,
        owner: str | None = None,
        trigger: str | None = None,
        among: Collection[str] | None = None,
        limit: int = 100,
    ) -> list[Row]:
        """Return rows of runs in one of ``statuses``, those first that were not written for longest.

        Args:
            statuses: Such as ``"running"``.
            before: Only runs that were last written before this time.
            owner: Only runs of this process.
            trigger: Only runs that were started in this way.
            among: Only runs with these ids.
            limit: The number of rows.
        """
        chosen = select(executions).where(executions.c.status.in_(statuses))
        if before is not None:
            chosen = chosen.where(executions.c.updated_at < before)
        if owner is not None:
            chosen = chosen.where(executions.c.owner == owner)
        if trigger is not None:
            chosen = chosen.where(executions.c.trigger == trigger)
        if among is not None:
            chosen = chosen.where(executions.c.id.in_(list(among)[:limit]))
        return await self._all(chosen.order_by(executions.c.updated_at).limit(limit))


async def _take(connection: AsyncConnection, row: Row, values: Mapping[str, Any]) -> int | None:
    epoch = int(row["epoch"]) + 1
    unchanged = and_(
        executions.c.id == row["id"],
        executions.c.epoch == row["epoch"],
        executions.c.status == row["status"],
        executions.c.status.not_in(ENDED),
    )
    taken = await connection.execute(
        update(executions).where(unchanged).values(epoch=epoch, **values)
    )
    return epoch if taken.rowcount else None
