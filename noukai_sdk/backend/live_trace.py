"""The live trace of a run: its stored events first, then new ones as they happen."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING

from .capture import Event, captured_events, keeps_snapshots
from .encoding import from_column
from .run import ENDED

if TYPE_CHECKING:
    from .runs import Runs
    from .store.store import Row, Store

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

    def close(self) -> None:
        """End every channel, and those of later followers: the service stops."""
        self._closed = True
        for execution_id in list(self._followers):
            self.end(execution_id)


async def live_events(
    row: Row, store: Store, runs: Runs, channels: Channels
) -> AsyncGenerator[Event, None]:
    """Yield the run's events in order, each once, as far as its capture mode keeps them."""
    execution_id, mode = row["id"], row["capture_mode"]

    def as_captured(numbered: list[NumberedEvent]) -> list[NumberedEvent]:
        if not keeps_snapshots(mode):
            return []
        events = captured_events(mode, [event for _, event in numbered])
        return [(number, event) for (number, _), event in zip(numbered, events, strict=True)]

    with channels.follow(execution_id) as follower:
        # The order matters: every event from now on reaches the follower, and every earlier one is
        # either in the database after flush() or among the pending events that it returns.
        pending = await runs.flush(execution_id)
        current = await store.execution(execution_id)
        chunks = (await store.events([execution_id]))[execution_id]
        stored = [
            (chunk["first"] + offset, event)
            for chunk in chunks
            for offset, event in enumerate(from_column(chunk["body"]))
        ]
        next_number = 0
        for number, event in chain(stored, as_captured(pending)):
            if number >= next_number:
                yield event
                next_number = number + 1
        if current is None or current["status"] in ENDED:
            return
        while (item := await follower.get()) is not None:
            for number, event in as_captured([item]):
                if number >= next_number:
                    yield event
                    next_number = number + 1
