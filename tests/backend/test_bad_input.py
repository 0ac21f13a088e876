"""Calls with errors get the contract's error code, and leave the run as it is."""

from __future__ import annotations

import errno
import json
import socket
from typing import Any

import httpx
import pytest

from .backends import ASKS_WEATHER, WEATHER, Backend, code_of, resume_body, types

MESSAGE = {"message": "hello"}
HELLO = "samples/hello-world/execute"
WEATHER_FLOW = "samples/weather/execute"
TOOL = WEATHER[0]
LONG = "x" * 300


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
NOT_JSON: list[str | bytes] = [
    "",
    "no json",
    '{"message": "cut',
    "[]",
    '"message"',
    "null",
    '{"message": "a", "parameters": {"x": NaN}}',
    '{"message": "half a pair: \\ud800"}',
    '{"message": "a", "parameters": ' + '{"a":' * 300 + "1" + "}" * 300 + "}",
    b"\xff\xfe",
    b'{"message": "\xff"}',
]


@pytest.mark.parametrize("verb", ["execute", "step"])
def test_call_invalid_body_is_rejected_with_its_code(backend: Backend, verb: str) -> None:
    before = backend.stats()
    for body, code in BAD_BODIES:
        assert code_of(backend.post(f"samples/hello-world/{verb}", body)) == (400, code), body
    assert backend.stats() == before


@pytest.mark.parametrize("verb", ["execute", "step", "jobs"])
def test_call_body_that_is_not_json_is_rejected(backend: Backend, verb: str) -> None:
    for content in NOT_JSON:
        response = backend.client.post(f"/seq/acme/samples/hello-world/{verb}", content=content)
        assert code_of(response) == (400, "INVALID_REQUEST"), content


@pytest.mark.parametrize("verb", ["execute", "step", "jobs"])
def test_call_unknown_flow_or_version_is_rejected(backend: Backend, verb: str) -> None:
    for name in ("nobody", "%2e%2e", LONG, "%00", "%FF", "a.b", "\U0001f600", "..."):
        for path in (f"{name}/hello-world", f"samples/{name}"):
            response = backend.post(f"{path}/{verb}", MESSAGE)
            assert code_of(response) == (404, "FLOW_NOT_FOUND"), path
        if name != "%2e%2e":
            response = backend.post(f"samples/hello-world/{name}/{verb}", MESSAGE)
            assert code_of(response) == (400, "INVALID_VERSION"), name
    for path, error in [
        ("samples/hello-world/v7", (404, "FLOW_NOT_FOUND")),
        ("samples/hello-world/v999999999999", (400, "INVALID_VERSION")),
        ("tests/bad", (422, "INVALID_TREE")),
        ("tests/picky", (400, "TEMPLATE_UNRESOLVED")),
    ]:
        assert code_of(backend.post(f"{path}/{verb}", MESSAGE)) == error, path
    v0 = backend.post(f"samples/hello-world/v0/{verb}", MESSAGE)
    assert v0.status_code == {"execute": 200, "step": 400, "jobs": 202}[verb]


