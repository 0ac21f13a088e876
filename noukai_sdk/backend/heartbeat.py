"""Tell the other processes that this one is alive, and find those that have died."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from .encoding import Clock
from .store.database import StoreUnavailableError
from .store.processes import ProcessStore

logger = logging.getLogger("noukai_sdk.backend")

INTERVAL = 2.0
"""Seconds between two heartbeats."""

DEAD_AFTER = 10.0
"""A process has died if its heartbeat stands still for this number of seconds."""


def process_name() -> str:
    """Return the name of this process, for people."""
    return f"noukai (process {os.getpid()} on {socket.gethostname()})"


@dataclass
class DeathWatch:
    """Finds heartbeats that stand still.

    It compares heartbeats with earlier ones and measures the time between by its own monotonic clock, so
    that clocks may differ and be set. Time in which it could not look does not count: after an outage of
    the database, every process gets its time again.
    """

    _seen: dict[str, tuple[int, float]] = field(default_factory=dict)
    _last_look: float | None = None

    def look(self, heartbeats: Mapping[str, int], now: float) -> set[str]:
        """Return the processes that have died.

        Args:
            heartbeats: The last heartbeat of each process.
            now: Seconds of a monotonic clock.
        """
        passed = 0.0 if self._last_look is None else min(now - self._last_look, 2 * INTERVAL)
        self._last_look = now
        seen: dict[str, tuple[int, float]] = {}
        for process_id, heartbeat in heartbeats.items():
            before, still_for = self._seen.get(process_id, (None, 0.0))
            seen[process_id] = (heartbeat, still_for + passed if before == heartbeat else 0.0)
        self._seen = seen
        return {name for name, (_, still_for) in seen.items() if still_for >= DEAD_AFTER}


class Heartbeat:
    """The heartbeat of this process, and its watch over the others.

    Args:
        process_id: The id of this process.
        kind: Its role.
        recover: Goes on with the runs of a process that has died; of this one, with the given runs.
        driven: Returns the ids of the runs that this process drives.
        repair: Called after each look, when the runs of dead processes can go on.
        is_alone: No other process can use the database.
    """

    def __init__(
        self,
        store: ProcessStore,
        clock: Clock,
        *,
        process_id: str,
        kind: str,
        recover: Callable[[str, Collection[str] | None], Awaitable[None]],
        driven: Callable[[], set[str]],
        repair: Callable[[], Awaitable[None]],
        is_alone: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._process_id = process_id
        self._kind = kind
        self._recover = recover
        self._driven = driven
        self._abandoned: set[str] = set()
        self._repair = repair
        self._is_alone = is_alone
        self._watch = DeathWatch()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Beat and look once, and then at regular intervals."""
        await self.beat()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            slept_at = time.monotonic()
            await asyncio.sleep(INTERVAL)
            late = time.monotonic() - slept_at - INTERVAL
            if late > DEAD_AFTER / 2:
                logger.error(
                    "this process did not respond for %.0f seconds: it was suspended, or an async "
                    "function of a step blocks it (use def, or await). After %.0f seconds, other "
                    "processes go on with its runs",
                    late,
                    DEAD_AFTER,
                )
            try:
                await self.beat()
            except StoreUnavailableError:
                pass  # the writer says so in the log
            # The service goes on, whatever the error is.
            except Exception:
                logger.exception("the heartbeat failed")

    async def beat(self) -> None:
        """Store that this process is alive, and go on with the runs of dead ones."""
        me = self._process_id
        await self._store.beat(me, self._kind, process_name(), self._clock.now())
        # First: a process beats before it owns a run.
        owners = await self._store.owners()
        heartbeats = await self._store.heartbeats()
        dead = self._watch.look(heartbeats, time.monotonic())
        if self._is_alone:
            dead = set(heartbeats)
        # A process that was taken for dead may have gone on for a moment.
        dead |= owners - set(heartbeats)
        dead.discard(me)
        for process_id in dead:
            logger.warning(
                "process %s has died or does not respond: going on with its runs", process_id
            )
            await self._recover(process_id, None)
            await self._store.remove(process_id)
        await self._find_abandoned()
        await self._repair()

    async def _find_abandoned(self) -> None:
        """Go on with runs that this process owns and does not drive.

        It took them, but the connection broke before the database said so.
        """
        abandoned = await self._store.owned(self._process_id) - self._driven()
        lasting = abandoned & self._abandoned
        self._abandoned = abandoned
        if lasting:
            await self._recover(self._process_id, lasting)

    async def stop(self) -> None:
        """Stop beating: the process is about to end, and drives no run any more."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            with suppress(StoreUnavailableError):
                await self._store.remove(self._process_id)
