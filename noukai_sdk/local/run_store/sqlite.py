"""A store of runs in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ...errors import RunNotFoundError
from .file_locks import FileLocks
from .storage import (
    Part,
    RunExistsError,
    RunInfo,
    RunInProgressError,
    RunStatus,
    RunStoreError,
    StoredRun,
)

_APPLICATION_ID = 0x6E6B7275
_VERSION = 1
_BUSY_SECONDS = 10.0

_TABLES = f"""
CREATE TABLE runs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    workflow TEXT NOT NULL,
    shape TEXT NOT NULL,
    inputs TEXT NOT NULL,
    status TEXT NOT NULL,
    position TEXT,
    error TEXT,
    started_at REAL NOT NULL,
    updated_at REAL NOT NULL
);
CREATE TABLE parts (
    run INTEGER NOT NULL,
    path TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (run, path, name)
) WITHOUT ROWID;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_VERSION};
"""

# Connections of the parent process in a forked child. To close one could harm the parent's.
_abandoned: list[sqlite3.Connection | None] = []


_stores: weakref.WeakSet[RunStore] = weakref.WeakSet()


class RunStore:
    """Runs in a SQLite file, which several processes on one machine may share.

    A commit survives the death of the process. A power cut may take the last ones with it, but never breaks
    the file. ``FILE-lock`` beside it says which runs are under way.

    Args:
        path: The file. It is created for its owner alone if it does not exist.

    Example:
        >>> store = RunStore("runs.db")
        >>> store.runs()    # doctest: +SKIP
        []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._locks: FileLocks | None = None
        self._numbers: dict[str, int] = {}
        _stores.add(self)

    def __repr__(self) -> str:
        return f"RunStore({str(self.path)!r})"

    def begin(self, run: StoredRun) -> None:
        """Store a new run, and own it."""
        now = time.time()
        values = (run.id, run.workflow, run.shape, run.inputs, run.status, now, now)
        try:
            with self._transaction() as connection:
                cursor = connection.execute(
                    "INSERT OR IGNORE INTO runs"
                    " (id, workflow, shape, inputs, status, started_at, updated_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?)",
                    values,
                )
                if cursor.rowcount == 0:
                    raise RunExistsError(run.id)
                # Before the commit: nobody sees a run that seems to have lost its owner.
                self._own(run.id, int(cursor.lastrowid or 0))
        except RunExistsError:
            raise
        except BaseException:
            self._give_up(run.id)
            raise

    def take(self, run_id: str) -> tuple[StoredRun, list[Part]]:
        """Own a run, and return it with its parts."""
        number = self._number_of(run_id)
        self._own(run_id, number)
        try:
            with self._transaction() as connection:
                # Read again as its owner: it may have changed in between.
                row = connection.execute(
                    "SELECT id, workflow, shape, inputs, status, position, error, started_at, updated_at"
                    " FROM runs WHERE number = ?",
                    (number,),
                ).fetchone()
                if row is None:
                    raise _unknown(run_id)
                rows = connection.execute(
                    "SELECT path, name, value FROM parts WHERE run = ?", (number,)
                ).fetchall()
                connection.execute(
                    "UPDATE runs SET status = 'running', updated_at = ? WHERE number = ?",
                    (time.time(), number),
                )
            return StoredRun(*row), [Part(*part) for part in rows]
        except BaseException:
            self._give_up(run_id)
            raise

    def write(self, run_id: str, parts: Sequence[Part], drop: Sequence[str]) -> None:
        """Store parts of an own run, and delete those of the paths in ``drop``."""
        number = self._numbers[run_id]
        with self._transaction() as connection:
            _put(connection, number, parts)
            connection.executemany(
                "DELETE FROM parts WHERE run = ? AND path = ?", [(number, path) for path in drop]
            )

    def rewrite(self, run: StoredRun, parts: Sequence[Part]) -> None:
        """Replace everything of an own run."""
        number = self._numbers[run.id]
        with self._transaction() as connection:
            connection.execute(
                "UPDATE runs SET shape = ?, inputs = ?, position = ? WHERE number = ?",
                (run.shape, run.inputs, run.position, number),
            )
            connection.execute("DELETE FROM parts WHERE run = ?", (number,))
            _put(connection, number, parts)

    def end(
        self, run_id: str, status: RunStatus, *, position: str | None, error: str | None
    ) -> None:
        """Store how an own run has stopped, and give it up."""
        try:
            with self._transaction() as connection:
                connection.execute(
                    "UPDATE runs SET status = ?, position = ?, error = ?, updated_at = ?"
                    " WHERE number = ?",
                    (status, position, error, time.time(), self._numbers[run_id]),
                )
        finally:
            self._give_up(run_id)

    def runs(self) -> list[RunInfo]:
        """Return all runs, the latest first."""
        with self._transaction(write=False) as connection:
            rows = connection.execute(
                "SELECT number, id, workflow, status, started_at, updated_at, error FROM runs"
                " ORDER BY number DESC"
            ).fetchall()
            locks = self._locks
        return [
            RunInfo(
                run_id=run_id,
                workflow=workflow,
                state="interrupted"
                if status == "running" and locks is not None and not locks.is_held(number)
                else status,
                started_at=datetime.fromtimestamp(started_at, timezone.utc),
                updated_at=datetime.fromtimestamp(updated_at, timezone.utc),
                error=error,
            )
            for number, run_id, workflow, status, started_at, updated_at, error in rows
        ]

    def delete(self, run_id: str) -> None:
        """Delete a run that is not under way.

        Raises:
            RunNotFoundError: There is no such run.
            RunInProgressError: It is under way.
        """
        number = self._number_of(run_id)
        self._own(run_id, number)
        try:
            with self._transaction() as connection:
                connection.execute("DELETE FROM parts WHERE run = ?", (number,))
                connection.execute("DELETE FROM runs WHERE number = ?", (number,))
        finally:
            self._give_up(run_id)

    def close(self) -> None:
        """Close the file. The store may be used again afterwards."""
        with self._guard:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def forget(self) -> None:
        """Reset to a closed store that owns no run. For forked children."""
        self._guard = threading.Lock()
        _abandoned.append(self._connection)
        self._connection, self._locks, self._numbers = None, None, {}

    def _number_of(self, run_id: str) -> int:
        with self._transaction(write=False) as connection:
            row = connection.execute("SELECT number FROM runs WHERE id = ?", (run_id,)).fetchone()
        if row is None:
            raise _unknown(run_id)
        return int(row[0])

    def _own(self, run_id: str, number: int) -> None:
        assert self._locks is not None  # opened with the connection
        for _ in range(3):
            if self._locks.acquire(number):
                self._numbers[run_id] = number
                return
            time.sleep(0.01)  # who lists the runs holds a lock for an instant
        raise RunInProgressError(run_id)

    def _give_up(self, run_id: str) -> None:
        number = self._numbers.pop(run_id, None)
        if number is not None and self._locks is not None:
            self._locks.release(number)

    @contextmanager
    def _transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        with self._guard:
            try:
                connection = self._opened()
                # Writers wait here for each other, and never in the middle.
                connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
                try:
                    yield connection
                except BaseException:
                    with suppress(sqlite3.Error):  # some errors have ended it already
                        connection.execute("ROLLBACK")
                    raise
                connection.execute("COMMIT")
            except sqlite3.Error as error:
                with suppress(sqlite3.Error):
                    if self._connection is not None and self._connection.in_transaction:
                        self._connection.execute("ROLLBACK")
                raise RunStoreError(
                    f"the store of runs {self.path} cannot be used: {error}"
                ) from error

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            self._connection = self._open()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        try:
            # Private from its first moment on. To open and close a file in use would free its locks.
            with suppress(FileExistsError):
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
            self._locks = FileLocks.of(self.path.with_name(self.path.name + "-lock"))
        except OSError as error:
            raise RunStoreError(
                f"the store of runs {self.path} cannot be opened: {error}"
            ) from error
        connection = sqlite3.connect(
            self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            self._prepare(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # In a transaction, because another process may make the tables meanwhile.
        connection.execute("BEGIN")
        is_ours = self._is_ours(connection)
        connection.execute("COMMIT")
        if not is_ours:
            connection.execute("BEGIN IMMEDIATE")
            try:
                if not self._is_ours(connection):  # another process may have been faster
                    for statement in _TABLES.strip().split(";\n"):
                        connection.execute(statement)
                connection.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
        deadline = time.monotonic() + _BUSY_SECONDS
        while True:
            try:
                connection.execute("PRAGMA journal_mode = WAL")
                break
            except sqlite3.OperationalError:  # it does not wait for others that do the same
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
        connection.execute("PRAGMA synchronous = NORMAL")

    def _is_ours(self, connection: sqlite3.Connection) -> bool:
        """Return False if the file is empty; raise RunStoreError if it is of another program."""
        application = _number(connection, "PRAGMA application_id")
        if application == _APPLICATION_ID:
            version = _number(connection, "PRAGMA user_version")
            if version > _VERSION:
                message = (
                    f"{self.path} was written by a newer version of noukai-sdk: install that one"
                )
                raise RunStoreError(message)
            return True
        if application or _number(connection, "SELECT count(*) FROM sqlite_master"):
            message = (
                f"{self.path} is a database of another program: name another file as the store"
            )
            raise RunStoreError(message)
        return False


def _put(connection: sqlite3.Connection, number: int, parts: Sequence[Part]) -> None:
    connection.executemany(
        "INSERT OR REPLACE INTO parts (run, path, name, value) VALUES (?, ?, ?, ?)",
        [(number, *part) for part in parts],
    )


def _number(connection: sqlite3.Connection, statement: str) -> int:
    row: Any = connection.execute(statement).fetchone()
    return int(row[0])


def _unknown(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(f"there is no run {run_id!r} in this store: executor.runs() lists them")


def _forget_all() -> None:
    for store in list(_stores):
        store.forget()


# Windows cannot fork and lacks the function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_forget_all)
