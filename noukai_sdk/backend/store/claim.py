"""Allow one backend at a time on a database.

Only the process that drives a run knows that it is in progress: a second backend would take it for a run
of a backend that has died. So each backend claims its database, and the operating system ends the claim
with the process, however the process ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from ..private_files import create_private_file

Release = Callable[[], Awaitable[None]]
"""Gives up a claim."""

# The advisory lock of every backend. Postgres keeps the locks of its databases apart.
_KEY = 0x6E6F756B
_FILE = text("SELECT file FROM pragma_database_list WHERE name = 'main'")
_TRY = text("SELECT pg_try_advisory_lock(:key)")
_NAME = text("SELECT set_config('application_name', :name, false)")
_HOLDER = text(
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND datname = current_database()"
)


class DatabaseInUseError(OSError):
    """Another backend uses the database; the message names its process if that is known."""

    def __init__(self, holder: str | None) -> None:
        super().__init__(
            f"{holder or 'another backend'} works on it, and two backends on one database lose runs: "
            "stop it, or use another database"
        )


async def claim(engine: AsyncEngine) -> Release:
    """Claim the database of ``engine``, until the returned function is called or the process ends.

    On Postgres the claim is held by a connection: it is lost if the database server restarts.

    Raises:
        DatabaseInUseError: Another backend has it, in this process or in another.
    """
    if engine.dialect.name == "postgresql":
        return await _claim_postgres(engine)
    async with engine.connect() as connection:
        path = (await connection.execute(_FILE)).scalar_one()
    return _claim_file(path)


async def _claim_postgres(engine: AsyncEngine) -> Release:
    connection = await (await engine.connect()).execution_options(isolation_level="AUTOCOMMIT")

    async def release() -> None:
        # A connection that is returned to its pool would keep the lock.
        with suppress(SQLAlchemyError, OSError):
            await connection.invalidate()
        await connection.close()

    try:
        await connection.execute(_NAME, {"name": _process_name()[:63]})
        if not (await connection.execute(_TRY, {"key": _KEY})).scalar_one():
            holders = await connection.execute(_HOLDER, {"key": _KEY})
            raise DatabaseInUseError(holders.scalars().first())
    except BaseException:
        await release()
        raise
    return release


def _claim_file(path: str) -> Release:
    # Not the database file itself: SQLite's own locks on it would be released with ours. And not the
    # lock file for the name: Windows does not let others read a locked file.
    lock, holder = FileLock(f"{path}.lock", mode=0o600, thread_local=False), Path(f"{path}.holder")
    try:
        lock.acquire(blocking=False)
    except Timeout as error:
        name = None
        with suppress(OSError):
            name = holder.read_text()
        raise DatabaseInUseError(name) from error
    with suppress(OSError):
        create_private_file(holder)
        holder.write_text(_process_name())

    async def release() -> None:
        with suppress(OSError):
            holder.unlink()  # noqa: ASYNC240 - a small local file, when the backend stops
        lock.release()

    return release


def _process_name() -> str:
    return f"noukai (process {os.getpid()} on {socket.gethostname()})"
