"""What a replayed ``events`` or ``steps`` gives: recorded events, or those that the steps tell of."""

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
from tests.replay.service import Service, Side, execution, step

pytestmark = pytest.mark.anyio


def shown(events: list[Any]) -> list[tuple[Any, ...]]:
    """Events as tuples: type, step, index and what they carry."""
    return [
        (
            event.type,
            getattr(event, "step_id", None),
            getattr(event, "step_index", None),
            getattr(event, "output", getattr(event, "result", None)),
        )
        for event in events
    ]


async def test_events_are_rebuilt_from_steps(service: Service, side: Side) -> None:
    steps = [step("draft", "a", durationMs=12), step("final", {"b": 1})]
    service.record(execution(0, triggerType="step", steps=steps))
    async with side.scope():
        events = await side.events()
    assert shown(events) == [
        ("run_started", None, None, None),
        ("step_started", "draft", 0, None),
        ("step_completed", "draft", 0, "a"),
        ("step_started", "final", 1, None),
        ("step_completed", "final", 1, {"b": 1}),
        ("flow_completed", None, None, {"b": 1}),
    ]
    assert (events[0].execution_id, events[0].flow_id, events[0].step_count) == (
        "exec-0",
        "flow-1",
        2,
    )
    assert events[2].duration_ms == 12


async def test_steps_are_the_finished_ones(service: Service, side: Side) -> None:
    service.record(execution(0, triggerType="step", steps=[step("a", 1), step("b", 2)]))
    async with side.scope():
        assert [each.output for each in await side.steps()] == [1, 2]


async def test_loops_and_retries_keep_the_index_of_their_step(service: Service, side: Side) -> None:
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


async def test_a_failed_step_ends_the_stream(service: Service, side: Side) -> None:
    steps = [
        step("a", 1),
        step("b", status="failed", errorSnapshot={"code": "BYOK_KEY_REJECTED", "message": "no"}),
        step("beside", 2),
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


async def test_a_failure_between_two_steps_is_raised_after_them(
    service: Service, side: Side
) -> None:
    error = {"statusCode": 402, "code": "CREDITS_EXHAUSTED", "message": "empty"}
    recorded = execution(0, triggerType="step", status="failed", steps=[step("a", 1)], error=error)
    service.record(recorded)
    seen = []
    async with side.scope():
        events = side.flow().events(message="m0")
        with pytest.raises(InsufficientCreditsError, match="empty"):
            while True:
                event = await anext(events) if side.is_async else next(events)
                seen.append(event.type)
    assert seen == ["run_started", "step_started", "step_completed"]


async def test_a_call_that_was_refused_at_once_has_no_events(service: Service, side: Side) -> None:
    error = {"statusCode": 402, "code": "INSUFFICIENT_CREDITS", "message": "empty"}
    service.record(execution(0, triggerType="step", status="failed", steps=[], error=error))
    async with side.scope():
        with pytest.raises(InsufficientCreditsError):
            events = side.flow().events(message="m0")
            await anext(events) if side.is_async else next(events)


async def test_the_recorded_events_win_over_the_steps(service: Service, side: Side) -> None:
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


async def test_a_stream_that_was_cut_off_ends_in_a_miss(service: Service, side: Side) -> None:
    steps = [step("a", 1), step("b", status="running")]
    service.record(execution(0, triggerType="step", status="running", steps=steps))
    with pytest.raises(ReplayMissError, match="not complete"):
        async with side.scope() as scope:
            await side.events()
    assert scope.report.summary() == "hits=0; misses=1; drift=0; leftovers=0"


async def test_leaving_early_is_no_error_and_uses_the_recording_up(
    service: Service, side: Side
) -> None:
    recorded = [execution(n, triggerType="step", status="running") for n in range(2)]
    service.record(*recorded)
    async with side.scope() as scope:
        for message in ("m0", "m1"):
            events = side.flow().events(message=message)
            if side.is_async:
                async for _ in events:
                    break
                await events.aclose()
            else:
                for _ in events:
                    break
    assert scope.report.summary() == "hits=2; misses=0; drift=0; leftovers=0"


async def test_a_malformed_event_is_refused_and_sticks(service: Service, side: Side) -> None:
    events = [{"eventType": "step_started", "stepId": 7}]
    service.record(execution(0, triggerType="step", events=events))
    with pytest.raises(ReplayInvalidSessionError, match="malformed: StepStarted: stepId"):
        async with side.scope():
            with pytest.raises(ReplayInvalidSessionError):
                await side.events()