def test_call_unreadable_flow_folder_is_flow_not_found(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/place")

    fresh.post(HELLO, MESSAGE, "open")
    monkeypatch.setattr(fresh.service.catalog, "get", closed)
    assert fresh.session("open")[0]["slug"] == "hello-world"
    response = fresh.post(HELLO, MESSAGE)
    assert code_of(response) == (404, "FLOW_NOT_FOUND")
    assert response.json()["detail"]["message"].endswith("Permission denied")


def test_jobs_reject_tools_and_resumes(backend: Backend) -> None:
    jobs = "samples/weather/jobs"
    assert code_of(backend.post(jobs, ASKS_WEATHER)) == (400, "TOOLS_REQUIRE_SYNC_EXECUTE")
    assert code_of(backend.post(jobs, {"executionId": "x"})) == (400, "EXECUTION_ID_INVALID")


def test_call_message_over_the_limit_is_413(backend: Backend) -> None:
    limit = 1024 * 1024
    assert backend.post(HELLO, {"message": "x" * limit}).status_code == 200
    for body in (
        {"message": "x" * (limit + 1)},
        {"message": "ü" * (limit // 2 + 1)},
        {"messages": [{"role": "user", "content": "x" * limit}]},
        {**MESSAGE, "parameters": {"x": "y" * 8 * limit}},
    ):
        assert code_of(backend.post(HELLO, body)) == (413, "MESSAGES_TOO_LARGE")


def test_call_endless_body_is_413_before_its_end(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, port = backend.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST /api/v1/seq/acme/{HELLO} HTTP/1.1\r\nHost: x\r\n"
            "Authorization: Bearer nk_dev\r\nContent-Length: 99999999999\r\n\r\n{".encode()
        )
        response = connection.recv(65536)
    assert response.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: req_" in response
    monkeypatch.setattr("noukai_sdk.backend.bodies._MAX_DISCARDED", 0)
    chunks = (b"x" * 1_000_000 for _ in range(9))
    endless = backend.client.post(f"/seq/acme/{HELLO}", content=chunks)
    assert code_of(endless) == (413, "MESSAGES_TOO_LARGE")


def test_call_with_two_lengths_is_rejected_and_what_follows_is_not_read(backend: Backend) -> None:
    host, port = backend.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST /api/v1/seq/acme/{HELLO} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
            "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /healthz HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        )
        response = b"".join(iter(lambda: connection.recv(65536), b""))
    assert response.startswith(b"HTTP/1.1 400 ")
    assert response.count(b"HTTP/1.1 ") == 1


def test_call_body_with_too_many_lists_is_rejected(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.bodies._MAX_CONTAINERS", 200)
    lists = {**MESSAGE, "parameters": {"x": [[]] * 197}}
    assert backend.post(HELLO, lists).status_code == 200
    lists["parameters"]["x"].append([])
    response = backend.post(HELLO, lists)
    assert code_of(response) == (400, "INVALID_REQUEST")
    assert "200 lists and objects" in response.text


def test_call_large_body_beyond_memory_for_bodies_is_503(
    backend: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("noukai_sdk.backend.bodies._MAX_HELD", 1000)
    large = {**MESSAGE, "parameters": {"x": "y" * 300_000}}
    for _ in range(2):
        response = backend.post(HELLO, large)
        assert code_of(response) == (503, "OVERLOADED")
        assert response.headers["retry-after"] == "1"
        small = {**MESSAGE, "parameters": {"x": "y" * 10_000}}
        assert backend.post(HELLO, small).status_code == 200
    monkeypatch.undo()
    assert backend.post(HELLO, large).status_code == 200


def test_request_without_a_valid_key_is_401(backend: Backend) -> None:
    flow = "/seq/acme/samples/hello-world"
    with httpx.Client(base_url=f"{backend.url}/api/v1") as client:
        for key in (None, "", "nk_dev", "Bearer", "Bearer nk_unknown", "Basic nk_dev"):
            for method, path in [
                ("POST", f"{flow}/execute"),
                ("POST", f"{flow}/step"),
                ("POST", f"{flow}/jobs"),
                ("GET", "/seq/sessions/some"),
                ("GET", f"{flow}/jobs/x"),
                ("GET", f"{flow}/runs/x/trace"),
                ("GET", f"{flow}/runs/x/trace/stream"),
            ]:
                headers = {"Authorization": key} if key is not None else {}
                response = client.request(method, path, headers=headers)
                assert code_of(response) == (401, "UNAUTHENTICATED")
                assert response.headers["www-authenticate"] == 'Bearer realm="noukai"'
                assert "nk_unknown" not in response.text


def test_request_with_another_organisations_key_finds_nothing(backend: Backend) -> None:
    other = {"Authorization": "bearer nk_other"}
    run = backend.post(HELLO, MESSAGE).json()["executionId"]

    def detail(path: str, body: Any = None) -> dict[str, str]:
        url = f"/seq/acme/{path}"
        response = backend.client.request("POST" if body else "GET", url, json=body, headers=other)
        assert code_of(response)[0] == 404
        found: dict[str, str] = response.json()["detail"]
        return found

    # The errors are those for a flow and a run that do not exist.
    unknown = detail("samples/unknown/execute", MESSAGE)
    assert unknown == {"code": "FLOW_NOT_FOUND", "message": "there is no flow acme/samples/unknown"}
    message = unknown["message"].replace("unknown", "hello-world")
    assert detail(HELLO, MESSAGE) == {**unknown, "message": message}
    for path in ("jobs/{}", "runs/{}/trace", "runs/{}/trace/stream"):
        unknown = detail(f"samples/hello-world/{path.format('no-run')}")
        message = unknown["message"].replace("no-run", run)
        assert detail(f"samples/hello-world/{path.format(run)}") == {**unknown, "message": message}
    own = f"{backend.url}/api/v1/seq/otherorg/things/hello/execute"
    assert httpx.post(own, json=MESSAGE, headers=other).status_code == 200
    resume = httpx.post(own, json={"executionId": run}, headers=other)
    assert code_of(resume) == (400, "EXECUTION_ID_INVALID")


def test_call_invalid_session_id_is_rejected(backend: Backend) -> None:
    for session_id in ("a b", "..", "x" * 129, "a/b", ""):
        response = backend.post(HELLO, MESSAGE, session_id)
        assert code_of(response) == (400, "SESSION_ID_INVALID")


def test_request_unknown_route_is_404_or_405(backend: Backend) -> None:
    for method, path, status, code in [
        ("GET", "/", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/docs", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/api/v1/seq/nothing/here", 404, "ROUTE_NOT_FOUND"),
        ("POST", "/api/v1/seq/acme/samples/hello-world/execute/", 404, "ROUTE_NOT_FOUND"),
        ("GET", "/" + "a" * 50_000, 404, "ROUTE_NOT_FOUND"),
        ("GET", f"/api/v1/seq/acme/{HELLO}", 405, "METHOD_NOT_ALLOWED"),
        ("PATCH", "/api/v1/seq/sessions/some", 405, "METHOD_NOT_ALLOWED"),
    ]:
        response = backend.client.request(method, backend.url + path)
        assert code_of(response) == (status, code)
        assert len(response.content) < 1000


def test_trace_of_a_run_of_another_flow_or_kind_is_404(backend: Backend) -> None:
    run = backend.post(HELLO, MESSAGE).json()["executionId"]
    for path in (f"two-step/runs/{run}/trace", f"hello-world/jobs/{run}"):
        response = backend.get(f"/seq/acme/samples/{path}")
        assert code_of(response) == (404, "RUN_NOT_FOUND")


def results(pause: dict[str, Any], *call_ids: Any) -> list[dict[str, Any]]:
    messages = [{"role": "tool", "tool_call_id": name, "content": "x"} for name in call_ids]
    return [*pause["toolCallMessages"], *messages]


def test_resume_that_does_not_fit_leaves_the_run_as_it_is(backend: Backend) -> None:
    pause = backend.post(WEATHER_FLOW, ASKS_WEATHER, "patient").json()
    name = pause["toolCalls"][0]["id"]
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
        response = backend.post(WEATHER_FLOW, resume_body(pause, **changes))
        assert code_of(response) == (400, code), changes
    body = resume_body(pause)
    for path in ("samples/weather/step", "tests/asks/execute"):
        assert code_of(backend.post(path, body)) == (400, "EXECUTION_ID_INVALID"), path
    [waiting] = backend.session("patient")
    assert waiting["toolRounds"] == [{"paused": pause, "toolResults": None}]
    assert backend.post(WEATHER_FLOW, body).json()["status"] == "completed"
    # The run has ended now.
    assert code_of(backend.post(WEATHER_FLOW, body)) == (409, "EXECUTION_ID_INVALID")


def test_step_that_does_not_fit_leaves_the_run_as_it_is(backend: Backend) -> None:
    run = backend.step("tests/three", MESSAGE)[0]["executionId"]
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
    rest = {"executionId": run, "stepIndex": 1, "runRemaining": True}
    assert types(backend.step("tests/three", rest))[-1] == "flow_completed"
    response = backend.post(three, {"executionId": run, "stepIndex": 3})
    assert code_of(response) == (409, "EXECUTION_ID_INVALID")


def test_step_of_a_changed_flow_is_stale(fresh: Backend) -> None:
    run = fresh.step("tests/three", MESSAGE)[0]["executionId"]
    fresh.write_flow("three", "steps: [{id: one}, {id: other}]")
    response = fresh.post("tests/three/step", {"executionId": run, "stepIndex": 1})
    assert code_of(response) == (409, "STALE_TREE")
    assert response.json()["detail"]["executionId"] == run
    fresh.write_flow("three", "steps: [{id: one}, {id: two}, {id: three}]")
    assert fresh.step("tests/three", {"executionId": run, "stepIndex": 1})
    run = fresh.step("tests/pinned/v2", MESSAGE)[0]["executionId"]
    response = fresh.post("tests/pinned/step", {"executionId": run, "stepIndex": 1})
    assert code_of(response) == (409, "STALE_TREE")


def test_backend_bug_is_a_500_without_its_text(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a bug")

    async def fail_in_run(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("noukai_sdk.backend.runs.run_flow", fail_in_run)
    assert code_of(fresh.post(HELLO, MESSAGE, "bug")) == (500, "INTERNAL_ERROR")
    [execution] = fresh.session("bug")
    assert execution["status"] == "failed"
    assert execution["error"]["code"] == "INTERNAL_ERROR"
    assert "a bug" not in json.dumps(execution)
    monkeypatch.setattr(fresh.service.catalog, "get", fail)
    response = fresh.post(HELLO, MESSAGE)
    assert code_of(response) == (500, "INTERNAL_ERROR")
    assert "a bug" not in response.text
    assert response.headers["x-request-id"] in caplog.text
