"""Open the database: connections, SQLite's settings, migrations; and recognise its outages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import URL, Connection, delete, event, false, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import create_async_engine

from ..private_files import create_private_file
from .blobs import BlobsUnavailableError
from .claim import Release, claim
from .engine import POSTGRES_OPTIONS, Engine
from .tables import executions
from .text_search import contains

T = TypeVar("T")

_MIGRATIONS = Path(__file__).parent.parent / "migrations"

# How long SQLite waits for another process that writes, such as a shell that was left open.
_BUSY_MS = 2000
# A WAL that grew while another process read for long shrinks again.
_WAL_BYTES = 64 * 1024 * 1024
# Held until the transaction ends.
_WAIT = text("SET LOCAL lock_timeout = 0")
_LOCK_TABLES = text("SELECT pg_advisory_xact_lock(1852798827)")
_POSTGRES = "a Postgres database needs asyncpg: pip install asyncpg"
# Postgres' classes of errors in the request: data, constraints, statements.
_REQUEST_ERRORS = ("22", "23", "42")


class ForeignDatabaseError(OSError):
    """The tables belong to another program, or to a newer version of ours."""


class StoreUnavailableError(Exception):
    """The database cannot be used at this moment: it is full, locked, read-only or gone.

    Data that could not be written is kept, and written later.

    Attributes:
        execution_id: The run that could not be stored; None if the error is not about a run.
        outcome: What became of the call; empty if nothing was to be stored.
    """

    def __init__(self, error: Exception, execution_id: str | None = None) -> None:
        place = (
            ""
            if isinstance(error, BlobsUnavailableError)
            else "the database cannot be used just now: "
        )
        super().__init__(f"{place}{getattr(error, 'orig', error)}")
        self.execution_id = execution_id
        self.outcome = ""

    def __str__(self) -> str:
        """Return what is wrong, and what became of the call."""
        return "; ".join(filter(None, [super().__str__(), self.outcome]))


class Database:
    """An open database. ``aclose`` it.

    Attributes:
        engine: For reading, and for transactions with several steps.
        dialect: ``"sqlite"`` or ``"postgresql"``.
    """

    def __init__(self, engine: Engine, release: Release) -> None:
        self.engine = engine
        self.dialect = engine.dialect.name
        self._release = release
        self._thread = _WriterThread(engine.url) if self.dialect == "sqlite" else None

    async def write(self, statements: Callable[[Connection], T]) -> T:
        """Call ``statements`` in a transaction, and commit it."""
        if self._thread is not None:
            return await self._thread.write(statements)
        async with self.engine.begin() as connection:
            return await connection.run_sync(statements)

    async def aclose(self) -> None:
        """Close every connection, and give up the claim on the database."""
        if self._thread is not None:
            await self._thread.aclose()
        await self.engine.dispose()
        await self._release()


class _WriterThread:
    """Writes to SQLite in a thread of its own.

    The async driver changes threads for each statement. Here a whole transaction is one change.
    """

    def __init__(self, url: URL) -> None:
        self._engine = sqlalchemy.create_engine(url.set(drivername="sqlite"))
        event.listen(self._engine, "connect", _set_up_sqlite)
        self._thread = ThreadPoolExecutor(1, "noukai-writer")

    async def write(self, statements: Callable[[Connection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._thread, self._transaction, statements
        )

    def _transaction(self, statements: Callable[[Connection], T]) -> T:
        with self._engine.begin() as connection:
            return statements(connection)

    async def aclose(self) -> None:
        # SQLite's connections are closed in the thread that opened them.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._engine.dispose)
        self._thread.shutdown()


async def open_database(url: URL) -> Database:
    """Open the database at ``url``, and migrate its tables.

    Args:
        url: ``sqlite+aiosqlite:///file`` or ``postgresql+asyncpg://...``.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: It cannot be opened, or is not a database.
        ForeignDatabaseError: Its tables are not ours.
        DatabaseInUseError: Another backend uses the SQLite file.
        ModuleNotFoundError: The driver is not installed.
    """
    engine = _create_engine(url)
    try:
        release: Release = _no_release
        if url.get_backend_name() == "postgresql":
            engine.watch()
        if url.get_backend_name() == "sqlite":
            release = await claim(engine)
    except BaseException:
        await engine.dispose()
        raise
    database = Database(engine, release)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
            # A database that cannot be written must fail now, not with the first run.
            await connection.execute(delete(executions).where(false()))
    except BaseException:
        await database.aclose()
        raise
    return database


@asynccontextmanager
async def open_beside(url: URL) -> AsyncIterator[Engine]:
    """Open the database for a command, beside the backends that use it. Raises as open_database does."""
    engine = _create_engine(url)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(migrate)
        yield engine
    finally:
        await engine.dispose()


def _create_engine(url: URL) -> Engine:
    is_postgres = url.get_backend_name() == "postgresql"
    if not is_postgres and not str(url.database).startswith("file:"):
        create_private_file(Path(str(url.database)))
    try:
        # Without a timeout, a burst of readers waits its turn; with one, load would become errors.
        # Postgres can restart while we run, and then the connections in the pool are dead.
        engine = create_async_engine(
            url,
            pool_timeout=None,
            pool_pre_ping=is_postgres,
            connect_args=POSTGRES_OPTIONS if is_postgres else {},
        )
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ModuleNotFoundError(_POSTGRES, name=error.name) from error
    if not is_postgres:
        event.listen(engine.sync_engine, "connect", _set_up_sqlite)
    return Engine(engine)


async def _no_release() -> None:
    """Stand in for the release of a claim."""


def _set_up_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    # It has an effect only before the first page is written, and it would wait for other writers.
    cursor.execute("PRAGMA page_count")
    if cursor.fetchone()[0] == 0:
        cursor.execute("PRAGMA auto_vacuum=INCREMENTAL")
    # Readers never wait for the writer, and a commit is one append. A power cut may lose the last
    # commits, but never corrupts the file.
    for pragma in (
        f"busy_timeout={_BUSY_MS}",
        "journal_mode=WAL",
        "synchronous=NORMAL",
        f"journal_size_limit={_WAL_BYTES}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    # SQLite's own functions know upper and lower case of ASCII alone.
    connection.create_function("noukai_contains", 3, contains, deterministic=True)


def migrate(connection: Connection, revision: str = "head") -> None:
    """Bring the tables to ``revision``; do nothing if they are there already."""
    if connection.dialect.name == "postgresql":
        # Several processes may start at once, and one of them may need long.
        connection.execute(_WAIT)
        connection.execute(_LOCK_TABLES)
    try:
        command.upgrade(configuration(connection), revision)
    except CommandError as error:
        raise ForeignDatabaseError(
            f"its tables are of another program, or of a newer noukai: {error}"
        ) from error


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for our migrations over this connection."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config


def is_outage(error: Exception) -> bool:
    """Return True if the fault is the database's, so that the same request may succeed later."""
    if isinstance(error, OperationalError | InterfaceError | OSError | asyncio.TimeoutError):
        return True
    # With asyncpg, most errors of the server have the base class.
    state = getattr(error.orig, "sqlstate", None) if isinstance(error, DBAPIError) else None
    return state is not None and not state.startswith(_REQUEST_ERRORS)


@contextmanager
def outages() -> Iterator[None]:
    """Raise outages of the database as StoreUnavailableError."""
    try:
        yield
    except Exception as error:
        if is_outage(error):
            raise StoreUnavailableError(error) from error
        raise
