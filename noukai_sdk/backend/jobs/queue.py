"""The durable queue of jobs, on DBOS. Importing this module imports DBOS, which takes a second.

The queue is in the schema ``dbos`` of a Postgres database, and in a file of its own beside a SQLite one,
so that neither waits for the other's lock. It says only which jobs are to be run: what a job is, and how
far it got, is in its row in ``executions``. So an entry too many does no harm, and a lost one is put in
again.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from dbos import DBOSClient
from sqlalchemy import URL, Engine, create_engine, event

APPLICATION = "noukai"
QUEUE = "noukai-jobs"
WORKFLOW = "noukai_job"
VERSION = "1"
"""DBOS runs entries of its own version only. Our rows outlive versions, so it is constant."""

# Entries that DBOS will run, or runs.
_WAITING = ("ENQUEUED", "DELAYED", "PENDING")
_FORGET_AT_ONCE = 1000
_FORGET_BATCHES = 10

# Our own log says that the database is away; DBOS would say so twenty times a second.
logging.getLogger("dbos").setLevel(logging.CRITICAL)


def engine_of(database: URL, connections: int) -> Engine:
    """Return an engine for the queue of the database at ``database``."""
    if database.get_backend_name() == "postgresql":
        query = dict(database.query)
        if "ssl" in query:  # asyncpg's name of psycopg's option
            query["sslmode"] = query.pop("ssl")
        url = database.set(drivername="postgresql+psycopg", query=query)
        return create_engine(
            url,
            pool_size=connections,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5},
        )
    file = Path(str(database.database)).with_suffix(".jobs.db")
    # Not readable for others, like the database: it has ids of runs.
    os.close(os.open(file, os.O_RDWR | os.O_CREAT, 0o600))
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
    engine = create_engine(URL.create("sqlite", database=str(file)), pool_size=connections)
    event.listen(engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    # As DBOS sets up connections of its own, but for synchronous: a power cut may lose the last commits.
    connection.isolation_level = "IMMEDIATE"
    for pragma in ("busy_timeout=30000", "foreign_keys=ON", "synchronous=NORMAL"):
        connection.execute(f"PRAGMA {pragma}")


class JobQueue:
    """The queue, for processes that put jobs into it. All methods block: call them in threads."""

    def __init__(self, database: URL) -> None:
        self._engine = engine_of(database, 2)
        try:
            self._client = DBOSClient(
                system_database_engine=self._engine, application_name=APPLICATION
            )
            # A web process may be the first that opens the database. DBOS has no public method for this.
            self._client._sys_db.run_migrations()
        except BaseException:
            self._engine.dispose()
            raise

    def put(self, jobs: Sequence[tuple[str, str]]) -> None:
        """Put jobs into the queue; do nothing for an entry that exists, whether it is done or not.

        Args:
            jobs: The id of each entry, and of its run.
        """
        with self._engine.begin() as connection:
            for entry_id, execution_id in jobs:
                self._client.enqueue_in_transaction(
                    connection,
                    {
                        "workflow_name": WORKFLOW,
                        "queue_name": QUEUE,
                        "workflow_id": entry_id,
                        "app_version": VERSION,
                    },
                    execution_id,
                )

    def lost(
        self, jobs: Sequence[tuple[str, int]], process_id: str, running: Collection[str]
    ) -> dict[str, tuple[str, bool]]:
        """Find those jobs that nothing waits for.

        Args:
            jobs: The id of each run that waits, and its epoch.
            process_id: This process.
            running: The runs of the entries that are in progress in this process.

        Returns:
            By run, the id of the entry to put in, and whether it exists: this process has taken it, and
            does not know of it, because the connection broke at that moment.
        """
        ids = {run_id: (run_id, f"{run_id}:{epoch}") for run_id, epoch in jobs}
        names = [name for pair in ids.values() for name in pair]
        entries = self._client.list_workflows(
            workflow_ids=names, load_input=False, load_output=False
        )
        found = {entry.workflow_id: entry for entry in entries}
        lost: dict[str, tuple[str, bool]] = {}
        for run_id, pair in ids.items():
            waiting = [found[name] for name in pair if name in found]
            waiting = [entry for entry in waiting if entry.status in _WAITING]
            forgotten = [
                entry.workflow_id
                for entry in waiting
                if entry.status == "PENDING" and entry.executor_id == process_id
            ]
            # An entry that is done stays done: the job gets another one.
            new = next((name for name in pair if name not in found), None)
            if waiting and len(waiting) == len(forgotten) and run_id not in running:
                lost[run_id] = (forgotten[0], True)
            elif not waiting and new is not None:
                lost[run_id] = (new, False)
        return lost

    def put_again(self, lost: Mapping[str, tuple[str, bool]], process_id: str) -> None:
        """Put jobs into the queue that :meth:`lost` has found."""
        for entry_id in [entry_id for entry_id, exists in lost.values() if exists]:
            self._client._sys_db.reenqueue_for_recovery(entry_id, [process_id], QUEUE)
        self.put([(entry_id, run_id) for run_id, (entry_id, exists) in lost.items() if not exists])

    def executors(self) -> set[str]:
        """Return the processes that have begun entries which are not done."""
        entries = self._client.list_workflows(
            status="PENDING", load_input=False, load_output=False, queue_name=QUEUE
        )
        return {entry.executor_id for entry in entries if entry.executor_id}

    def forget(self, before: float) -> None:
        """Delete entries that were done before this time, in seconds since 1970, up to some number."""
        time = datetime.fromtimestamp(before, timezone.utc).isoformat()
        for _ in range(_FORGET_BATCHES):
            done = self._client.list_workflows(
                status=["SUCCESS", "ERROR", "CANCELLED"],
                queue_name=QUEUE,
                completed_before=time,
                limit=_FORGET_AT_ONCE,
                load_input=False,
                load_output=False,
            )
            if done:
                self._client.delete_workflows([entry.workflow_id for entry in done])
            if len(done) < _FORGET_AT_ONCE:
                break

    def close(self) -> None:
        """Close the connections."""
        self._client.destroy()
        self._engine.dispose()
