"""Opens the database: connections, SQLite's settings, migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, delete, event, false
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from .claim import Release, claim
from .tables import executions

_MIGRATIONS = Path(__file__).parent.parent / "migrations"


# How long SQLite waits for another process that writes, such as a shell somebody left open.
_BUSY_MS = 5000
_POSTGRES = "a Postgres database needs asyncpg: pip install 'noukai-sdk[postgres]'"


class ForeignDatabaseError(OSError):
    """The database has tables that are not ours, or that are newer than we are."""


class Database:
    """An open database, which no other backend works on. ``aclose`` it."""

    def __init__(self, engine: AsyncEngine, release: Release) -> None:
        self.engine = engine
        self._release = release

    async def aclose(self) -> None:
        """Close every connection, and let other backends have the database."""
        await self.engine.dispose()
        await self._release()


async def open_database(url: URL) -> Database:
    """Open the database at ``url``, its tables brought up to date.

    Args:
        url: ``sqlite+aiosqlite:///file`` or ``postgresql+asyncpg://...``.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It cannot be opened, or is no database.
        ForeignDatabaseError: Its tables are not ours.
        DatabaseInUseError: Another backend works on it.
        ModuleNotFoundError: The driver is not installed.
    """
    engine = _engine(url)
    try:
        release = await claim(engine)
    except BaseException:
        await engine.dispose()
        raise
    database = Database(engine, release)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
            # A database that cannot be written is told now, not by the first run.
            await connection.execute(delete(executions).where(false()))
    except BaseException:
        await database.aclose()
        raise
    return database


def _engine(url: URL) -> AsyncEngine:
    is_postgres = url.get_backend_name() == "postgresql"
    try:
        # A wave of readers waits its turn: giving up after a while would turn load into errors. Postgres
        # can be started anew under us, and then the old connections are dead.
        engine = create_async_engine(url, pool_timeout=None, pool_pre_ping=is_postgres)
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ModuleNotFoundError(_POSTGRES, name=error.name) from error
    if not is_postgres:
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for the writer, and a commit is one append. A power cut may lose the last
    # commits, but never tears the file.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", f"busy_timeout={_BUSY_MS}"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to ``revision``; does nothing where they are there."""
    try:
        command.upgrade(configuration(connection), revision)
    except CommandError as error:
        raise ForeignDatabaseError(
            f"its tables are of another program, or of a newer noukai: {error}"
        ) from error


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for our migrations over this connection."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
