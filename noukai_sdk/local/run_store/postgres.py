"""A store of runs in Postgres, for processes on several machines."""

from __future__ import annotations

import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from .sql_store import SqlStore, Statements
from .storage import RunStoreError

_LOCKS = 0x6E6B7275
"""The class of our advisory locks."""

_TABLES = (
    """
    CREATE TABLE IF NOT EXISTS engine_runs (
        number INTEGER PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
        id TEXT NOT NULL UNIQUE,
        workflow TEXT NOT NULL,
        shape TEXT NOT NULL,
        inputs TEXT NOT NULL,
        status TEXT NOT NULL,
        position TEXT,
        error TEXT,
        started_at DOUBLE PRECISION NOT NULL,
        updated_at DOUBLE PRECISION NOT NULL
    )
    """,
    """
    CREATE TABLE IF NOT EXISTS engine_parts (
        run INTEGER NOT NULL,
        path TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (run, path, name)
    )
    """,
)
_OPTIONS: dict[str, Any] = {
    "autocommit": True,
    "connect_timeout": 10,
    # A network that drops packets ends no wait by an error of its own.
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "options": "-c lock_timeout=10s -c statement_timeout=30s",
}

# Connections of the parent process in a forked child. To close one would close the parent's.
_abandoned: list[Any] = []


class PostgresRunStore(SqlStore):
    """Runs in a Postgres database, in tables of their own; the database of ``noukai serve`` works too.

    One connection does everything. It holds the locks of the runs in progress, so they end with it, and
    a process that has lost it cannot write any more. Do not use a pooler that gives each transaction a
    connection of its own, as PgBouncer may.

    Args:
        url: Such as ``postgresql://user@host/database``; needs the extra ``postgres``.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        # The service's form names a driver.
        self._url = re.sub(r"^(postgres(?:ql)?)\+\w+:", r"\1:", url)
        # Reentrant: a run is locked in the transaction that begins it.
        self._guard = threading.RLock()
        self._connection: Any = None

    def __repr__(self) -> str:
        return "PostgresRunStore(...)"

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Statements]:
        """Return a transaction, which is committed at the end of the block."""
        with self._guard:
            psycopg = _psycopg()
            try:
                connection = self._opened(psycopg)
                with connection.transaction():
                    yield _Statements(connection)
            except (psycopg.Error, OSError) as error:
                message = f"the store of runs in Postgres cannot be used: {error}"
                raise RunStoreError(message) from error

    def _opened(self, psycopg: Any) -> Any:
        if self._connection is not None and self._connection.closed:
            # Its locks are gone, and the runs are not ours any more.
            self._connection, self._numbers = None, {}
        if self._connection is None:
            connection = psycopg.connect(self._url, **_OPTIONS)
            try:
                with connection.transaction():
                    connection.execute("SELECT pg_advisory_xact_lock(%s, 0)", (_LOCKS,))
                    for table in _TABLES:
                        connection.execute(table)
            except BaseException:
                connection.close()
                raise
            self._connection = connection
        return self._connection

    def try_lock(self, number: int) -> bool:
        """Lock a run; return False if it is locked, by this process or another."""
        if number in self._numbers.values():  # the connection could lock it twice
            return False
        return bool(self._ask("SELECT pg_try_advisory_lock(?, ?)", number))

    def unlock(self, number: int) -> None:
        """Free a run."""
        with suppress(RunStoreError):  # then the connection is lost, and the lock with it
            self._ask("SELECT pg_advisory_unlock(?, ?)", number)

    def _ask(self, statement: str, number: int) -> Any:
        with self.transaction() as statements:
            return statements.execute(statement, (_LOCKS, number)).fetchone()[0]

    def locked(self, numbers: Collection[int]) -> set[int]:
        """Return those of these runs that are locked, by whichever process."""
        with self.transaction(write=False) as statements:
            rows = statements.execute(
                "SELECT objid FROM pg_locks WHERE locktype = 'advisory' AND classid = ?"
                " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())",
                (_LOCKS,),
            ).fetchall()
        return {int(row[0]) for row in rows} & set(numbers)

    def close(self) -> None:
        """Close the connection, unless runs are under way. The store may be used again afterwards."""
        with self._guard:
            if self._connection is not None and not self._numbers:
                self._connection.close()
                self._connection = None

    def forget(self) -> None:
        """Reset to a closed store that owns no run. For forked children."""
        super().forget()
        self._guard = threading.RLock()
        _abandoned.append(self._connection)
        self._connection = None


class _Statements:
    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = ()) -> Any:
        return self._connection.execute(statement.replace("?", "%s"), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> Any:
        with self._connection.cursor() as cursor:
            cursor.executemany(statement.replace("?", "%s"), rows)


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        message = "a store of runs in Postgres needs psycopg: pip install 'psycopg[binary]'"
        raise RunStoreError(message) from error
    return psycopg
