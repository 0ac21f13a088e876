"""What is wrong gets the contract's error, and what was there before stays."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from .conftest import Backend
from .streams import WEATHER, answered, step, types

MESSAGE = {"message": "hello"}
HELLO = "samples/hello-world/execute"
TOOL = WEATHER[0]


def code_of(response: httpx.Response) -> tuple[int, str]:
    """Status and code, once the answer has the contract's shape."""
    detail = response.json()["detail"]
    assert {"code", "message"} <= set(detail) <= {"code", "message", "executionId"}
    assert detail["message"]
    assert response.headers["x-request-id"].startswith("req_")
    return response.status_code, detail["code"]


def tool(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": function}


BAD_BODIES = [
    ({}, "MISSING_MESSAGE"),
    ({"message": None}, "MISSING_MESSAGE"),
    ({"messages": []}, "MISSING_MESSAGE"),
    ({"message": 5}, "INVALID_REQUEST"),
    ({"message": ["hello"]}, "INVALID_REQUEST"),
    ({**MESSAGE, "parameters": [1]}, "INVALID_REQUEST"),
    ({**MESSAGE, "blockOverrides": {"hello": 1}}, "INVALID_REQUEST"),
    ({**MESSAGE, "blockOverrides": {"hello": {"temperature": 9}}}, "BLOCK_OVERRIDE_INVALID"),
    ({**MESSAGE, "trace": "yes"}, "INVALID_REQUEST"),
    ({**MESSAGE, "messages": [{"role": "user", "content": "a"}]}, "INVALID_FIRST_CALL"),
    ({"messages": [{"role": "system", "content": "a"}]}, "MESSAGES_ROLE_INVALID"),
    ({"messages": [{"content": "a"}]}, "MESSAGES_ROLE_INVALID"),
    ({"messages": "a"}, "MESSAGES_ROLE_INVALID"),
    ({**MESSAGE, "attachments": [{}]}, "ATTACHMENTS_INVALID"),
    ({**MESSAGE, "attachments": [{"url": "http://x.test/a"}]}, "ATTACHMENTS_INVALID"),
    (
        {**MESSAGE, "attachments": [{"url": "https://x.test/a", "mime_type": 1}]},
        "ATTACHMENTS_INVALID",
    ),
    ({**MESSAGE, "attachments": [{"url": "https://x.test/a"}] * 11}, "ATTACHMENTS_INVALID"),
    ({**MESSAGE, "tools": {}}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [{}]}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [{"type": "function", "function": "f"}]}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [tool(name="f", parameters=[])]}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [TOOL, TOOL]}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [tool(name=f"f{n}") for n in range(65)]}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [tool()]}, "TOOL_NAME_INVALID"),
    ({**MESSAGE, "tools": [tool(name="get weather")]}, "TOOL_NAME_INVALID"),
    ({**MESSAGE, "tools": [TOOL], "toolChoice": "always"}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [TOOL], "toolChoice": 5}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [TOOL], "toolChoice": tool(name="other")}, "TOOLS_INVALID"),
    ({**MESSAGE, "tools": [TOOL]}, "TOOLS_NOT_ENABLED"),
    ({**MESSAGE, "executionId": 5}, "EXECUTION_ID_INVALID"),
    ({"executionId": ""}, "EXECUTION_ID_INVALID"),
    ({"executionId": "no-such-run"}, "EXECUTION_ID_INVALID"),
    ({**MESSAGE, "pausedAtStep": "hello"}, "EXECUTION_ID_INVALID"),
    ({**MESSAGE, "toolCallMessages": [{"role": "tool"}]}, "EXECUTION_ID_INVALID"),
    ({**MESSAGE, "toolCallMessages": [5]}, "TOOL_RESULTS_MISMATCH"),
    ({**MESSAGE, "pausedAtStep": 5}, "PAUSED_STEP_INVALID"),
    ({**MESSAGE, "iterationsUsed": "one"}, "PAUSED_STEP_INVALID"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES)
@pytest.mark.parametrize("verb", ["execute", "step"])
def test_bad_bodies(backend: Backend, verb: str, body: Any, code: str) -> None:
    before = backend.stats()
    assert code_of(backend.post(f"samples/hello-world/{verb}", body)) == (400, code)
    assert backend.stats() == before


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json",
        '{"message": "cut',
        "[]",
        '"message"',
        "null",
        '{"message": "a", "parameters": {"x": NaN}}',
        '{"message": "half a pair: \\ud800"}',
        '{"message": "a", "parameters": ' + '{"a":' * 300 + "1" + "}" * 300 + "}",
    ],
)
@pytest.mark.parametrize("verb", ["execute", "step", "jobs"])
def test_no_json(backend: Backend, verb: str, text: str) -> None:
    response = backend.client.post(f"/seq/acme/samples/hello-world/{verb}", content=text)
    assert code_of(response) == (400, "INVALID_REQUEST")


