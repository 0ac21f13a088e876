"""The log of a run, as far as HTTP does not show it; and the check of a stored run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import Field

from noukai_sdk.backend.errors import RequestError
from noukai_sdk.backend.resuming import resumed_run
from noukai_sdk.backend.run import RunLog, to_wire
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.models.events import (
    FlowCompleted,
    StepCompleted,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)
from noukai_sdk.models.requests import StepRequest

ERROR = {"code": "C", "message": "m"}


def log_of(*events: StreamEvent) -> RunLog:
    log = RunLog()
    for now, event in enumerate(events, start=1):
        record(log, event, now * 1000)
    return log


def record(log: RunLog, event: StreamEvent, now: int) -> None:
    log.record(event, to_wire(event, "r"), now)


def started(step_id: str) -> StepStarted:
    return StepStarted(step_id=step_id)


def chunk(step_id: str, text: Any) -> StepOutput:
    return StepOutput(step_id=step_id, output_data=text)


def completed(step_id: str, output: Any = None) -> StepCompleted:
    return StepCompleted(step_id=step_id, output=output)


class ItemInput(StepInput):
    loop_index: int
    model: str | None = Field(None, exclude=True)


class ItemOutput(StepOutput):
    loop_index: int


def test_to_wire_keeps_required_fields_that_are_null() -> None:
    event = to_wire(StepStarted(step_id="a", step_index=0), "r")
    assert list(event.items()) == [
        ("eventType", "step_started"),
        ("runId", "r"),
        ("executionId", "r"),
        ("stepId", "a"),
        ("stepIndex", 0),
    ]
    assert to_wire(completed("a"), "r")["output"] is None
    assert to_wire(FlowCompleted(), "r")["result"] is None
    assert to_wire(chunk("a", None), "r")["outputData"] is None
    assert "tokens" not in to_wire(completed("a"), "r")


def test_take_holds_back_the_chunks_of_a_growing_output() -> None:
    log = log_of(started("a"), chunk("a", "x"), chunk("a", "y"))
    first, events, steps = log.take()
    assert (first, len(events), steps) == (0, 1, [])
    assert [number for number, _ in log.pending()] == [1, 2]
    record(log, completed("a", "xy"), 9000)
    first, events, [step] = log.take()
    assert (first, len(events)) == (1, 3)
    assert (step.started_at, step.completed_at, step.duration_ms) == (1000, 9000, 8.0)
    assert log.take() == (4, [], [])


def test_take_of_parallel_steps_ends_before_the_growing_output() -> None:
    log = log_of(
        started("a"),
        started("b"),
        chunk("b", "1"),
        chunk("a", "2"),
        completed("b"),
        chunk("a", "3"),
    )
    first, events, [step] = log.take()
    # Up to the first chunk of a; b is complete.
    assert (first, len(events), step.step_id) == (0, 3, "b")
    assert list(log.open_steps) == [("a", None)]


def test_interrupt_fails_the_steps_that_do_not_wait_for_tools() -> None:
    log = log_of(started("a"), started("b"), ToolCallsRequired(execution_id="x", step_id="b"))
    assert log.interrupt(ERROR, 7000) == "a"
    # Through JSON, as in the database, and in another process.
    log = RunLog.at(json.loads(json.dumps(log.position())))
    assert log.next_event == 3
    assert log.interrupt(ERROR, 8000) is None
    assert list(log.open_steps) == [("b", None)]
    record(log, started("b"), 9000)
    record(log, completed("b"), 10_000)
    [step] = log.take()[2]
    assert (step.attempt, step.number, step.duration_ms) == (1, 1, 8.0)


def test_record_loop_tried_again_closes_the_items_of_the_first_attempt() -> None:
    item = ItemInput(step_id="a", input_data={"model": "m"}, loop_index=0, model="m")
    output = ItemOutput(step_id="a", output_data="x", loop_index=0)
    log = log_of(started("a"), item, output, started("a"), item)
    assert log.interrupt(ERROR, 9000) == "a"
    steps = [(s.attempt, s.loop_index, s.status, s.model_used, s.error) for s in log.take()[2]]
    assert steps == [
        (1, None, "failed", None, None),
        (1, 0, "failed", "m", None),
        (2, None, "failed", None, ERROR),
        (2, 0, "failed", "m", ERROR),
    ]


def test_record_events_outside_of_a_step_open_none() -> None:
    log = log_of(StepPaused(step_id="a", step_index=0), StepInput(step_id="b", input_data="text"))
    assert list(log.open_steps) == [("b", None)]
    assert log.open_steps["b", None].model_used is None


def test_resumed_run_driven_by_another_process_is_409() -> None:
    flow = FlowCatalog().get("acme", "samples", "two-step")
    row = {"id": "x", "org": "acme", "project": "samples", "slug": "two-step"}
    row |= {"trigger": "step", "status": "running"}
    call = StepRequest(execution_id="x", step_index=1)
    with pytest.raises(RequestError, match="another call continues this run") as caught:
        resumed_run(row, flow, None, call, "step")
    assert caught.value.status == 409
