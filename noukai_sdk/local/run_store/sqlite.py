"""A store of runs in a SQLite file."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .file_locks import FileLocks
from .sql_store import SqlStore
from .storage import RunStoreError

_APPLICATION_ID = 0x6E6B7275
_VERSION = 1
_BUSY_SECONDS = 10.0

_TABLES = f"""
CREATE TABLE engine_runs (
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
CREATE TABLE engine_parts (
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


class RunStore(SqlStore):
    """Runs in a SQLite file, which several processes on one machine may share.

    A commit survives the death of the process. A power cut may lose the last ones, but never damages
    the file. ``FILE-lock`` beside it says which runs are under way.

    Args:
        path: The file. It is created for its owner alone if it does not exist.

    Example:
        >>> store = RunStore("runs.db")
        >>> store.runs()    # doctest: +SKIP
        []
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        if str(path) == ":memory:":
            raise ValueError(
                "a store of runs needs a file: what is in memory ends with the process"
            )
        self.path = Path(path)
        if not self.path.name:
            raise ValueError("the path of a store must name a file, such as runs.db")
        self._guard = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._locks: FileLocks | None = None

    def __repr__(self) -> str:
        return f"RunStore({str(self.path)!r})"

    def try_lock(self, number: int) -> bool:
        """Lock a run; return False if it is locked, by this process or another."""
        assert self._locks is not None  # opened with the connection
        return self._locks.acquire(number)

    def unlock(self, number: int) -> None:
        """Free a run."""
        if self._locks is not None:
            self._locks.release(number)

    def locked(self, numbers: Collection[int]) -> set[int]:
        """Return those of these runs that are locked, by whichever process."""
        locks = self._locks
        return {number for number in numbers if locks is not None and locks.is_held(number)}

    def close(self) -> None:
        """Close the file. The store may be used again afterwards."""
        with self._guard:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def forget(self) -> None:
        """Reset to a closed store that owns no run. For forked children."""
        super().forget()
        self._guard = threading.Lock()
        _abandoned.append(self._connection)
        self._connection, self._locks = None, None

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[sqlite3.Connection]:
        """Return a transaction, which is committed at the end of the block."""
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
            reason = error.strerror or error  # the error itself has the path, as it is
            raise RunStoreError(
                f"the store of runs {self.path} cannot be opened: {reason}"
            ) from None
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


def _number(connection: sqlite3.Connection, statement: str) -> int:
    row: Any = connection.execute(statement).fetchone()
    return int(row[0])