@pytest.mark.parametrize("content", [b"\xff\xfe", b'{"message": "\xff"}'])
def test_no_utf8(backend: Backend, content: bytes) -> None:
    response = backend.client.post(f"/seq/acme/{HELLO}", content=content)
    assert code_of(response) == (400, "INVALID_REQUEST")


def test_awkward_values_survive(backend: Backend) -> None:
    parameters = {"big": 10**400, "nul": "\0", "emoji": "\U0001f600", "deep": [[[{}]]]}
    body = {**MESSAGE, "parameters": parameters}
    assert backend.post(HELLO, body, **{"X-Session-Id": "awkward"}).status_code == 200
    [execution] = backend.session("awkward")
    assert execution["call"]["request"]["parameters"] == parameters


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("samples/nobody/execute", 404, "FLOW_NOT_FOUND"),
        ("nothing/hello-world/execute", 404, "FLOW_NOT_FOUND"),
        ("samples/hello-world/v7/execute", 404, "FLOW_NOT_FOUND"),
        ("samples/hello-world/v999999999999/execute", 400, "INVALID_VERSION"),
        ("samples/hello-world/seven/execute", 400, "INVALID_VERSION"),
        ("samples/hello-world/v0/step", 400, "INVALID_VERSION"),
        ("samples/%2e%2e/execute", 404, "FLOW_NOT_FOUND"),
        ("tests/bad/execute", 422, "INVALID_TREE"),
    ],
)
def test_flows_that_are_not_there(backend: Backend, path: str, status: int, code: str) -> None:
    assert code_of(backend.post(path, MESSAGE)) == (status, code)


def test_a_parameter_that_the_flow_needs(backend: Backend) -> None:
    for verb in ("execute", "step", "jobs"):
        assert code_of(backend.post(f"tests/picky/{verb}", MESSAGE)) == (400, "TEMPLATE_UNRESOLVED")


def test_jobs_take_no_tools_and_no_resumes(backend: Backend) -> None:
    jobs = "samples/weather/jobs"
    assert code_of(backend.post(jobs, {**MESSAGE, "tools": WEATHER})) == (
        400,
        "TOOLS_REQUIRE_SYNC_EXECUTE",
    )
    assert code_of(backend.post(jobs, {"executionId": "x"})) == (400, "EXECUTION_ID_INVALID")


