"""POST execute, over HTTP."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from .backends import ASKS_WEATHER, MESSAGE, Backend, resume_body

HELLO = "samples/hello-world/execute"
WEATHER_FLOW = "samples/weather/execute"


def test_execute_completes_with_result_and_ids(backend: Backend) -> None:
    first, second = (backend.post(HELLO, MESSAGE) for _ in "ab")
    assert first.status_code == 200
    body = first.json()
    contract = ["status", "result", "flowId", "blockCount", "executionId"]
    assert list(body) == [*contract, "durationMs", "tokens", "costUsd", "steps"]
    assert body["status"] == "completed"
    assert "The cat sat on the mat." in body["result"]
    assert body["blockCount"] == 1
    assert uuid.UUID(body["executionId"])
    assert uuid.UUID(body["flowId"])
    assert re.fullmatch(r"req_[0-9a-f]{32}", first.headers["x-request-id"])
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


def test_execute_null_and_unknown_fields_are_ignored(backend: Backend) -> None:
    nulls = {"executionId": None, "pausedAtStep": None, "toolCallMessages": None}
    body = {**MESSAGE, **nulls, "somethingNew": {"a": 1}, "trace": True}
    assert backend.post(HELLO, body).status_code == 200


def test_execute_messages_replace_the_message(backend: Backend) -> None:
    turns = [
        {"role": "user", "content": "I am Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "Who am I?"},
    ]
    assert "Who am I?" in backend.post(HELLO, {"messages": turns}).json()["result"]


def test_execute_turns_in_camel_case_reach_the_model_in_snake_case(backend: Backend) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns = [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": None, "toolCalls": [call]},
        {"role": "tool", "toolCallId": "c1", "content": "sunny"},
        {"role": "user", "content": "Thanks."},
    ]
    assert backend.post(HELLO, {"messages": turns}, "camel").status_code == 200
    [execution] = backend.session("camel")
    assistant, tool = execution["steps"][0]["inputSnapshot"]["messages"][-3:-1]
    assert (assistant["tool_calls"], tool["tool_call_id"]) == ([call], "c1")


def test_execute_attachments_and_parameters_reach_the_steps(backend: Backend) -> None:
    attachments = [
        {"url": "https://example.test/a.png", "mime_type": "image/png"},
        {"url": "https://example.test/b"},
        {"url": "https://example.test/c", "mimeType": None},
    ]
    body = {**MESSAGE, "attachments": attachments}
    assert backend.post(HELLO, body, "attached").status_code == 200
    [execution] = backend.session("attached")
    assert "https://example.test/b" in str(execution["steps"][0]["inputSnapshot"])
    for style in ("verse", "prose"):
        body = {**MESSAGE, "parameters": {"style": style}}
        assert style in backend.post("tests/picky/execute", body).json()["result"]


@pytest.mark.parametrize(
    ("choice", "status"),
    [
        ("auto", "tool_calls_required"),
        ("required", "tool_calls_required"),
        ("none", "completed"),
        ({"type": "function", "function": {"name": "get_weather"}}, "tool_calls_required"),
    ],
)
def test_execute_tool_choice_decides_the_pause(backend: Backend, choice: Any, status: str) -> None:
    body = {**ASKS_WEATHER, "toolChoice": choice}
    assert backend.post(WEATHER_FLOW, body).json()["status"] == status


def test_execute_version_selects_the_flow_file(backend: Backend) -> None:
    for path, blocks in [("pinned", 1), ("pinned/v2", 2), ("pinned/v0", 1)]:
        response = backend.post(f"tests/{path}/execute", MESSAGE)
        assert response.json()["blockCount"] == blocks
    assert backend.step("tests/pinned/v2", MESSAGE)[0]["stepCount"] == 2


def test_execute_edited_flow_file_is_used_at_once(fresh: Backend) -> None:
    fresh.write_flow("three", "steps: [{id: alone}]")
    assert fresh.post("tests/three/execute", MESSAGE).json()["blockCount"] == 1


def test_execute_failed_step_returns_its_error(backend: Backend) -> None:
    response = backend.post("tests/broken/execute", MESSAGE, "failed-run")
    assert response.status_code == 502
    detail = response.json()["detail"]
    assert detail["code"] == "MODEL_ERROR"
    assert "the provider hung up" in detail["message"]
    [execution] = backend.session("failed-run")
    assert execution["executionId"] == detail["executionId"]
    assert execution["status"] == "failed"
    assert execution["errorAtStep"] == "bad"
    assert execution["error"] == {
        "statusCode": 502,
        "code": "MODEL_ERROR",
        "message": detail["message"],
    }
    assert [s["status"] for s in execution["steps"]] == ["completed", "failed"]
    assert execution["steps"][1]["errorSnapshot"]["code"] == "MODEL_ERROR"


def test_execute_failed_step_cancels_parallel_steps(fresh: Backend) -> None:
    response = fresh.post("tests/half/execute", MESSAGE, "half")
    assert response.status_code == 502
    [execution] = fresh.session("half")
    assert execution["errorAtStep"] == "bad"
    steps = {s["stepId"]: s for s in execution["steps"]}
    assert {s["status"] for s in steps.values()} == {"failed"}
    assert steps["held"]["errorSnapshot"]["code"] == "CANCELLED"
    assert fresh.fakes.left.wait(30)


def test_execute_resumes_after_each_tool_pause(backend: Backend) -> None:
    pause = backend.post(WEATHER_FLOW, {**ASKS_WEATHER, "message": "Paris and Rome?"}).json()
    assert list(pause) == [
        "status",
        "executionId",
        "pausedAtStep",
        "iterationsUsed",
        "toolCallMessages",
        "toolCalls",
        "accumulatedOutputs",
        "flowId",
        "blockCount",
    ]
    assert pause["status"] == "tool_calls_required"
    assert pause["iterationsUsed"] == 1
    assert pause["toolCalls"][0]["function"]["arguments"] == '{"city": "Paris"}'
    assert pause["toolCallMessages"][-1]["role"] == "assistant"
    second = backend.post(WEATHER_FLOW, resume_body(pause)).json()
    assert second["status"] == "tool_calls_required"
    assert second["iterationsUsed"] == 2
    body = backend.post(WEATHER_FLOW, resume_body(second)).json()
    assert body["status"] == "completed"
    assert body["executionId"] == pause["executionId"]
    assert "Paris: sunny" in body["result"]


def test_execute_resume_accepts_each_form_of_a_tool_result(backend: Backend) -> None:
    for form, with_conversation in [
        ({"tool_call_id": "", "content": "mild"}, True),
        ({"toolCallId": "", "content": {"sky": "mild"}}, True),
        ({"tool_call_id": "", "content": "mild"}, False),
    ]:
        pause = backend.post(WEATHER_FLOW, ASKS_WEATHER).json()
        name = next(name for name in form if name != "content")
        result = {**form, "role": "tool", name: pause["toolCalls"][0]["id"]}
        messages = [*(pause["toolCallMessages"] if with_conversation else []), result]
        only_required = {"iterationsUsed": None, "accumulatedOutputs": None, "tools": None}
        changes = {} if with_conversation else only_required
        response = backend.post(
            WEATHER_FLOW, resume_body(pause, toolCallMessages=messages, **changes)
        )
        assert "mild" in response.json()["result"]


def test_execute_resume_takes_the_clients_outputs(backend: Backend) -> None:
    pause = backend.post("tests/asks/execute", ASKS_WEATHER).json()
    assert list(pause["accumulatedOutputs"]) == ["plan"]
    outputs = {"plan": "my own plan", "end": "not done yet", "unknown": 1}
    body = resume_body(pause, accumulatedOutputs=outputs)
    response = backend.post("tests/asks/execute", body, "ignored-on-resume")
    assert response.json()["status"] == "completed"
    assert "not done yet" not in response.json()["result"]
    # A run stays in the session in which it began: here in none.
    assert backend.get("/seq/sessions/ignored-on-resume").status_code == 404


def test_stats_count_runs_and_model_calls(fresh: Backend) -> None:
    assert fresh.stats() == {"modelCalls": 0, "executions": 0}
    fresh.post("samples/two-step/execute", MESSAGE, "counted")
    assert fresh.stats() == {"modelCalls": 2, "executions": 1}
    fresh.session("counted")
    fresh.post("samples/two-step/execute", {})
    assert fresh.stats() == {"modelCalls": 2, "executions": 1}
    assert httpx.get(f"{fresh.url}/healthz").json() == {"status": "ok"}


def test_execute_records_parallel_looped_and_skipped_steps(backend: Backend) -> None:
    body = {**MESSAGE, "parameters": {"words": ["a", "b"]}}
    response = backend.post("tests/fan/execute", body, "fan").json()
    assert response["result"] == '["a!", "b!"]'
    [execution] = backend.session("fan")
    steps = [(s["stepId"], s["loopIndex"], s["status"]) for s in execution["steps"]]
    assert steps == [
        ("left", None, "completed"),
        ("right", None, "completed"),
        ("each", None, "completed"),
        ("each", 0, "completed"),
        ("each", 1, "completed"),
        ("sure", None, "completed"),
        ("yes_", None, "skipped"),
        ("no_", None, "completed"),
    ]
    assert [s["outputSnapshot"] for s in execution["steps"][2:5]] == [["a!", "b!"], "a!", "b!"]
    path = f"/seq/acme/tests/fan/runs/{response['executionId']}/steps/each/trace"
    assert backend.get(path).json()["outputContext"] == {"output": ["a!", "b!"]}
    assert backend.get(f"{path}?loop_index=1").json()["outputContext"] == {"output": "b!"}
