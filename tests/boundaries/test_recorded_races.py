"""Recorded functions and flow calls that race each other replay as they were captured."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from noukai_sdk import recorded, trace_scope
from noukai_sdk.models.boundaries import Boundary
from noukai_sdk.models.sessions import Session
from noukai_sdk.replay.recording import seconds_of
from noukai_sdk.replay.sources import recordings_of
from tests.support.replays import execution, iso

_answers = itertools.count()


@recorded(name="work")
async def work(task: int, step: int, delay: int) -> str:
    await asyncio.sleep(delay / 1000)
    return f"{task}.{step} #{next(_answers)}"


@recorded(name="stream")
async def stream(task: int, delays: Sequence[int]) -> AsyncIterator[str]:
    for delay in delays:
        await asyncio.sleep(delay / 1000)
        yield f"{task} #{next(_answers)}"


Plan = list[tuple[bool, list[int]]]
"""For each task: whether it reads a stream, and how long each step takes."""


async def race(plan: Plan) -> list[str]:
    """Return the results of all tasks in the order in which they came."""
    order: list[str] = []

    async def run(task: int, is_stream: bool, delays: list[int]) -> None:
        if is_stream:
            order.extend([item async for item in stream(task, delays)])
            return
        for step, delay in enumerate(delays):
            order.append(await work(task, step, delay))  # as they come

    await asyncio.gather(*(run(number, *each) for number, each in enumerate(plan)))
    return order


# The right order is that of the capture, whatever it was.
PLANS = st.lists(
    st.tuples(st.booleans(), st.lists(st.sampled_from([0, 3, 7, 13]), min_size=1, max_size=3)),
    min_size=2,
    max_size=4,
)


@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(plan=PLANS)
def test_races_of_recorded_functions_replay_in_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "true")
    path = tmp_path / "race.jsonl"

    async def run(**options: Any) -> list[str]:
        async with trace_scope(**options):
            return await race(plan)

    captured = asyncio.run(run(record=path))
    for _ in range(2):
        assert asyncio.run(run(cassette=path)) == captured


def test_calls_before_the_first_boundary_stay_before_it_if_clocks_differ() -> None:
    """The service's clock is ahead by an hour. Later calls would have the caller's times."""
    boundary = Boundary(name="load", position=0, started_at=iso(-3598), completed_at=iso(-3597.5))
    session = Session.model_validate(
        {"sessionId": "s-1", "executions": [execution(0), execution(1)], "boundaries": [boundary]}
    )
    first, second = recordings_of(session)
    times = [first.started_at, first.completed_at, second.started_at, second.completed_at]
    times.append(seconds_of(boundary.started_at))
    assert times == sorted(times, key=lambda at: at or 0.0)
    assert first.seconds == second.seconds == 0.5
