"""The processes that share the database, and their heartbeats."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

from sqlalchemy import delete, func, select, update

from .database import outages
from .engine import Engine
from .tables import executions, processes
from .writer import Writer


class ProcessStore:
    """The stored processes."""

    def __init__(self, engine: Engine, writer: Writer) -> None:
        self._engine = engine
        self._writer = writer

    async def beat(self, process_id: str, kind: str, name: str, now: int) -> bool:
        """Store that a process is alive; return False if it was not known, or known no more."""
        alive = update(processes).where(processes.c.id == process_id).values(heartbeat_at=now)
        values = {"id": process_id, "kind": kind, "name": name}
        new = self._writer.insert(processes).values(**values, started_at=now, heartbeat_at=now)
        # On Postgres it does not wait for a batch: one of large runs takes long.
        is_sqlite = self._engine.dialect.name == "sqlite"
        lock = self._writer.lock if is_sqlite else nullcontext()
        with outages():
            async with lock, self._engine.begin() as connection:
                if (await connection.execute(alive)).rowcount:
                    return True
                await connection.execute(new.on_conflict_do_nothing())
                return False

    async def heartbeats(self) -> dict[str, int]:
        """Return the last heartbeat of each process."""
        chosen = select(processes.c.id, processes.c.heartbeat_at)
        with outages():
            async with self._engine.connect() as connection:
                return {row.id: row.heartbeat_at for row in await connection.execute(chosen)}

    async def listed(self, org: str | None) -> list[dict[str, Any]]:
        """Return the rows of all processes, the oldest first, each with ``running_jobs``.

        Args:
            org: Count only jobs of this organisation.
        """
        running = (
            select(executions.c.owner, func.count().label("jobs"))
            .where(executions.c.status == "running", executions.c.trigger == "job")
            .group_by(executions.c.owner)
        )
        if org is not None:
            running = running.where(executions.c.org == org)
        ordered = select(processes).order_by(processes.c.started_at, processes.c.id)
        with outages():
            async with self._engine.connect() as connection:
                jobs = {row.owner: row.jobs for row in await connection.execute(running)}
                rows = (await connection.execute(ordered)).mappings()
                return [{**row, "running_jobs": jobs.get(row["id"], 0)} for row in rows]

    async def owners(self) -> set[str]:
        """Return the owners of runs in progress."""
        owners = select(executions.c.owner).where(
            executions.c.status == "running", executions.c.owner.is_not(None)
        )
        with outages():
            async with self._engine.connect() as connection:
                return set((await connection.execute(owners.distinct())).scalars())

    async def owned(self, process_id: str) -> set[str]:
        """Return the ids of the runs in progress that a process owns."""
        chosen = select(executions.c.id).where(
            executions.c.owner == process_id, executions.c.status == "running"
        )
        with outages():
            async with self._engine.connect() as connection:
                return set((await connection.execute(chosen)).scalars())

    async def remove(self, process_id: str) -> None:
        """Delete a process."""
        with outages():
            async with self._writer.lock, self._engine.begin() as connection:
                await connection.execute(delete(processes).where(processes.c.id == process_id))
