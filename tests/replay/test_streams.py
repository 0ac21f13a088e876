"""Replayed ``events`` and ``steps``: the recorded events, or events rebuilt from the steps."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import (
    FlowExecutionError,
    InsufficientCreditsError,
    ReplayInvalidSessionError,
    ReplayMissError,
)
from tests.support.replays import SessionService, SyncSide, execution, step

pytestmark = pytest.mark.anyio


def shown(events: list[Any]) -> list[tuple[Any, ...]]:
    """Events as tuples: type, step, index and output."""
    return [
        (
            event.type,
            getattr(event, "step_id", None),
            getattr(event, "step_index", None),
            getattr(event, "output", getattr(event, "result", None)),
        )
        for event in events
    ]


async def test_events_are_rebuilt_from_steps(service: SessionService, side: SyncSide) -> None:
    steps = [step("draft", "a", durationMs=12), step("final", {"b": 1})]
    service.record(*(execution(n, triggerType="step", steps=steps) for n in range(2)))
    async with side.scope():
        events = await side.events("m0")
        assert await side.outputs("m1") == ["a", {"b": 1}]
    assert shown(events) == [
        ("run_started", None, None, None),
        ("step_started", "draft", 0, None),
        ("step_completed", "draft", 0, "a"),
        ("step_started", "final", 1, None),
        ("step_completed", "final", 1, {"b": 1}),
        ("flow_completed", None, None, {"b": 1}),
    ]
    started = events[0]
    assert (started.execution_id, started.flow_id, started.step_count) == ("exec-0", "flow-1", 2)
    assert events[2].duration_ms == 12


async def test_events_of_loops_and_retries_keep_the_index_of_their_step(
    service: SessionService, side: SyncSide
) -> None:
    steps = [
        step("each", "x", loopIndex=0),
        step("each", status="failed", loopIndex=1, attempt=1, errorSnapshot="no"),
        step("each", "y", loopIndex=1, attempt=2),
        step("left out", status="skipped"),
        step("join", "xy"),
    ]
    service.record(execution(0, triggerType="step", steps=steps))
    async with side.scope():
        events = await side.events()
    assert shown(events)[1:] == [
        ("step_started", "each", 0, None),
        ("step_completed", "each", 0, "x"),
        ("step_started", "each", 0, None),
        ("step_completed", "each", 0, "y"),
        ("step_started", "join", 1, None),
        ("step_completed", "join", 1, "xy"),
        ("flow_completed", None, None, "xy"),
    ]
    assert events[0].step_count == 2


async def test_events_end_with_the_failed_step(service: SessionService, side: SyncSide) -> None:
    steps = [
        step("a", 1),
        step("b", status="failed", errorSnapshot={"code": "BYOK_KEY_REJECTED", "message": "no"}),
        step("parallel", 2),
    ]
    failed = {"triggerType": "step", "status": "failed", "errorAtStep": "b", "steps": steps}
    service.record(execution(0, **failed), execution(1, **failed))
    async with side.scope() as scope:
        *_, last = await side.events()
        with pytest.raises(FlowExecutionError) as caught:
            await side.steps()
    assert (last.type, last.step_id) == ("step_error", "b")
    assert (last.error.code, last.error.message) == ("BYOK_KEY_REJECTED", "no")
    assert caught.value.code == "BYOK_KEY_REJECTED"
    assert scope.report.clean


@pytest.mark.parametrize(
    ("steps", "types"),
    [([step("a", 1)], ["run_started", "step_started", "step_completed"]), ([], [])],
)
async def test_failure_outside_of_steps_is_raised_after_their_events(
    service: SessionService, side: SyncSide, steps: list[Any], types: list[str]
) -> None:
    error = {"statusCode": 402, "code": "CREDITS_EXHAUSTED", "message": "empty"}
    failed = execution(0, triggerType="step", status="failed", steps=steps, error=error)
    service.record(failed)
    seen = []
    async with side.scope():
        events = side.flow().events(message="m0")
        with pytest.raises(InsufficientCreditsError, match="empty"):
            while True:
                seen.append((await side.next(events)).type)
    assert seen == types


async def test_recorded_events_win_over_the_steps(service: SessionService, side: SyncSide) -> None:
    events = [
        {"eventType": "flow_started", "runId": "exec-0", "stepCount": 2},
        {"eventType": "step_started", "stepId": "a", "stepIndex": 0},
        {"eventType": "step_progress", "stepId": "a", "percent": 50},
        {"eventType": "step_input", "stepId": "a", "inputData": {"message": "m0"}},
        {"eventType": "step_output", "stepId": "a", "outputData": "he"},
        {"eventType": "step_output", "stepId": "a", "outputData": "llo"},
        {"eventType": "step_completed", "stepId": "a", "output": "hello", "costUsd": "0.001"},
        {"eventType": "step_paused", "stepId": "a", "executionId": "exec-0"},
        {"eventType": "step_started", "stepId": "b", "stepIndex": 0},
        {"eventType": "step_completed", "stepId": "b", "output": "bye", "stepIndex": 0},
        {"eventType": "flow_completed", "result": "bye", "summary": {"tokens": 7}},
        {"eventType": "step_started", "stepId": "after the end"},
    ]
    service.record(execution(0, triggerType="step", events=events))
    async with side.scope():
        replayed = await side.events()
    assert shown(replayed) == [
        ("run_started", None, None, None),
        ("step_started", "a", 0, None),
        ("step_input", "a", None, None),
        ("step_output", "a", None, None),
        ("step_output", "a", None, None),
        ("step_completed", "a", 0, "hello"),
        ("step_paused", "a", 0, None),
        ("step_started", "b", 1, None),
        ("step_completed", "b", 1, "bye"),
        ("flow_completed", None, None, "bye"),
    ]
    assert replayed[0].event_type == "flow_started"
    assert [event.output_data for event in replayed[3:5]] == ["he", "llo"]
    assert replayed[5].cost_usd == "0.001"
    assert replayed[-1].summary == {"tokens": 7}


async def test_stream_read_past_its_recording_is_a_miss_and_left_early_is_not(
    service: SessionService, side: SyncSide
) -> None:
    steps = [step("a", 1), step("b", status="running")]
    cut = {"triggerType": "step", "status": "running", "steps": steps}
    service.record(execution(0, **cut), execution(1, **cut))
    with pytest.raises(ReplayMissError, match="not complete"):
        async with side.scope() as scope:
            events = side.flow().events(message="m0")
            await side.next(events)
            await side.close(events)
            await side.events("m1")
    assert scope.report.summary() == "hits=1; misses=1; drift=0; leftovers=0"


async def test_malformed_event_is_refused_and_reported(
    service: SessionService, side: SyncSide
) -> None:
    events = [{"eventType": "step_started", "stepId": 7}]
    service.record(execution(0, triggerType="step", events=events))
    async with side.scope() as scope:
        with pytest.raises(ReplayInvalidSessionError, match="malformed: StepStarted: stepId"):
            await side.events()
    assert len(scope.report.misses) == 1
