"""The live trace: stored events, then new ones, each once and in order."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from noukai_sdk.backend.live_trace import Channels, live_events
from tests.support.servers import wait_until

from .backends import (
    ASKS_WEATHER,
    MESSAGE,
    Backend,
    answered,
    lines,
    parse,
    resume_body,
    types,
)

GATED = "/seq/acme/tests/gated/runs"


def test_live_trace_of_an_ended_run_has_all_its_events(backend: Backend) -> None:
    events = backend.step("tests/three", {**MESSAGE, "runRemaining": True})
    path = f"/seq/acme/tests/three/runs/{events[0]['executionId']}/trace/stream"
    assert parse(backend.get(path).text) == events


def test_live_trace_joined_within_an_output_has_each_event_once(fresh: Backend) -> None:
    job = fresh.submit("tests/gated")
    wait_until(fresh.fakes.reached.is_set)
    with fresh.client.stream("GET", f"{GATED}/{job}/trace/stream") as response:
        events = []
        for event in lines(response):
            events.append(event)
            if event.get("outputData") == "waiting ":
                fresh.fakes.opened.set()
    assert events == parse(fresh.get(f"{GATED}/{job}/trace/stream").text)
    assert types(events)[0] == "run_started"
    assert types(events)[-1] == "flow_completed"


def test_live_trace_follows_a_run_through_a_pause(backend: Backend) -> None:
    pause = backend.post("samples/weather/execute", ASKS_WEATHER).json()
    path = f"/seq/acme/samples/weather/runs/{pause['executionId']}/trace/stream"
    events: list[dict[str, Any]] = []

    def follow() -> None:
        with backend.client.stream("GET", path) as response:
            events.extend(lines(response))

    follower = threading.Thread(target=follow)
    follower.start()
    followers = backend.service.channels._followers
    wait_until(lambda: pause["executionId"] in followers, what="the follower")
    backend.post("samples/weather/execute", resume_body(pause, toolCallMessages=answered(pause)))
    follower.join(20)
    assert types(events) == [
        "run_started",
        "step_started",
        "step_input",
        "step_paused_for_tool_calls",
        "step_started",
        "step_input",
        "step_completed",
        "flow_completed",
    ]
    wait_until(lambda: pause["executionId"] not in followers, what="the end of the channel")


def test_live_trace_keeps_to_the_capture_mode(fresh: Backend) -> None:
    texts = {}
    for mode in ("off", "redacted"):
        fresh.fakes.opened.clear()
        fresh.fakes.reached.clear()
        fresh.write_flow("gated", f"{{capture: '{mode}', steps: [{{id: held, model: gate}}]}}")
        job = fresh.submit("tests/gated", {"message": "my password: hunter2"})
        wait_until(fresh.fakes.reached.is_set)
        with fresh.client.stream("GET", f"{GATED}/{job}/trace/stream") as response:
            wait_until(lambda name=job: name in fresh.service.channels._followers)
            fresh.fakes.opened.set()
            texts[mode] = str(list(lines(response)))
    assert texts["off"] == "[]"
    assert "password: [redacted]" in texts["redacted"]
    assert "hunter2" not in texts["redacted"]


def test_live_trace_abandoned_is_forgotten_and_the_run_continues(fresh: Backend) -> None:
    run = fresh.step("tests/three", MESSAGE)[0]["executionId"]
    followers = fresh.service.channels._followers
    with fresh.client.stream("GET", f"/seq/acme/tests/three/runs/{run}/trace/stream") as response:
        events = lines(response)  # kept: its end closes the connection
        assert next(events)["eventType"] == "run_started"
        wait_until(lambda: run in followers)
    wait_until(lambda: run not in followers, what="the end of the channel")
    assert fresh.step("tests/three", {"executionId": run, "stepIndex": 1})


def event(number: int) -> dict[str, Any]:
    return {"eventType": "step_output", "stepId": "a", "outputData": f"{number}"}


class FakeStore:
    """Has the first ``count`` events of a run."""

    def __init__(self, count: int, status: str) -> None:
        self._bodies = [
            {"first": first, "body": json.dumps([event(first), event(first + 1)])}
            for first in range(0, count, 2)
        ]
        self._status = status

    async def has_ended(self, _execution_id: str) -> bool:
        return self._status == "completed"

    async def events_from(self, _execution_id: str, _first: int) -> Any:
        return self._bodies


class FakeRuns:
    """Publishes events while the follower reads the stored ones, and returns pending ones."""

    def __init__(self, channels: Channels, published: list[int], pending: list[int]) -> None:
        self._channels = channels
        self._published = published
        self._pending = pending

    async def flush(self, execution_id: str) -> list[tuple[int, dict[str, Any]]]:
        for number in self._published:
            self._channels.publish(execution_id, number, event(number))
        return [(number, event(number)) for number in self._pending]


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("stored", "published", "pending", "status", "expected"),
    [
        pytest.param(6, [4, 5, 6, 7], [], "running", 9, id="stored and published"),
        pytest.param(6, [6, 7], [4, 5], "running", 9, id="pending and stored"),
        pytest.param(4, [6, 7], [4, 5], "running", 9, id="pending between stored and new"),
        pytest.param(4, [], [], "completed", 4, id="ended"),
    ],
)
async def test_live_events_at_the_same_moment_come_once(
    stored: int, published: list[int], pending: list[int], status: str, expected: int
) -> None:
    channels = Channels()
    runs: Any = FakeRuns(channels, published, pending)
    store: Any = FakeStore(stored, status)

    async def read() -> list[int]:
        events = live_events({"id": "x", "capture_mode": "full"}, store, runs, channels)
        return [int(event["outputData"]) async for event in events]

    reader = asyncio.ensure_future(read())
    await asyncio.sleep(0)
    channels.publish("x", 8, event(8))
    channels.end("x")
    assert await reader == list(range(expected))


def test_channels_closed_end_every_follower() -> None:
    async def follow() -> list[object]:
        channels = Channels()
        with channels.follow("a") as early:
            channels.publish("a", 0, {"n": 0})
            channels.publish("b", 0, {"n": 1})
            channels.close()
            with channels.follow("a") as late:
                return [early.get_nowait(), early.get_nowait(), late.get_nowait()]

    assert asyncio.run(follow()) == [(0, {"n": 0}), None, None]
