"""What the stores in SQL databases share: their statements, and who owns a run."""

from __future__ import annotations

import os
import time
import weakref
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime, timezone
from typing import Any, Protocol

from ...errors import RunNotFoundError
from ..runtime.hidden_keys import shown
from .storage import (
    Part,
    RunExistsError,
    RunInfo,
    RunInProgressError,
    RunStatus,
    RunStoreError,
    StoredRun,
)


class Statements(Protocol):
    """A transaction. Values stand in statements as ``?``."""

    def execute(self, statement: str, values: Sequence[Any] = ..., /) -> Any:
        """Execute a statement, and return its cursor."""
        ...

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> Any:
        """Execute a statement for each row."""
        ...


class SqlStore:
    """A store in two tables, ``engine_runs`` and ``engine_parts``. A run has a number, and a lock of it."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        _stores.add(self)

    def transaction(self, *, write: bool = True) -> AbstractContextManager[Statements]:
        """Return a transaction, which is committed at the end of the block."""
        raise NotImplementedError

    def try_lock(self, number: int) -> bool:
        """Lock a run; return False if it is locked, by this process or another."""
        raise NotImplementedError

    def unlock(self, number: int) -> None:
        """Free a run. Do nothing if this store has not locked it."""
        raise NotImplementedError

    def locked(self, numbers: Collection[int]) -> set[int]:
        """Return those of these runs that are locked, by whichever process."""
        raise NotImplementedError

    def close(self) -> None:
        """Release files and connections. The store may be used again afterwards."""
        raise NotImplementedError

    def forget(self) -> None:
        """Reset to a closed store that owns no run. For forked children."""
        self._numbers = {}

    def begin(self, run: StoredRun) -> None:
        """Store a new run, and own it."""
        now = time.time()
        values = (run.id, run.workflow, run.shape, run.inputs, run.status, now, now)
        try:
            with self.transaction() as statements:
                cursor = statements.execute(
                    "INSERT INTO engine_runs"
                    " (id, workflow, shape, inputs, status, started_at, updated_at)"
                    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING",
                    values,
                )
                if cursor.rowcount == 0:
                    raise RunExistsError(run.id)
                row = statements.execute(
                    "SELECT number FROM engine_runs WHERE id = ?", (run.id,)
                ).fetchone()
                # Before the commit: nobody sees a run that seems to have lost its owner.
                self._own(run.id, int(row[0]))
        except RunExistsError:
            raise
        except BaseException:
            self._give_up(run.id)
            raise

    def take(self, run_id: str) -> tuple[StoredRun, list[Part]]:
        """Own a run, and return it with its parts."""
        number = self._find(run_id)
        self._own(run_id, number)
        try:
            with self.transaction() as statements:
                # Read again as its owner: it may have changed in between.
                row = statements.execute(
                    "SELECT id, workflow, shape, inputs, status, position, error, started_at, updated_at"
                    " FROM engine_runs WHERE number = ?",
                    (number,),
                ).fetchone()
                if row is None:
                    raise _unknown(run_id)
                rows = statements.execute(
                    "SELECT path, name, value FROM engine_parts WHERE run = ?", (number,)
                ).fetchall()
                statements.execute(
                    "UPDATE engine_runs SET status = 'running', updated_at = ? WHERE number = ?",
                    (time.time(), number),
                )
            return StoredRun(*row), [Part(*part) for part in rows]
        except BaseException:
            self._give_up(run_id)
            raise

    def write(self, run_id: str, parts: Sequence[Part], drop: Sequence[str]) -> None:
        """Store parts of an own run, and delete those of the paths in ``drop``."""
        with self.transaction() as statements:
            number = self._number_of(run_id)
            _put(statements, number, parts)
            if drop:
                statements.executemany(
                    "DELETE FROM engine_parts WHERE run = ? AND path = ?",
                    [(number, path) for path in drop],
                )

    def rewrite(self, run: StoredRun, parts: Sequence[Part]) -> None:
        """Replace everything of an own run."""
        with self.transaction() as statements:
            number = self._number_of(run.id)
            statements.execute(
                "UPDATE engine_runs SET shape = ?, inputs = ?, position = ? WHERE number = ?",
                (run.shape, run.inputs, run.position, number),
            )
            statements.execute("DELETE FROM engine_parts WHERE run = ?", (number,))
            _put(statements, number, parts)

    def end(
        self, run_id: str, status: RunStatus, *, position: str | None, error: str | None
    ) -> None:
        """Store how an own run has stopped, and give it up."""
        # Postgres has no such character.
        error = None if error is None else error.replace("\0", "")
        try:
            with self.transaction() as statements:
                statements.execute(
                    "UPDATE engine_runs SET status = ?, position = ?, error = ?, updated_at = ?"
                    " WHERE number = ?",
                    (status, position, error, time.time(), self._number_of(run_id)),
                )
        finally:
            self._give_up(run_id)

    def runs(self) -> list[RunInfo]:
        """Return all runs, the latest first."""
        with self.transaction(write=False) as statements:
            rows = statements.execute(
                "SELECT number, id, workflow, status, started_at, updated_at, error"
                " FROM engine_runs ORDER BY number DESC"
            ).fetchall()
        locked = self.locked([row[0] for row in rows if row[3] == "running"])
        return [
            RunInfo(
                run_id=run_id,
                workflow=workflow,
                state="interrupted" if status == "running" and number not in locked else status,
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
        number = self._find(run_id)
        self._own(run_id, number)
        try:
            with self.transaction() as statements:
                statements.execute("DELETE FROM engine_parts WHERE run = ?", (number,))
                statements.execute("DELETE FROM engine_runs WHERE number = ?", (number,))
        finally:
            self._give_up(run_id)

    def _find(self, run_id: str) -> int:
        with self.transaction(write=False) as statements:
            row = statements.execute(
                "SELECT number FROM engine_runs WHERE id = ?", (run_id,)
            ).fetchone()
        if row is None:
            raise _unknown(run_id)
        return int(row[0])

    def _number_of(self, run_id: str) -> int:
        if run_id not in self._numbers:
            raise RunStoreError(f"the run {run_id!r} is not this process's any more: resume it")
        return self._numbers[run_id]

    def _own(self, run_id: str, number: int) -> None:
        for _ in range(3):
            if self.try_lock(number):
                self._numbers[run_id] = number
                return
            time.sleep(0.01)  # who lists the runs may hold a lock for an instant
        raise RunInProgressError(run_id)

    def _give_up(self, run_id: str) -> None:
        number = self._numbers.pop(run_id, None)
        if number is not None:
            self.unlock(number)


_stores: weakref.WeakSet[SqlStore] = weakref.WeakSet()


def _put(statements: Statements, number: int, parts: Sequence[Part]) -> None:
    # A part may be there twice, and one statement cannot change a row twice.
    latest = {(part.path, part.name): part.value for part in parts}
    statements.executemany(
        "INSERT INTO engine_parts (run, path, name, value) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (run, path, name) DO UPDATE SET value = excluded.value",
        [(number, path, name, value) for (path, name), value in latest.items()],
    )


def _unknown(run_id: str) -> RunNotFoundError:
    return RunNotFoundError(
        f"there is no run {shown(run_id)} in this store: executor.runs() lists them"
    )


def _forget_all() -> None:
    for store in list(_stores):
        store.forget()


# Windows cannot fork and lacks the function.
getattr(os, "register_at_fork", lambda **_: None)(after_in_child=_forget_all)
