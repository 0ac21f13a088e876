"""The live trace of a run: what is stored, then what happens, until it has ended."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import chain

from .capture import Event, keeps_snapshots, kept_events
from .channels import Channels
from .encoding import loaded
from .run import ENDED
from .runs import Runs
from .store.store import Found, Store


async def live_events(
    row: Found, store: Store, runs: Runs, channels: Channels
) -> AsyncGenerator[Event, None]:
    """The run's events, each once and in order, as far as its capture mode keeps them."""
    name, mode = row["id"], row["capture_mode"]
    with channels.follow(name) as follower:
        # In this order nothing can slip through: what happens from now on comes to the follower, what
        # happened before is stored by settle() or among those that it gives.
        waiting = await runs.settle(name)
        now = await store.execution(name)
        stored = (await store.events([name]))[name]
        before = [
            (chunk["first"] + place, event)
            for chunk in stored
            for place, event in enumerate(loaded(chunk["body"]))
        ]
        expected = 0
        for number, event in chain(before, _kept(mode, waiting)):
            if number >= expected:
                yield event
                expected = number + 1
        if now is None or now["status"] in ENDED:
            return
        while (item := await follower.get()) is not None:
            for number, event in _kept(mode, [item]):
                if number >= expected:
                    yield event
                    expected = number + 1


def _kept(mode: str, numbered: list[tuple[int, Event]]) -> list[tuple[int, Event]]:
    if not keeps_snapshots(mode):
        return []
    events = kept_events(mode, [event for _, event in numbered])
    return [(number, event) for (number, _), event in zip(numbered, events, strict=True)]
