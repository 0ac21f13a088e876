"""POST execute, over HTTP."""

from __future__ import annotations

import re
import uuid
from typing import Any

import httpx
import pytest

from .conftest import Backend
from .streams import WEATHER, answered

MESSAGE = {"message": "The cat sat on the mat."}


def resume(backend: Backend, pause: dict[str, Any], **changes: Any) -> httpx.Response:
    body = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "iterationsUsed": pause["iterationsUsed"],
        "accumulatedOutputs": pause["accumulatedOutputs"],
        "toolCallMessages": answered(pause),
        "tools": WEATHER,
        **changes,
    }
    return backend.post("samples/weather/execute", body)


def test_completes(backend: Backend) -> None:
    response = backend.post("samples/hello-world/execute", MESSAGE)
    assert response.status_code == 200
    body = response.json()
    assert list(body) == ["status", "result", "flowId", "blockCount", "executionId"]
    assert body["status"] == "completed"
    assert "The cat sat on the mat." in body["result"]
    assert body["blockCount"] == 1
    assert uuid.UUID(body["executionId"])
    assert uuid.UUID(body["flowId"])
    assert re.fullmatch(r"req_[0-9a-f]{32}", response.headers["x-request-id"])


def test_every_answer_has_its_own_request_id(backend: Backend) -> None:
    ids = {
        backend.post("samples/hello-world/execute", MESSAGE).headers["x-request-id"] for _ in "ab"
    }
    assert len(ids) == 2


def test_messages_in_place_of_a_message(backend: Backend) -> None:
    turns = [
        {"role": "user", "content": "I am Ada."},
        {"role": "assistant", "content": "Hello Ada."},
        {"role": "user", "content": "Who am I?"},
    ]
    response = backend.post("samples/hello-world/execute", {"messages": turns})
    assert response.status_code == 200
    assert "Who am I?" in response.json()["result"]


def test_null_fields_are_as_if_they_were_not_there(backend: Backend) -> None:
    body = {**MESSAGE, "executionId": None, "pausedAtStep": None, "toolCallMessages": None}
    assert backend.post("samples/hello-world/execute", body).status_code == 200


def test_attachments(backend: Backend) -> None:
    attachments = [
        {"url": "https://example.test/a.png", "mime_type": "image/png"},
        {"url": "https://example.test/b"},
        {"url": "https://example.test/c", "mimeType": None},
    ]
    body = {**MESSAGE, "attachments": attachments}
    answer = backend.post("samples/hello-world/execute", body, **{"X-Session-Id": "attached"})
    assert answer.status_code == 200
    [execution] = backend.session("attached")
    assert "https://example.test/b" in str(execution["steps"][0]["inputSnapshot"])


@pytest.mark.parametrize(
    ("choice", "status"),
    [
        ("auto", "tool_calls_required"),
        ("required", "tool_calls_required"),
        ("none", "completed"),
        ({"type": "function", "function": {"name": "get_weather"}}, "tool_calls_required"),
    ],
)
def test_tool_choice(backend: Backend, choice: Any, status: str) -> None:
    body = {"message": "Paris?", "tools": WEATHER, "toolChoice": choice}
    assert backend.post("samples/weather/execute", body).json()["status"] == status


def test_parameters_reach_the_flow(backend: Backend) -> None:
    results = [
        backend.post("tests/picky/execute", {**MESSAGE, "parameters": {"style": style}})
        for style in ("verse", "prose")
    ]
    assert ["verse" in results[0].text, "prose" in results[1].text] == [True, True]


def test_unknown_fields_are_ignored(backend: Backend) -> None:
    body = {**MESSAGE, "somethingNew": {"a": 1}, "trace": True}
    assert backend.post("samples/hello-world/execute", body).status_code == 200


@pytest.mark.parametrize(
    ("path", "blocks"),
    [("pinned", 1), ("pinned/v2", 2), ("pinned/v0", 1)],
    ids=["draft", "published", "working copy"],
)
def test_versions(backend: Backend, path: str, blocks: int) -> None:
    response = backend.post(f"tests/{path}/execute", MESSAGE)
    assert response.json()["blockCount"] == blocks


def test_a_failed_step_is_an_error_answer_with_the_run(backend: Backend) -> None:
    response = backend.post("tests/broken/execute", MESSAGE, **{"X-Session-Id": "failed-run"})
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


def test_pauses_for_tools_and_goes_on(backend: Backend) -> None:
    pause = backend.post("samples/weather/execute", {"message": "Paris?", "tools": WEATHER}).json()
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
    answer = resume(backend, pause).json()
    assert answer["status"] == "completed"
    assert answer["executionId"] == pause["executionId"]
    assert "Paris: sunny" in answer["result"]


def test_pauses_as_often_as_the_model_asks(backend: Backend) -> None:
    asked = {"message": "Weather in Paris and Rome?", "tools": WEATHER}
    first = backend.post("samples/weather/execute", asked).json()
    second = resume(backend, first).json()
    assert second["status"] == "tool_calls_required"
    assert second["iterationsUsed"] == 2
    assert resume(backend, second).json()["status"] == "completed"


