"""The live trace between what is stored and what happens, step by step."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from noukai_sdk.backend.live_trace import Channels, live_events

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    """The channels are asyncio's."""
    return "asyncio"


def event(number: int) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": "a", "outputData": f"{number}"}


class FakeStore:
    """Has the first ``count`` events, and a run that is in progress."""

    def __init__(self, count: int, status: str = "running") -> None:
        self._bodies = [
            {"first": first, "body": json.dumps([event(first), event(first + 1)])}
            for first in range(0, count, 2)
        ]
        self._status = status

    async def execution(self, _name: str) -> dict[str, Any]:
        return {"status": self._status}

    async def events(self, names: list[str]) -> dict[str, Any]:
        return {names[0]: self._bodies}


class FakeRuns:
    """Publishes events while the follower reads what is stored, and holds some back."""

    def __init__(self, channels: Channels, published: list[int], waiting: list[int]) -> None:
        self._channels = channels
        self._published = published
        self._waiting = waiting

    async def flush(self, name: str) -> list[tuple[int, dict[str, Any]]]:
        for number in self._published:
            self._channels.publish(name, number, event(number))
        return [(number, event(number)) for number in self._waiting]


async def follow(
    *, stored: int, published: list[int], waiting: list[int], status: str = "running"
) -> list[int]:
    channels = Channels()
    runs: Any = FakeRuns(channels, published, waiting)
    store: Any = FakeStore(stored, status)
    row = {"id": "x", "capture_mode": "full"}

    async def read() -> list[int]:
        events = live_events(row, store, runs, channels)
        return [int(found["outputData"]) async for found in events]

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    channels.publish("x", 8, event(8))
    channels.end("x")
    return await reader


async def test_what_is_stored_and_published_at_the_same_moment_comes_once() -> None:
    seen = await follow(stored=6, published=[4, 5, 6, 7], waiting=[])
    assert seen == list(range(9))


async def test_what_is_held_back_and_stored_at_the_same_moment_comes_once() -> None:
    seen = await follow(stored=6, published=[6, 7], waiting=[4, 5])
    assert seen == list(range(9))


async def test_what_is_held_back_comes_between_the_stored_and_the_new() -> None:
    seen = await follow(stored=4, published=[6, 7], waiting=[4, 5])
    assert seen == list(range(9))


async def test_a_run_that_has_ended_ends_the_stream() -> None:
    assert await follow(stored=4, published=[], waiting=[], status="completed") == [0, 1, 2, 3]
