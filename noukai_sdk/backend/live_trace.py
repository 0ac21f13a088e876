"""The live trace of a run: its stored events first, then new ones as they happen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from .capture import Event, captured_events, keeps_snapshots
from .encoding import from_column

if TYPE_CHECKING:
    from .runs import Runs
    from .store.notices import Notices
    from .store.store import Row, Store

_LOOK_INTERVAL = 0.25
"""Seconds between two looks at the rows of a run that another process drives."""

NumberedEvent = tuple[int, Event]
"""An event and its number in the run."""

Follower = asyncio.Queue["NumberedEvent | None"]
"""The new events of one run; None ends them."""


class Channels:
    """One channel for each run that has followers."""

    def __init__(self) -> None:
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._closed = False

    @contextmanager
    def follow(self, execution_id: str) -> Iterator[Follower]:
        """Receive the run's events from now on."""
        follower: Follower = asyncio.Queue()
        self._followers[execution_id].add(follower)
        if self._closed:
            follower.put_nowait(None)
        try:
            yield follower
        finally:
            self._followers[execution_id].discard(follower)
            if not self._followers[execution_id]:
                del self._followers[execution_id]

    def publish(self, execution_id: str, number: int, event: Event) -> None:
        """Send an event to the run's followers."""
        for follower in self._followers.get(execution_id, ()):
            follower.put_nowait((number, event))

    def end(self, execution_id: str) -> None:
        """Tell the run's followers that it has ended."""
        for follower in self._followers.get(execution_id, ()):
            follower.put_nowait(None)

    @property
    def is_closed(self) -> bool:
        """Return True if the service stops."""
        return self._closed

    def close(self) -> None:
        """End every channel, and those of later followers: the service stops."""
        self._closed = True
        for execution_id in list(self._followers):
            self.end(execution_id)


async def live_events(
    row: Row, store: Store, runs: Runs, channels: Channels, notices: Notices | None = None
) -> AsyncGenerator[Event, None]:
    """Yield the run's events in order, each once, as far as its capture mode keeps them.

    Args:
        row: The row of the run.
        store: The store.
        runs: The runs that this process drives.
        channels: Their events.
        notices: Of the other processes; None if this one is alone.
    """
    follower = _Follower(row, store)
    while True:
        if notices is None or runs.active(row["id"]) is not None:
            async for event in follower.in_this_process(runs, channels):
                yield event
        if notices is None or channels.is_closed:
            return
        # Another process drives the run, or none while it is paused or in the queue.
        with notices.follow(row["id"]) as woken:
            while runs.active(row["id"]) is None:
                woken.clear()
                has_ended = await store.has_ended(row["id"])
                for event in await follower.stored():
                    yield event
                if has_ended or channels.is_closed:
                    return
                await notices.ask(row["id"])
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(woken.wait(), _LOOK_INTERVAL)


class _Follower:
    """What one client has received of a run's events."""

    def __init__(self, row: Row, store: Store) -> None:
        self._id = row["id"]
        self._mode = row["capture_mode"]
        self._store = store
        self._next_number = 0
        self._last_chunk = 0

    def _new(self, numbered: Iterable[NumberedEvent]) -> Iterator[Event]:
        for number, event in numbered:
            if number >= self._next_number:
                self._next_number = number + 1
                yield event

    def _as_captured(self, numbered: list[NumberedEvent]) -> list[NumberedEvent]:
        if not keeps_snapshots(self._mode):
            return []
        events = captured_events(self._mode, [event for _, event in numbered])
        return [(number, event) for (number, _), event in zip(numbered, events, strict=True)]

    async def stored(self) -> list[Event]:
        """Return the stored events that the client does not have yet."""
        numbered: list[NumberedEvent] = []
        # The last chunk again: the client may have received its first events only.
        for chunk in await self._store.events_from(self._id, self._last_chunk):
            self._last_chunk = chunk["first"]
            numbered += enumerate(from_column(chunk["body"]), start=chunk["first"])
        return list(self._new(numbered))

    async def in_this_process(self, runs: Runs, channels: Channels) -> AsyncGenerator[Event, None]:
        """Yield stored events and then new ones, until the run ends, or pauses for other processes."""
        with channels.follow(self._id) as follower:
            # The order matters: every event from now on reaches the follower, and every earlier one is
            # either in the database after flush() or among the pending events that it returns.
            pending = await runs.flush(self._id)
            has_ended = await self._store.has_ended(self._id)
            for event in await self.stored():
                yield event
            for event in self._new(self._as_captured(pending)):
                yield event
            if has_ended:
                return
            while (item := await follower.get()) is not None:
                for event in self._new(self._as_captured([item])):
                    yield event
