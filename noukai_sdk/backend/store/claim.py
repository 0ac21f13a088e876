"""One backend at a time on a database.

Which runs are in progress is known to the process that drives them alone: a second backend would take
them for those of a backend that has died. So each one claims its database, and the system ends the
claim with the process, however that ends.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

Release = Callable[[], Awaitable[None]]
"""Gives up a claim."""

# The advisory lock of every backend. Postgres keeps these apart by database.
_KEY = 0x6E6F756B
_FILE = text("SELECT file FROM pragma_database_list WHERE name = 'main'")
_TRY = text("SELECT pg_try_advisory_lock(:key)")
_NAME = text("SELECT set_config('application_name', :name, false)")
_HOLDER = text(
    "SELECT application_name FROM pg_locks JOIN pg_stat_activity USING (pid)"
    " WHERE locktype = 'advisory' AND classid = 0 AND objid = :key AND datname = current_database()"
)


class DatabaseInUseError(OSError):
    """Another backend works on the database; the message says which, where that can be told."""

    def __init__(self, holder: str | None) -> None:
        super().__init__(
            f"{holder or 'another backend'} works on it, and runs would be lost with two: stop it, or "
            "take another database"
        )


async def claim(engine: AsyncEngine) -> Release:
    """Claim the database of ``engine``, until the given function is called or the process ends.

    Over Postgres the claim is a connection: it is lost where the database server is started anew.

    Raises:
        DatabaseInUseError: Another backend has it, in this process or in another.
    """
    if engine.dialect.name == "postgresql":
        return await _claim_database(engine)
    async with engine.connect() as connection:
        path = (await connection.execute(_FILE)).scalar_one()
    return _claim_file(Path(f"{path}.lock"))


async def _claim_database(engine: AsyncEngine) -> Release:
    connection = await (await engine.connect()).execution_options(isolation_level="AUTOCOMMIT")

    async def release() -> None:
        # A connection that went back to its pool would keep the lock.
        with suppress(SQLAlchemyError, OSError):
            await connection.invalidate()
        await connection.close()

    try:
        await connection.execute(_NAME, {"name": f"noukai {_me()}"[:63]})
        if not (await connection.execute(_TRY, {"key": _KEY})).scalar_one():
            raise DatabaseInUseError(await _holder(connection))
    except BaseException:
        await release()
        raise
    return release


async def _holder(connection: AsyncConnection) -> str | None:
    name = (await connection.execute(_HOLDER, {"key": _KEY})).scalars().first()
    return name or None


def _claim_file(path: Path) -> Release:
    # The database itself is no place for it: SQLite's own locks would be dropped with ours.
    file = path.open("a+")
    try:
        _lock(file)
    except OSError as error:
        with file:
            file.seek(0)
            holder = file.read(200).strip()
        raise DatabaseInUseError(f"noukai {holder}" if holder else None) from error
    file.truncate(0)
    file.write(f"{_me()}\n")
    file.flush()

    async def release() -> None:
        with file:
            file.truncate(0)

    return release


def _me() -> str:
    return f"(process {os.getpid()} on {socket.gethostname()})"


def _lock(file: IO[str]) -> None:
    if sys.platform == "win32":
        import msvcrt

        # Far behind the text, which others read: this system locks bytes, not files.
        file.seek(1 << 30)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
