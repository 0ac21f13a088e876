"""The log of a run, stepped by hand."""

from __future__ import annotations

import json
from typing import Any

from noukai_sdk.backend.run import RunLog, to_wire
from noukai_sdk.models.events import (
    FlowCompleted,
    StepCompleted,
    StepFailed,
    StepFailure,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)


def noted(*events: StreamEvent) -> RunLog:
    log = RunLog()
    for now, event in enumerate(events, start=1):
        log.record(event, now * 1000)
    return log


def started(name: str) -> StepStarted:
    return StepStarted(step_id=name)


def said(name: str, text: Any) -> StepOutput:
    return StepOutput(step_id=name, output_data=text)


def done(name: str, output: Any = None) -> StepCompleted:
    return StepCompleted(step_id=name, output=output)


def asks(name: str) -> ToolCallsRequired:
    return ToolCallsRequired(execution_id="x", step_id=name)


def test_the_wires_form() -> None:
    assert to_wire(StepStarted(step_id="a", step_index=0)) == {
        "eventType": "step_started",
        "stepId": "a",
        "stepIndex": 0,
    }
    assert next(iter(to_wire(FlowCompleted(result=None)))) == "eventType"
    # What the contract requires is there even where it is null.
    assert to_wire(done("a"))["output"] is None
    assert to_wire(FlowCompleted())["result"] is None
    assert to_wire(said("a", None))["outputData"] is None
    assert "tokens" not in to_wire(done("a"))


def test_a_step_from_start_to_end() -> None:
    log = noted(
        started("a"),
        StepInput(step_id="a", input_data={"model": "offline"}),
        said("a", "x"),
        done("a", "x"),
    )
    first, events, [step] = log.take()
    assert (first, len(events)) == (0, 4)
    assert (step.status, step.attempt, step.model_used, step.output) == (
        "completed",
        1,
        "offline",
        "x",
    )
    assert (step.started_at, step.completed_at, step.duration_ms) == (1000, 4000, 3.0)
    assert log.take() == (4, [], [])


def test_pieces_of_an_output_that_grows_are_not_given_yet() -> None:
    log = noted(started("a"), said("a", "x"), said("a", "y"))
    first, events, steps = log.take()
    assert (first, len(events), steps) == (0, 1, [])
    assert [number for number, _ in log.pending()] == [1, 2]
    log.record(done("a", "xy"), 9)
    first, events, _ = log.take()
    assert (first, len(events)) == (1, 3)


def test_steps_side_by_side() -> None:
    log = noted(
        started("a"), started("b"), said("b", "1"), said("a", "2"), done("b"), said("a", "3")
    )
    first, events, [step] = log.take()
    # Up to the first piece of a's output; b's is whole.
    assert (first, len(events), step.step_id) == (0, 3, "b")
    assert list(log.open_steps) == [("a", None)]


def test_a_second_start_is_a_second_attempt() -> None:
    log = noted(started("a"), said("a", "x"), started("a"), done("a"))
    steps = log.take()[2]
    assert [(s.number, s.attempt, s.status) for s in steps] == [
        (0, 1, "failed"),
        (1, 2, "completed"),
    ]


def test_after_a_pause_for_tools_the_attempt_goes_on() -> None:
    log = noted(started("a"), asks("a"))
    # Through JSON, as in the database, and in another process.
    log = RunLog.at(json.loads(json.dumps(log.position())))
    assert log.next_event == 2
    log.record(started("a"), 3000)
    log.record(done("a"), 5000)
    [step] = log.take()[2]
    assert (step.attempt, step.number, step.duration_ms) == (1, 0, 4.0)


def test_a_step_that_was_left_out() -> None:
    class Skipped(StepCompleted):
        skipped: bool = True

    [step] = noted(Skipped(step_id="a", output=None)).take()[2]
    assert (step.status, step.duration_ms) == ("skipped", 0.0)


def test_a_step_that_fails() -> None:
    log = noted(started("a"), StepFailed(step_id="a", error=StepFailure(code="X", message="y")))
    [step] = log.take()[2]
    assert (step.status, step.error) == ("failed", {"code": "X", "message": "y"})


def test_an_interruption_spares_what_waits_for_tools() -> None:
    log = noted(started("a"), started("b"), asks("b"))
    assert log.interrupt({"code": "C", "message": "m"}, 7000) == "a"
    assert list(log.open_steps) == [("b", None)]
    assert log.interrupt({"code": "C", "message": "m"}, 8000) is None
    [step] = log.take()[2]
    assert (step.step_id, step.status, step.error) == ("a", "failed", {"code": "C", "message": "m"})


def test_other_events_touch_no_step() -> None:
    log = noted(StepPaused(step_id="a", step_index=0), StepInput(step_id="b", input_data="text"))
    assert list(log.open_steps) == [("b", None)]
    assert log.open_steps["b", None].model_used is None


class ItemInput(StepInput):
    loop_index: int


class ItemOutput(StepOutput):
    loop_index: int


def test_the_items_of_a_loop() -> None:
    log = noted(
        started("a"),
        ItemInput(step_id="a", input_data={"model": "m"}, loop_index=0),
        ItemInput(step_id="a", input_data={"model": "n"}, loop_index=1),
        ItemOutput(step_id="a", output_data="x", loop_index=1),
        done("a", ["w", "x"]),
    )
    steps = {step.loop_index: step for step in log.take()[2]}
    assert [steps[index].output for index in (None, 0, 1)] == [["w", "x"], "w", "x"]
    assert [steps[index].model_used for index in (None, 0, 1)] == [None, "m", "n"]
    assert {step.status for step in steps.values()} == {"completed"}


def test_the_items_of_a_loop_that_is_tried_again() -> None:
    item = ItemInput(step_id="a", input_data=1, loop_index=0)
    log = noted(started("a"), item, started("a"), item)
    assert log.interrupt({"code": "C", "message": "m"}, 9000) == "a"
    found = [(s.attempt, s.loop_index, s.status, s.error is None) for s in log.take()[2]]
    assert found == [
        (1, None, "failed", True),
        (1, 0, "failed", True),
        (2, None, "failed", False),
        (2, 0, "failed", False),
    ]
