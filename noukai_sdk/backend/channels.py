"""Passes events on to whoever follows a run live."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

Numbered = tuple[int, dict[str, Any]]
"""An event and its number in the run."""

Follower = asyncio.Queue["Numbered | None"]
"""The events of one run as they come; None when there will be no more."""


class Channels:
    """One channel a run, for as long as somebody follows it."""

    def __init__(self) -> None:
        self._followers: defaultdict[str, set[Follower]] = defaultdict(set)
        self._closed = False

    @contextmanager
    def follow(self, execution_id: str) -> Iterator[Follower]:
        """Take part in a run's events from now on."""
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

    def publish(self, execution_id: str, number: int, event: dict[str, Any]) -> None:
        """Pass on an event."""
        for follower in self._followers.get(execution_id, ()):
            follower.put_nowait((number, event))

    def end(self, execution_id: str) -> None:
        """Tell that the run has ended."""
        for follower in self._followers.get(execution_id, ()):
            follower.put_nowait(None)

    def close(self) -> None:
        """End every channel, for good: the service stops."""
        self._closed = True
        for execution_id in list(self._followers):
            self.end(execution_id)
