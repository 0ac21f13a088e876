"""POST step: the stream of each call, and the calls of one run."""

from __future__ import annotations

from typing import Any

from .backends import ASKS_WEATHER, MESSAGE, WEATHER, Backend, answered, types

ONE_STEP = ["step_started", "step_input", "step_completed"]


def next_call(events: list[dict[str, Any]], index: int, **more: Any) -> dict[str, Any]:
    execution_id = next(e["executionId"] for e in events if "executionId" in e)
    return {"executionId": execution_id, "stepIndex": index, **more}


def test_step_runs_one_step_a_call(backend: Backend) -> None:
    first = backend.step("tests/three", MESSAGE, "stepped")
    assert types(first) == ["run_started", *ONE_STEP, "step_paused"]
    assert first[0]["stepCount"] == 3
    assert first[0]["runId"] == first[0]["executionId"]
    outputs = {"one": first[-2]["output"]}
    assert first[-1] == {
        "eventType": "step_paused",
        "runId": first[0]["runId"],
        "stepId": "one",
        "stepIndex": 0,
        "executionId": first[0]["executionId"],
    }
    second = backend.step("tests/three", next_call(first, 1, accumulatedOutputs=outputs))
    assert types(second) == [*ONE_STEP, "step_paused"]
    assert [e["stepIndex"] for e in second if "stepIndex" in e] == [1, 1, 1]
    third = backend.step("tests/three", next_call(first, 2))
    assert types(third) == [*ONE_STEP, "flow_completed"]
    assert third[-1]["result"] == third[-2]["output"]
    assert third[-1]["executionId"] == first[0]["executionId"]
    [execution] = backend.session("stepped")
    assert execution["events"] == first + second + third
    assert execution["status"] == "completed"
    assert execution["triggerType"] == "step"


def test_step_later_call_uses_the_first_message(backend: Backend) -> None:
    first = backend.step("samples/two-step", {"message": "Bees", "parameters": {"x": 1}})
    second = backend.step("samples/two-step", next_call(first, 1))
    assert first[-2]["output"] in str(second[1]["inputData"])


def test_step_run_remaining_streams_all_steps_left(backend: Backend) -> None:
    events = backend.step("tests/three", {**MESSAGE, "runRemaining": True})
    assert types(events) == ["run_started", *ONE_STEP * 3, "flow_completed"]
    assert [e["stepIndex"] for e in events if e["eventType"] == "step_started"] == [0, 1, 2]
    started = backend.step("tests/three", MESSAGE)
    rest = backend.step("tests/three", next_call(started, 1, runRemaining=True))
    assert types(rest) == [*ONE_STEP * 2, "flow_completed"]


def test_step_chunks_add_up_to_the_output(backend: Backend) -> None:
    overrides = {"inputOverrides": {"hello": "The dog ran."}}
    events = backend.step("samples/hello-world", {**MESSAGE, **overrides})
    chunks = [e["outputData"] for e in events if e["eventType"] == "step_output"]
    completed = next(e for e in events if e["eventType"] == "step_completed")
    assert len(chunks) > 1
    assert "".join(chunks) == completed["output"]
    assert "The dog ran." in completed["output"]
    assert set(completed["tokens"]) == {"prompt", "completion", "total"}
    assert completed["durationMs"] >= 0
    assert float(completed["costUsd"]) == 0


def test_step_tool_pause_resumes_the_same_attempt(backend: Backend) -> None:
    first = backend.step("tests/asks", ASKS_WEATHER, "stepped-tools")
    second = backend.step("tests/asks", next_call(first, 1, tools=WEATHER))
    assert types(second) == ["step_started", "step_input", "step_paused_for_tool_calls"]
    pause = second[-1]
    assert (pause["stepId"], pause["stepIndex"], pause["iterationsUsed"]) == ("ask", 1, 1)
    assert pause["accumulatedOutputs"] == {"plan": first[-2]["output"]}
    resume = {"toolCallMessages": answered(pause), "pausedAtStep": "ask", "iterationsUsed": 1}
    third = backend.step("tests/asks", next_call(first, 1, tools=WEATHER, **resume))
    assert types(third)[-2:] == ["step_completed", "step_paused"]
    assert "sunny" in third[-2]["output"]
    fourth = backend.step("tests/asks", next_call(first, 2))
    assert types(fourth)[-1] == "flow_completed"
    [execution] = backend.session("stepped-tools")
    attempts = [(s["stepId"], s["attempt"]) for s in execution["steps"]]
    assert attempts == [("plan", 1), ("ask", 1), ("end", 1)]
    [tool_round] = execution["toolRounds"]
    assert tool_round["paused"]["toolCalls"] == pause["toolCalls"]
    assert [r["content"] for r in tool_round["toolResults"]] == ["sunny"]


def test_step_failed_step_ends_the_stream(backend: Backend) -> None:
    events = backend.step("tests/broken", {**MESSAGE, "runRemaining": True})
    assert types(events)[-1] == "step_error"
    assert events[-1]["stepId"] == "bad"
    assert events[-1]["error"]["code"] == "MODEL_ERROR"


def test_step_with_a_given_output_does_not_run(backend: Backend) -> None:
    given = {"stepOutputs": {"one": "given", "three": {"a": [1]}, "unknown": 1}}
    body = {**MESSAGE, "runRemaining": True, **given}
    events = backend.step("tests/three", body, "given-outputs")
    served = ["step_started", "step_completed"]
    assert types(events) == ["run_started", *served, *ONE_STEP, *served, "flow_completed"]
    completed = [event for event in events if event["eventType"] == "step_completed"]
    assert [event.get("tokens") is None for event in completed] == [True, False, True]
    assert [event["stepIndex"] for event in completed] == [0, 1, 2]
    assert "given" in str(next(e for e in events if e["eventType"] == "step_input")["inputData"])
    assert events[-1]["result"] == {"a": [1]}
    first = backend.step("tests/three", {**MESSAGE, **given})
    assert types(first) == ["run_started", *served, "step_paused"]
    second = backend.step("tests/three", next_call(first, 1))
    third = backend.step("tests/three", next_call(second, 2))
    assert third[-1]["result"] == {"a": [1]}
