"""Allow one backend at a time on a SQLite file.

Backends on Postgres find each other by their heartbeats. On SQLite there are no others: each backend claims
its file, and the operating system ends the claim with the process, however the process ends.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout
from sqlalchemy import text

from ..private_files import create_private_file
from .engine import Engine

Release = Callable[[], Awaitable[None]]
"""Gives up a claim."""

_FILE = text("SELECT file FROM pragma_database_list WHERE name = 'main'")


class DatabaseInUseError(OSError):
    """Another backend uses the database; the message names its process if that is known."""

    def __init__(self, holder: str | None) -> None:
        super().__init__(
            f"{holder or 'another backend'} works on it, and two backends on one database lose runs: "
            "stop it, or use another database"
        )


async def claim(engine: Engine) -> Release:
    """Claim the SQLite file of ``engine``, until the returned function is called or the process ends.

    Raises:
        DatabaseInUseError: Another backend has it, in this process or in another.
    """
    async with engine.connect() as connection:
        path = (await connection.execute(_FILE)).scalar_one()
    return _claim_file(path)


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
