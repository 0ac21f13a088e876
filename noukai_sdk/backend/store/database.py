"""Opens the database: connections, SQLite's settings, migrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

_MIGRATIONS = Path(__file__).parent.parent / "migrations"


async def open_database(url: str) -> AsyncEngine:
    """An engine for ``url``, its tables brought up to date.

    Args:
        url: ``sqlite+aiosqlite:///file`` or ``postgresql+asyncpg://...``.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It cannot be opened, or is no database.
    """
    # A wave of readers waits its turn: giving up after a while would turn load into errors.
    engine = create_async_engine(url, pool_timeout=None)
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
    except BaseException:
        await engine.dispose()
        raise
    return engine


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # Readers never wait for the writer, and a commit is one append. A power cut may lose the last
    # commits, but never tears the file.
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=30000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to ``revision``; does nothing where they are there."""
    command.upgrade(configuration(connection), revision)


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for our migrations over this connection."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
