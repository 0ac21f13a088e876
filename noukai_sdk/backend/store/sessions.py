"""What is stored of sessions besides their runs: request and response, outcomes, boundaries, reports, pins.

``org`` is always the organisation of the API key, None if the key may use every one. A key with an
organisation reads and writes the rows of that organisation alone. What a key for all of them stores belongs
to the organisations of the session's runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
    update,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from .blobs import mark_deleted
from .database import outages
from .engine import Engine
from .tables import (
    ALL,
    belongs_to,
    boundaries,
    events,
    exchanges,
    executions,
    outcomes,
    replays,
    sessions,
    steps,
)
from .writer import Writer

# Postgres keeps the lock until the transaction ends.
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:session_id, 0))")

# Microseconds after the last report of a replay in which its sender may still add to it.
_LONGEST_REPLAY = 3600 * 1_000_000

MAX_REPLAYS = 100
"""The number of replay reports that are kept of a session."""


@dataclass(frozen=True)
class SessionState:
    """What a key may know of a session before it reads anything of it.

    Attributes:
        is_known: Something that belongs to the key's organisations is stored under this id.
        last_start: When the last run with data began; without such runs, when the session was first
            stored. None if nothing is stored but replay reports, or if the data is deleted.
        is_deleted: The session has no runs, and its data was deleted after the retention.
        is_pinned: The data is kept beyond the retention.
    """

    is_known: bool
    last_start: int | None
    is_deleted: bool
    is_pinned: bool


def is_kept(session_id: ColumnElement[Any], org: ColumnElement[Any]) -> ColumnElement[bool]:
    """Return the condition that a row with these columns belongs to a pinned session."""
    pin = sessions.alias()
    of_org = or_(pin.c.org == ALL, pin.c.org == org, org == ALL)
    return exists().where(pin.c.session_id == session_id, pin.c.pinned, of_org)


class SessionStore:
    """The stored sessions. It belongs to a :class:`~noukai_sdk.backend.store.store.Store`."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    @asynccontextmanager
    async def _reading(self) -> AsyncIterator[AsyncConnection]:
        await self._writer.flush()
        with outages():
            async with self._engine.connect() as connection:
                yield connection

    @asynccontextmanager
    async def _writing(self, session_id: str) -> AsyncIterator[AsyncConnection]:
        # Reading and writing are one step. On SQLite there is no other process.
        await self._writer.flush()
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                if connection.dialect.name == "postgresql":
                    await connection.execute(_LOCK, {"session_id": session_id})
                yield connection

    async def state(self, session_id: str, org: str | None) -> SessionState:
        """Return what a key may know of a session."""
        starts = select(executions.c.org, func.max(executions.c.started_at).label("last"))
        has_data = and_(executions.c.session_id == session_id, executions.c.has_data)
        chosen = starts.where(has_data).group_by(executions.c.org)
        async with self._reading() as connection:
            rows = (await connection.execute(_of(sessions, session_id, None))).all()
            last_runs = {row.org: row.last for row in await connection.execute(chosen)}
            # Reports alone are nobody's session: another organisation may use the id.
            report = await connection.execute(_of(replays.c.org, session_id, org).limit(1))
            orgs = {*last_runs, *report.scalars(), *(row.org for row in rows)}
        visible = [row for row in rows if org is None or row.org == org]
        runs = [last for name, last in last_runs.items() if org is None or name == org]
        stored = [row.started_at for row in visible if row.started_at is not None]
        return SessionState(
            is_known=bool(orgs) if org is None else org in orgs,
            last_start=max(runs, default=min(stored, default=None)),
            is_deleted=bool(visible) and not runs and not stored,
            is_pinned=any(row.pinned for row in rows if org is None or row.org in (org, ALL)),
        )

    async def exchange(self, session_id: str, org: str | None) -> str | None:
        """Return the stored request and response of a session, as JSON."""
        rows = await self._read(exchanges, session_id, org)
        return rows[0]["body"] if rows else None

    async def client_left(self, session_id: str, org: str | None) -> bool:
        """Return whether the client of the stored request left before the end of the response."""
        mine = _mine(exchanges, session_id, org)
        query = select(exchanges.c.session_id).where(mine, exchanges.c.client_left)
        async with self._reading() as connection:
            return (await connection.execute(query)).first() is not None

    async def put_exchange(
        self, session_id: str, org: str | None, values: dict[str, Any], now: int
    ) -> bool:
        """Store the request and response of a session; return False if others are stored already."""
        async with self._writing(session_id) as connection:
            stored = (await connection.execute(_of(exchanges, session_id, org))).first()
            if stored is not None:
                return bool(stored.body == values["body"])
            await self._insert(connection, exchanges, session_id, org, {**values, "stored_at": now})
            return True

    async def outcomes(self, session_id: str, org: str | None) -> list[dict[str, Any]]:
        """Return the rows of a session's outcomes, oldest first."""
        return await self._read(outcomes, session_id, org)

    async def put_outcomes(
        self, session_id: str, org: str | None, values: dict[str, Any] | None, now: int
    ) -> None:
        """Replace the outcomes of a session's calls; None leaves none.

        Values without ``body`` change rows that are stored.
        """
        async with self._writing(session_id) as connection:
            mine = _mine(outcomes, session_id, org)
            if values is not None and "body" not in values:
                changed = await connection.execute(update(outcomes).where(mine).values(values))
                if changed.rowcount:
                    return
                values = {"body": "[]", "failed": False, "flows": "", **values}
            await connection.execute(delete(outcomes).where(mine))
            if values is not None:
                row = {**values, "stored_at": now}
                await self._insert(connection, outcomes, session_id, org, row)
            else:
                await _delete_empty(connection, session_id)

    async def boundaries(self, session_id: str, org: str | None) -> list[dict[str, Any]]:
        """Return the rows of the calls of a session's recorded functions, oldest first."""
        return await self._read(boundaries, session_id, org)

    async def put_boundaries(
        self, session_id: str, org: str | None, values: dict[str, Any] | None, now: int
    ) -> None:
        """Replace the calls of a session's recorded functions; None leaves none."""
        async with self._writing(session_id) as connection:
            await connection.execute(delete(boundaries).where(_mine(boundaries, session_id, org)))
            if values is not None:
                row = {**values, "stored_at": now}
                await self._insert(connection, boundaries, session_id, org, row)
            else:
                await _delete_empty(connection, session_id)

    async def replays(
        self, session_id: str, org: str | None, limit: int = MAX_REPLAYS
    ) -> list[str]:
        """Return the reports of a session's replays as JSON, newest first."""
        mine = _mine(replays, session_id, org)
        # A key for all organisations may have stored one report for each of several.
        newest = func.max(replays.c.stored_at)
        ids = select(replays.c.replay_id).where(mine).group_by(replays.c.replay_id)
        shown = ids.order_by(newest.desc(), replays.c.replay_id.desc()).limit(limit)
        async with self._reading() as connection:
            order = list((await connection.execute(shown)).scalars())
            bodies = select(replays.c.replay_id, replays.c.body).where(
                mine, replays.c.replay_id.in_(order)
            )
            found = {row.replay_id: row.body for row in await connection.execute(bodies)}
        return [found[each] for each in order if each in found]

    async def replay(self, replay_id: str, org: str | None) -> tuple[str, str] | None:
        """Return the session and the report of a replay, as JSON; None if the id is unknown."""
        mine = and_(replays.c.replay_id == replay_id, belongs_to(replays, org))
        newest = select(replays).where(mine).order_by(replays.c.stored_at.desc()).limit(1)
        async with self._reading() as connection:
            row = (await connection.execute(newest)).first()
        return None if row is None else (row.session_id, row.body)

    async def put_replay(
        self,
        session_id: str,
        org: str | None,
        replay_id: str,
        merge: Callable[[str | None], dict[str, Any]],
        now: int,
    ) -> None:
        """Store the report of a replay; delete the oldest ones beyond ``MAX_REPLAYS``.

        Args:
            session_id: The session that was replayed.
            org: The organisation of the key.
            replay_id: The id of the report.
            merge: Returns the columns to store, from the body that is stored.
            now: The time, in microseconds since 1970.
        """
        async with self._writing(session_id) as connection:
            same = and_(_mine(replays, session_id, org), replays.c.replay_id == replay_id)
            stored = (
                (await connection.execute(select(replays.c.body).where(same))).scalars().first()
            )
            await connection.execute(delete(replays).where(same))
            row = {"replay_id": replay_id, "stored_at": now, **merge(stored)}
            # Reports alone make no session: they can be about one of another service.
            for owner in await self._insert(
                connection, replays, session_id, org, row, in_list=False
            ):
                of_owner = _mine(replays, session_id, owner)
                newest = select(replays.c.stored_at).where(of_owner)
                first = newest.order_by(replays.c.stored_at.desc()).offset(MAX_REPLAYS - 1).limit(1)
                oldest = replays.c.stored_at < first.scalar_subquery()
                await connection.execute(delete(replays).where(of_owner, oldest))

    async def end_replays(
        self, process_id: str, end: Callable[[str], dict[str, Any] | None], now: int
    ) -> None:
        """Store the end of the replays that a dead process has sent.

        Args:
            process_id: The process.
            end: Returns the columns to store, from the body that is stored; None to leave it.
            now: The time, in microseconds since 1970.
        """
        key = (replays.c.session_id, replays.c.org, replays.c.replay_id)
        # The app may have finished its report, and the process have died before it has added its own.
        unfinished = (replays.c.verdict == "running", replays.c.stored_at > now - _LONGEST_REPLAY)
        is_sent = replays.c.body.contains(process_id, autoescape=True)
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                for condition in unfinished:
                    # The bodies of the others are not read.
                    chosen = tuple_(*key).in_(select(*key).where(condition))
                    found = select(*key, replays.c.body).where(chosen, is_sent)
                    for row in (await connection.execute(found)).all():
                        values = end(row.body)
                        if values is not None:
                            same = tuple_(*key) == tuple_(*row[:3])
                            await connection.execute(update(replays).where(same).values(values))

    async def pin(self, session_id: str, org: str | None, pinned: bool) -> None:
        """Keep the data of a session beyond the retention, or do so no longer."""
        mine = _mine(sessions, session_id, ALL if org is None and pinned else org)
        async with self._writing(session_id) as connection:
            await connection.execute(update(sessions).where(mine).values(pinned=pinned))

    async def delete(self, session_id: str, org: str | None) -> str | None:
        """Delete the runs of a session and everything else that is stored of it.

        Returns:
            The id of a run in progress; nothing is deleted then.
        """
        mine = _mine(executions, session_id, org)
        runs = select(executions.c.id).where(mine).scalar_subquery()
        states = select(executions.c.id, executions.c.status).where(mine).order_by(executions.c.id)
        async with self._writing(session_id) as connection:
            for row in await connection.execute(states.with_for_update()):
                if row.status in ("pending", "running"):
                    return str(row.id)
            await mark_deleted(connection, self._writer, mine)
            for table in (steps, events):
                await connection.execute(delete(table).where(table.c.execution_id.in_(runs)))
            for table in (executions, boundaries, exchanges, outcomes, replays, sessions):
                await connection.execute(delete(table).where(_mine(table, session_id, org)))
            await _delete_empty(connection, session_id)
        return None

    async def _read(self, table: Table, session_id: str, org: str | None) -> list[dict[str, Any]]:
        chosen = _of(table, session_id, org).order_by(table.c.stored_at, table.c.org)
        async with self._reading() as connection:
            return [dict(row) for row in (await connection.execute(chosen)).mappings()]

    async def _insert(
        self,
        connection: AsyncConnection,
        table: Table,
        session_id: str,
        org: str | None,
        values: dict[str, Any],
        *,
        in_list: bool = True,
    ) -> Sequence[str]:
        """Insert a row for each organisation that owns it; return the organisations."""
        owners: Sequence[str] = [org] if org is not None else []
        if org is None:
            of_session = select(executions.c.org).where(executions.c.session_id == session_id)
            owners = (await connection.execute(of_session.distinct())).scalars().all() or [ALL]
        rows = [{"session_id": session_id, "org": owner, **values} for owner in owners]
        statement = self._writer.insert(table)
        keys = [column.name for column in table.primary_key]
        new = {name: statement.excluded[name] for name in rows[0] if name not in keys}
        await connection.execute(
            statement.on_conflict_do_update(index_elements=keys, set_=new), rows
        )
        if in_list:
            listed = self._writer.insert(sessions).on_conflict_do_nothing()
            columns = {
                "session_id": session_id,
                "started_at": values["stored_at"],
                "pinned": False,
            }
            await connection.execute(listed, [{**columns, "org": o} for o in {*owners, ALL}])
        return owners


def _of(chosen: Table | Column[Any], session_id: str, org: str | None) -> Any:
    table = chosen if isinstance(chosen, Table) else chosen.table
    return select(chosen).where(_mine(table, session_id, org))


def _mine(table: Table, session_id: str, org: str | None) -> ColumnElement[bool]:
    """Return the condition that a row is of a session, and that the key may use it."""
    return and_(table.c.session_id == session_id, belongs_to(table, org))


async def _delete_empty(connection: AsyncConnection, session_id: str) -> None:
    """Delete the rows in ``sessions`` of organisations of which nothing else is stored."""

    def nothing_in(table: Table) -> ColumnElement[bool]:
        of_org = or_(sessions.c.org == ALL, table.c.org == sessions.c.org)
        return ~exists().where(table.c.session_id == session_id, of_org)

    # Locked first: the next statement sees what another process has stored until then.
    of_session = select(sessions.c.org).where(sessions.c.session_id == session_id)
    await connection.execute(of_session.order_by(sessions.c.org).with_for_update())
    empty = [nothing_in(table) for table in (executions, boundaries, exchanges, outcomes)]
    await connection.execute(delete(sessions).where(sessions.c.session_id == session_id, *empty))
