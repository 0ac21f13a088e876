"""Connections that do not wait for a database that hangs.

A server that is stopped, or behind a network that drops packets, ends no wait by an error. So Postgres is
asked something trivial all the time. While it does not answer, everything that waits for it fails, and new
work fails at once. A statement that takes long may do so as long as the server answers otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

logger = logging.getLogger("noukai_sdk.backend")

# A database that hangs is found within these seconds added up, and it takes two failures: the first may
# be due to a connection that was closed, or to a process of ours that was busy.
_INTERVAL = 0.5
_PATIENCE = 1.5

_QUESTION = text("SELECT 1")


POSTGRES_OPTIONS: dict[str, Any] = {
    # Seconds to connect.
    "timeout": 10,
    "server_settings": {
        # A row or table that another transaction locks: our own lock rows for milliseconds.
        "lock_timeout": "2s",
        # A process that is stopped in a transaction must not keep its locks.
        "idle_in_transaction_session_timeout": "15s",
    },
}
"""How asyncpg connects to Postgres."""


class DatabaseHangsError(OSError):
    """The database does not answer, or cannot be reached."""


class Engine:
    """The connections to one database. ``dispose`` it.

    Args:
        engine: Opens the connections.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self.sync_engine = engine.sync_engine
        self.dialect = engine.dialect
        self.url = engine.url
        self._engine = engine
        self._waiting: set[anyio.CancelScope] = set()
        self._problem: str | None = None
        self._watch: asyncio.Task[None] | None = None

    def connect(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a connection.

        Raises:
            DatabaseHangsError: The database does not answer, now or before the end of the block.
        """
        return self._guarded(self._engine.connect())

    def begin(self) -> AbstractAsyncContextManager[AsyncConnection]:
        """Open a connection in a transaction, which is committed at the end. Raises as :meth:`connect`."""
        return self._guarded(self._engine.begin())

    @asynccontextmanager
    async def _guarded(
        self, opened: AbstractAsyncContextManager[AsyncConnection]
    ) -> AsyncIterator[AsyncConnection]:
        self.raise_if_hanging()
        with anyio.CancelScope() as scope:
            self._waiting.add(scope)
            try:
                async with opened as connection:
                    yield connection
            finally:
                self._waiting.discard(scope)
        if scope.cancelled_caught:
            raise DatabaseHangsError(self._problem or "it did not answer for a time")

    def raise_if_hanging(self) -> None:
        """Raise DatabaseHangsError if the database does not answer."""
        if self._problem is not None:
            raise DatabaseHangsError(self._problem)

    def watch(self) -> None:
        """Ask the database from now on whether it answers."""
        self._watch = asyncio.create_task(self._ask_forever())

    async def _ask_forever(self) -> None:
        # A connection of its own: those of the pool may all be waiting.
        engine = create_async_engine(
            self.url,
            poolclass=NullPool,
            isolation_level="AUTOCOMMIT",
            connect_args=POSTGRES_OPTIONS,
        )
        failures = 0
        while True:
            try:
                with anyio.fail_after(_PATIENCE):
                    connection = await engine.connect()
                try:
                    while True:
                        with anyio.fail_after(_PATIENCE):
                            await connection.execute(_QUESTION)
                        failures = 0
                        self._set_problem(None)
                        await asyncio.sleep(_INTERVAL)
                finally:
                    # To close it properly, the database would have to answer.
                    with anyio.move_on_after(_PATIENCE, shield=True):
                        await connection.invalidate()
                        await connection.close()
            except Exception as error:  # noqa: BLE001, PERF203 - the next attempt decides
                failures += 1
                if failures > 1:
                    self._set_problem(
                        "it does not answer"
                        if isinstance(error, asyncio.TimeoutError | TimeoutError)
                        else f"it cannot be reached: {getattr(error, 'orig', error)}"
                    )
                    await asyncio.sleep(_INTERVAL)

    def _set_problem(self, problem: str | None) -> None:
        if problem is not None and self._problem is None:
            logger.error("the database: %s", problem)
        if problem is None and self._problem is not None:
            logger.warning("the database answers again")
        self._problem = problem
        if problem is not None:
            for scope in self._waiting:
                scope.cancel()

    async def dispose(self) -> None:
        """Close all connections."""
        if self._watch is not None:
            self._watch.cancel()
            with suppress(asyncio.CancelledError):
                await self._watch
        await self._engine.dispose()