def test_the_message_limit(backend: Backend) -> None:
    limit = 1024 * 1024
    assert backend.post(HELLO, {"message": "x" * limit}).status_code == 200
    too_large = (413, "MESSAGES_TOO_LARGE")
    for body in (
        {"message": "x" * (limit + 1)},
        {"message": "ü" * (limit // 2 + 1)},
        {"message": "x" * 2 * limit},
        {"messages": [{"role": "user", "content": "x" * limit}]},
        {**MESSAGE, "parameters": {"x": "y" * 8 * limit}},
    ):
        assert code_of(backend.post(HELLO, body)) == too_large


def test_a_body_without_an_end_is_cut_off(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.bodies._MAX_DISCARDED", 0)
    chunks = (b"x" * 1_000_000 for _ in range(9))
    response = backend.client.post(f"/seq/acme/{HELLO}", content=chunks)
    assert code_of(response) == (413, "MESSAGES_TOO_LARGE")


@pytest.mark.parametrize("key", [None, "", "nk_dev", "Bearer", "Bearer nk_unknown", "Basic nk_dev"])
def test_keys(backend: Backend, key: str | None) -> None:
    paths = [
        ("POST", f"/seq/acme/{HELLO}"),
        ("POST", "/seq/acme/samples/hello-world/step"),
        ("POST", "/seq/acme/samples/hello-world/jobs"),
        ("GET", "/seq/sessions/some"),
        ("GET", "/seq/acme/samples/hello-world/jobs/x"),
        ("GET", "/seq/acme/samples/hello-world/runs/x/trace"),
        ("GET", "/seq/acme/samples/hello-world/runs/x/trace/stream"),
    ]
    for method, path in paths:
        headers = {"Authorization": key} if key is not None else {}
        response = httpx.request(method, f"{backend.url}/api/v1{path}", headers=headers)
        assert code_of(response) == (401, "UNAUTHENTICATED")
        assert response.headers["www-authenticate"] == 'Bearer realm="noukai"'
        assert "nk_unknown" not in response.text


def test_a_key_of_another_organisation(backend: Backend) -> None:
    other = {"Authorization": "bearer nk_other"}
    run = backend.post(HELLO, MESSAGE).json()["executionId"]
    assert code_of(backend.post(HELLO, MESSAGE, **other)) == (403, "FORBIDDEN")
    for path in (f"jobs/{run}", f"runs/{run}/trace", f"runs/{run}/trace/stream"):
        response = backend.get(f"/seq/acme/samples/hello-world/{path}", **other)
        assert code_of(response) == (403, "FORBIDDEN")
    own = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
    assert httpx.post(own, json=MESSAGE, headers=other).status_code == 200
    assert code_of(httpx.post(own, json={"executionId": run}, headers=other)) == (
        400,
        "EXECUTION_ID_INVALID",
    )


@pytest.mark.parametrize("name", ["a b", "..", "x" * 129, "a/b", ""])
def test_session_ids_of_calls(backend: Backend, name: str) -> None:
    response = backend.post(HELLO, MESSAGE, **{"X-Session-Id": name})
    assert code_of(response) == (400, "SESSION_ID_INVALID")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/api/v1/seq/nothing/here", 404, "ROUTE_NOT_FOUND"),
        ("POST", "/api/v1/seq/acme/samples/hello-world/execute/", 404, "ROUTE_NOT_FOUND"),
        ("GET", f"/api/v1/seq/acme/{HELLO}", 405, "METHOD_NOT_ALLOWED"),
        ("DELETE", "/api/v1/seq/sessions/some", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/docs", 404, "ROUTE_NOT_FOUND"),
    ],
)
def test_routes_that_are_not_there(
    backend: Backend, method: str, path: str, status: int, code: str
) -> None:
    assert code_of(httpx.request(method, backend.url + path)) == (status, code)


@pytest.mark.parametrize("path", ["runs/nobody/trace", "runs/nobody/trace/stream", "jobs/nobody"])
def test_runs_that_are_not_there(backend: Backend, path: str) -> None:
    response = backend.get(f"/seq/acme/samples/hello-world/{path}")
    assert code_of(response) == (404, "RUN_NOT_FOUND")


def test_a_run_of_another_flow(backend: Backend) -> None:
    run = backend.post(HELLO, MESSAGE).json()["executionId"]
    response = backend.get(f"/seq/acme/samples/two-step/runs/{run}/trace")
    assert code_of(response) == (404, "RUN_NOT_FOUND")


def pause_of(backend: Backend, **headers: str) -> dict[str, Any]:
    asked = {"message": "Paris?", "tools": WEATHER}
    pause: dict[str, Any] = backend.post("samples/weather/execute", asked, **headers).json()
    return pause


def resume_body(pause: dict[str, Any], **changes: Any) -> dict[str, Any]:
    body = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "iterationsUsed": 1,
        "toolCallMessages": answered(pause),
        "tools": WEATHER,
        **changes,
    }
    return {name: value for name, value in body.items() if value is not None}


def results(pause: dict[str, Any], *names: Any) -> list[dict[str, Any]]:
    given = [{"role": "tool", "tool_call_id": name, "content": "x"} for name in names]
    return [*pause["toolCallMessages"], *given]


def test_bad_resumes_leave_the_run_as_it_is(backend: Backend) -> None:
    pause = pause_of(backend, **{"X-Session-Id": "patient"})
    name = pause["toolCalls"][0]["id"]
    weather = "samples/weather/execute"
    for changes, code in [
        ({"pausedAtStep": None}, "PAUSED_STEP_INVALID"),
        ({"pausedAtStep": "elsewhere"}, "PAUSED_STEP_INVALID"),
        ({"iterationsUsed": 2}, "PAUSED_STEP_INVALID"),
        ({"toolCallMessages": None}, "TOOL_RESULTS_MISMATCH"),
        ({"toolCallMessages": pause["toolCallMessages"]}, "TOOL_RESULTS_MISMATCH"),
        ({"toolCallMessages": results(pause, "call_other")}, "TOOL_RESULTS_MISMATCH"),
        ({"toolCallMessages": results(pause, name, "call_other")}, "TOOL_RESULTS_MISMATCH"),
        ({"toolCallMessages": results(pause, name, name)}, "TOOL_RESULTS_MISMATCH"),
        ({"toolCallMessages": results(pause, None)}, "TOOL_RESULTS_MISMATCH"),
        ({"tools": [{}]}, "TOOLS_INVALID"),
        ({"blockOverrides": {"answer": {"timeout": -1}}}, "BLOCK_OVERRIDE_INVALID"),
    ]:
        response = backend.post(weather, resume_body(pause, **changes))
        assert code_of(response) == (400, code), changes
    # By another way, and under another flow.
    body = resume_body(pause)
    for path, status, code in [
        ("samples/weather/step", 400, "EXECUTION_ID_INVALID"),
        ("tests/asks/execute", 400, "EXECUTION_ID_INVALID"),
    ]:
        assert code_of(backend.post(path, body)) == (status, code), path
    [waiting] = backend.session("patient")
    assert waiting["toolRounds"] == [{"paused": pause, "toolResults": None}]
    assert backend.post(weather, body).json()["status"] == "completed"
    # And once more, when it is over.
    assert code_of(backend.post(weather, body)) == (409, "EXECUTION_ID_INVALID")


def test_bad_steps_leave_the_run_as_it_is(backend: Backend) -> None:
    run = step(backend, "tests/three", MESSAGE)[0]["executionId"]
    three = "tests/three/step"
    for changes, code in [
        ({"stepIndex": 0}, "INVALID_STEP_INDEX"),
        ({"stepIndex": 2}, "INVALID_STEP_INDEX"),
        ({"stepIndex": -1}, "INVALID_STEP_INDEX"),
        ({"stepIndex": "1"}, "INVALID_STEP_INDEX"),
        ({}, "INVALID_STEP_INDEX"),
        ({"stepIndex": 1, "pausedAtStep": "two"}, "PAUSED_STEP_INVALID"),
        ({"stepIndex": 1, "toolCallMessages": [{"role": "tool"}]}, "PAUSED_STEP_INVALID"),
    ]:
        response = backend.post(three, {"executionId": run, **changes})
        assert code_of(response) == (400, code), changes
    assert code_of(backend.post(three, {**MESSAGE, "stepIndex": 1})) == (400, "INVALID_FIRST_CALL")
    events = step(
        backend, "tests/three", {"executionId": run, "stepIndex": 1, "runRemaining": True}
    )
    assert types(events)[-1] == "flow_completed"
    response = backend.post(three, {"executionId": run, "stepIndex": 3})
    assert code_of(response) == (409, "EXECUTION_ID_INVALID")


def test_a_flow_that_was_changed_in_between(fresh: Backend) -> None:
    run = step(fresh, "tests/three", MESSAGE)[0]["executionId"]
    path = fresh.settings.flows[0] / "acme/tests/three.yaml"
    path.write_text("steps: [{id: one}, {id: other}]")
    response = fresh.post("tests/three/step", {"executionId": run, "stepIndex": 1})
    assert code_of(response) == (409, "STALE_TREE")
    assert response.json()["detail"]["executionId"] == run
    path.write_text("steps: [{id: one}, {id: two}, {id: three}]")
    assert step(fresh, "tests/three", {"executionId": run, "stepIndex": 1})


def test_another_version_of_the_flow(backend: Backend) -> None:
    run = step(backend, "tests/pinned/v2", MESSAGE)[0]["executionId"]
    response = backend.post("tests/pinned/step", {"executionId": run, "stepIndex": 1})
    assert code_of(response) == (409, "STALE_TREE")


def test_an_error_of_ours_is_a_500_of_the_same_shape(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(fresh.service.catalog, "get", fail)
    response = fresh.post(HELLO, MESSAGE)
    assert code_of(response) == (500, "INTERNAL_ERROR")
    assert "a bug" not in response.text
    assert response.headers["x-request-id"] in caplog.text


def test_a_run_that_fails_by_an_error_of_ours(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a bug")
        yield

    monkeypatch.setattr("noukai_sdk.backend.runs.run_steps", fail)
    response = fresh.post(HELLO, MESSAGE, **{"X-Session-Id": "bug"})
    assert code_of(response) == (500, "INTERNAL_ERROR")
    [execution] = fresh.session("bug")
    assert execution["status"] == "failed"
    assert execution["error"]["code"] == "INTERNAL_ERROR"
    assert json.dumps(execution).count("a bug") == 0
