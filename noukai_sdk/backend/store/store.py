"""The store: saves runs and finds them again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sqlalchemy import URL, delete, select, update

from .database import Database, open_database
from .outage import outages
from .tables import events, executions, steps
from .writer import Changes, Savable, Saving, Writer

Found = Mapping[str, Any]


class Store:
    """What is kept of every run. Make one with :meth:`open`, and ``aclose`` it."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._engine = database.engine
        self._writer = writer

    @classmethod
    async def open(cls, url: URL, changes: Callable[[Any], Changes]) -> Store:
        """Open the database at ``url``; ``changes`` turns a saved item into rows."""
        database = await open_database(url)
        return cls(database, Writer(database.engine, changes))

    async def aclose(self) -> None:
        """Write what is left, and close the database."""
        await self._writer.aclose()
        await self._database.aclose()

    def require_working(self) -> None:
        """Refuse to begin what could not be stored: raises StoreUnavailableError."""
        self._writer.require_working()

    def save(self, item: Savable) -> Saving:
        """Write ``item`` soon; ``await store.save(item).committed()`` waits for it."""
        return self._writer.save(item)

    async def execution(self, execution_id: str) -> Found | None:
        """The run's row, None where there is none."""
        # Postgres does not even look for a text with a zero character in it.
        if "\0" in execution_id:
            return None
        found = await self._all(select(executions).where(executions.c.id == execution_id))
        return found[0] if found else None

    async def in_session(self, session_id: str) -> Sequence[Found]:
        """The rows of a session's runs, in the order in which they began."""
        return await self._all(
            select(executions)
            .where(executions.c.session_id == session_id)
            .order_by(executions.c.started_at)
        )

    async def steps(self, execution_ids: Sequence[str]) -> dict[str, list[Found]]:
        """The rows of these runs' steps, by run, in the order in which they began."""
        return await self._by_execution(steps, steps.c.number, execution_ids)

    async def events(self, execution_ids: Sequence[str]) -> dict[str, list[Found]]:
        """The rows of these runs' events, by run, in order."""
        return await self._by_execution(events, events.c.first, execution_ids)

    async def _by_execution(
        self, table: Any, order: Any, execution_ids: Sequence[str]
    ) -> dict[str, list[Found]]:
        found: dict[str, list[Found]] = {name: [] for name in execution_ids}
        # A statement takes a limited number of parameters.
        for start in range(0, len(execution_ids), 500):
            some = execution_ids[start : start + 500]
            chosen = select(table).where(table.c.execution_id.in_(some)).order_by(order)
            for row in await self._all(chosen):
                found[row["execution_id"]].append(row)
        return found

    async def _all(self, statement: Any) -> list[Found]:
        # Whoever was answered finds what was saved before, also where the answer was an error.
        await self._writer.settled()
        with outages():
            async with self._engine.connect() as connection:
                result = await connection.execute(statement)
                return [dict(row) for row in result.mappings()]

    async def end_runs(
        self, statuses: Sequence[str], ended: Callable[[Found], Changes], before: int | None = None
    ) -> list[str]:
        """End every run in one of ``statuses``.

        Args:
            statuses: Such as ``"running"``.
            ended: What is to be written for the run of a row.
            before: Only those that were last written before this time.

        Returns:
            Their ids.
        """
        chosen = select(executions).where(executions.c.status.in_(statuses))
        if before is not None:
            chosen = chosen.where(executions.c.updated_at < before)
        # A run that is gone on with at this moment is written after us, and so as it is then.
        async with self._writer.lock, self._engine.begin() as connection:
            rows = [dict(row) for row in (await connection.execute(chosen)).mappings()]
            await self._writer.put(connection, [ended(row) for row in rows])
        return [str(row["id"]) for row in rows]

    async def forget(self, before: int) -> None:
        """Delete what runs that began before ``before`` took and gave. That they were stays."""
        old = select(executions.c.id).where(executions.c.started_at < before).scalar_subquery()
        emptied = {"request": None, "tool_rounds": None, "result": None}
        async with self._writer.lock, self._engine.begin() as connection:
            await connection.execute(delete(steps).where(steps.c.execution_id.in_(old)))
            await connection.execute(delete(events).where(events.c.execution_id.in_(old)))
            await connection.execute(
                update(executions).where(executions.c.started_at < before).values(emptied)
            )
