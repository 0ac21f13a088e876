"""Notices between the processes on one Postgres: who follows a run, and that it has new events.

A notice only wakes: the rows are the truth, and followers look at them now and then in any case. So a lost
notice does no harm.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection

from .engine import Engine

logger = logging.getLogger("noukai_sdk.backend")

_CHANNEL = "noukai"
_SEND = text("SELECT pg_notify(:channel, :payload)")
_RETRY_INTERVAL = 1.0
_SEND_TIMEOUT = 5.0


class Notices:
    """Sends and receives notices, over one connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._connection: AsyncConnection | None = None
        self._followed: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._asked: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None
        self._flush: Callable[[str], Awaitable[Any]] | None = None
        self._lock = asyncio.Lock()

    def start(self, flush: Callable[[str], Awaitable[Any]]) -> None:
        """Begin to listen.

        Args:
            flush: Stores the progress of a run that this process drives; returns False if it does not.
        """
        self._flush = flush
        self._task = asyncio.create_task(self._listen())

    @contextmanager
    def follow(self, execution_id: str) -> Iterator[asyncio.Event]:
        """Return an event that is set when the run may have new rows."""
        woken = asyncio.Event()
        self._followed[execution_id].add(woken)
        try:
            yield woken
        finally:
            self._followed[execution_id].discard(woken)
            if not self._followed[execution_id]:
                del self._followed[execution_id]

    async def ask(self, execution_id: str) -> None:
        """Ask the process that drives the run to store its progress."""
        await self._send(f"ask {execution_id}")

    async def _send(self, payload: str) -> None:
        if self._connection is None:
            return
        # Without the connection, followers look at the rows at intervals.
        with suppress(SQLAlchemyError, OSError, asyncio.TimeoutError):
            async with self._lock:
                values = {"channel": _CHANNEL, "payload": payload}
                sent = self._connection.execute(_SEND, values)
                await asyncio.wait_for(sent, _SEND_TIMEOUT)

    async def _listen(self) -> None:
        while True:
            try:
                async with self._engine.connect() as connection:
                    await self._listen_on(connection)
            # The driver has errors of its own.
            except Exception as error:  # noqa: BLE001, PERF203 - it tries again
                logger.info("notices are interrupted: %s", error)
                await asyncio.sleep(_RETRY_INTERVAL)

    async def _listen_on(self, connection: AsyncConnection) -> None:
        try:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            driver = (await connection.get_raw_connection()).driver_connection
            assert driver is not None  # it is checked out of the pool
            is_closed = asyncio.Event()
            driver.add_termination_listener(lambda _: is_closed.set())
            await driver.add_listener(_CHANNEL, self._receive)
            self._connection = connection
            await is_closed.wait()
        finally:
            self._connection = None
            # A connection that is returned to its pool would go on listening.
            with suppress(SQLAlchemyError, OSError):
                await connection.invalidate()

    def _receive(self, _driver: Any, _process: int, _channel: str, payload: str) -> None:
        verb, _, execution_id = payload.partition(" ")
        if verb == "stored":
            for woken in self._followed.get(execution_id, ()):
                woken.set()
        elif verb == "ask":
            task = asyncio.get_running_loop().create_task(self._answer(execution_id))
            self._asked.add(task)
            task.add_done_callback(self._asked.discard)

    async def _answer(self, execution_id: str) -> None:
        assert self._flush is not None  # set before it listens
        try:
            if await self._flush(execution_id):
                await self._send(f"stored {execution_id}")
        # The follower looks at the rows later.
        except Exception:
            logger.exception("the progress of %s could not be stored", execution_id)

    async def aclose(self) -> None:
        """Stop listening."""
        tasks = [*self._asked, *([self._task] if self._task is not None else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