@pytest.mark.parametrize(
    "result",
    [{"tool_call_id": "", "content": "mild"}, {"toolCallId": "", "content": {"sky": "mild"}}],
    ids=["as the contract has it", "camelCase, content that is no text"],
)
def test_tool_results_in_both_forms(backend: Backend, result: dict[str, Any]) -> None:
    pause = backend.post("samples/weather/execute", {"message": "Paris?", "tools": WEATHER}).json()
    name = next(name for name in result if name != "content")
    result = {**result, "role": "tool", name: pause["toolCalls"][0]["id"]}
    messages = [*pause["toolCallMessages"], result]
    answer = resume(backend, pause, toolCallMessages=messages)
    assert "mild" in answer.json()["result"]


def test_results_alone_are_enough(backend: Backend) -> None:
    pause = backend.post("samples/weather/execute", {"message": "Paris?", "tools": WEATHER}).json()
    messages = answered(pause)[-1:]
    body = {"pausedAtStep": pause["pausedAtStep"], "toolCallMessages": messages}
    body["executionId"] = pause["executionId"]
    assert backend.post("samples/weather/execute", body).json()["status"] == "completed"


def test_the_clients_outputs_win_on_a_resume(backend: Backend) -> None:
    asked = {"message": "Paris?", "tools": WEATHER}
    pause = backend.post("tests/asks/execute", asked).json()
    assert list(pause["accumulatedOutputs"]) == ["plan"]
    outputs = {"plan": "my own plan", "end": "not done yet", "nobody": 1}
    body = {
        **{name: pause[name] for name in ("executionId", "pausedAtStep", "iterationsUsed")},
        "toolCallMessages": answered(pause),
        "accumulatedOutputs": outputs,
        "tools": WEATHER,
    }
    answer = backend.post("tests/asks/execute", body, **{"X-Session-Id": "ignored-on-resume"})
    assert answer.json()["status"] == "completed"
    assert "not done yet" not in answer.json()["result"]
    # A run stays in the session that it began in, here in none.
    assert backend.get("/seq/sessions/ignored-on-resume").status_code == 404


def test_a_retried_step_is_two_attempts(fresh: Backend) -> None:
    fresh.fakes.failures = 1
    answer = fresh.post("tests/retried/execute", MESSAGE, **{"X-Session-Id": "retried"})
    assert answer.json()["result"] == "at last"
    [execution] = fresh.session("retried")
    assert [(s["attempt"], s["status"]) for s in execution["steps"]] == [
        (1, "failed"),
        (2, "completed"),
    ]


def test_counts_runs_and_model_calls(fresh: Backend) -> None:
    assert fresh.stats() == {"modelCalls": 0, "executions": 0}
    fresh.post("samples/two-step/execute", MESSAGE, **{"X-Session-Id": "counted"})
    assert fresh.stats() == {"modelCalls": 2, "executions": 1}
    fresh.session("counted")
    fresh.post("samples/two-step/execute", {})
    assert fresh.stats() == {"modelCalls": 2, "executions": 1}
    assert httpx.get(f"{fresh.url}/healthz").json() == {"status": "ok"}


def test_an_edited_flow_file_is_used_at_once(fresh: Backend) -> None:
    path = fresh.settings.flows[0] / "acme/tests/three.yaml"
    path.write_text("steps: [{id: alone}]")
    assert fresh.post("tests/three/execute", MESSAGE).json()["blockCount"] == 1


def test_steps_side_by_side_in_a_loop_and_left_out(backend: Backend) -> None:
    body = {**MESSAGE, "parameters": {"words": ["a", "b"]}}
    answer = backend.post("tests/fan/execute", body, **{"X-Session-Id": "fan"}).json()
    assert answer["result"] == '["a!", "b!"]'
    [execution] = backend.session("fan")
    found = [(s["stepId"], s["loopIndex"], s["status"]) for s in execution["steps"]]
    assert found == [
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
    path = f"/seq/acme/tests/fan/runs/{answer['executionId']}/steps/each/trace"
    assert backend.get(path).json()["outputContext"] == ["a!", "b!"]
    assert backend.get(f"{path}?loop_index=1").json()["outputContext"] == "b!"


def test_a_failure_beside_another_step(fresh: Backend) -> None:
    response = fresh.post("tests/half/execute", MESSAGE, **{"X-Session-Id": "half"})
    assert response.status_code == 502
    [execution] = fresh.session("half")
    assert execution["errorAtStep"] == "bad"
    steps = {s["stepId"]: s for s in execution["steps"]}
    assert {s["status"] for s in steps.values()} == {"failed"}
    assert steps["held"]["errorSnapshot"]["code"] == "CANCELLED"
    assert fresh.fakes.left.wait(10)
