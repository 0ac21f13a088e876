"""Values that a database, a parser or a number cannot take, over SQLite and over Postgres."""

from __future__ import annotations

from typing import Any

from .backends import ASKS_WEATHER, WEATHER, Backend, answered, code_of, resume_body, types

MESSAGE = {"message": "hello"}
HELLO = "samples/hello-world"
LONG = "x" * 300


def test_run_unknown_name_is_not_found(stored: Backend) -> None:
    flow = f"/seq/acme/{HELLO}"
    run = stored.post(f"{HELLO}/execute", MESSAGE).json()["executionId"]
    for name in ("nobody", "%00", "a%00b", "%FF", "%ED%A0%80", LONG, "%F0%9F%98%80"):
        for path in (f"jobs/{name}", f"runs/{name}/trace", f"runs/{name}/trace/stream"):
            assert code_of(stored.get(f"{flow}/{path}")) == (404, "RUN_NOT_FOUND")
        response = stored.get(f"{flow}/runs/{run}/steps/{name}/trace")
        assert code_of(response) == (404, "RUN_NOT_FOUND")
        assert stored.get(f"/seq/sessions/{name}").status_code in (400, 404)
    for name in ("\0", "a\0b", LONG, "\U0001f600"):
        for verb in ("execute", "step"):
            response = stored.post(f"{HELLO}/{verb}", {"executionId": name})
            assert code_of(response) == (400, "EXECUTION_ID_INVALID")


def test_step_trace_number_with_too_many_digits_is_rejected(stored: Backend) -> None:
    run = stored.post(f"{HELLO}/execute", MESSAGE).json()["executionId"]
    path = f"/seq/acme/{HELLO}/runs/{run}/steps/hello/trace"
    for query in ("9" * 5000, "-1", "1.0", "\u00b2", f"1&loop_index={'9' * 5000}"):
        response = stored.get(f"{path}?attempt={query}")
        assert code_of(response) == (400, "INVALID_REQUEST")
    assert stored.get(f"{path}?attempt=1").status_code == 200


def test_run_long_step_ids_are_stored(stored: Backend) -> None:
    stored.write_flow(
        "long", f"steps: [{{id: {LONG}, model: echo}}, {{id: bad{LONG}, model: broken}}]"
    )
    response = stored.post("tests/long/execute", MESSAGE, "long")
    assert code_of(response) == (502, "MODEL_ERROR")
    [execution] = stored.session("long")
    assert [s["stepId"] for s in execution["steps"]] == [LONG, f"bad{LONG}"]
    assert execution["errorAtStep"] == f"bad{LONG}"


def test_run_awkward_parameters_are_stored_unchanged(stored: Backend) -> None:
    parameters = {"big": 10**400, "nul": "\0", "emoji": "\U0001f600", "deep": [[[{}]]]}
    body = {**MESSAGE, "parameters": parameters}
    assert stored.post(f"{HELLO}/execute", body, "awkward").status_code == 200
    [execution] = stored.session("awkward")
    assert execution["call"]["request"]["parameters"] == parameters


def nested(levels: int) -> Any:
    value: Any = "end"
    for _ in range(levels):
        value = [value]
    return value


def test_call_nested_too_deep_to_be_stored_is_rejected(stored: Backend) -> None:
    deepest = 126
    for name, value in (
        ("parameters", {"x": nested(deepest)}),
        ("inputOverrides", {"one": nested(deepest)}),
        ("accumulatedOutputs", {"one": nested(deepest)}),
    ):
        first = stored.step("tests/three", {**MESSAGE, name: value}, "deep")
        rest = {"executionId": first[0]["executionId"], "stepIndex": 1, "runRemaining": True}
        assert types(stored.step("tests/three", rest))[-1] == "flow_completed"
        deeper = {**MESSAGE, name: {key: [value[key]] for key in value}}
        for verb in ("execute", "step", "jobs"):
            response = stored.post(f"tests/three/{verb}", deeper)
            assert code_of(response) == (400, "INVALID_REQUEST")
            assert "128 levels" in response.json()["detail"]["message"]
    assert [run["status"] for run in stored.session("deep")] == ["completed"] * 3


def test_call_deeply_nested_tools_and_messages_are_stored(stored: Backend) -> None:
    function = {**WEATHER[0]["function"], "parameters": {"x": nested(122)}}  # type: ignore[dict-item]  # wrong on purpose
    tools = [{"type": "function", "function": function}]
    pause = stored.post("samples/weather/execute", {**ASKS_WEATHER, "tools": tools}, "deep").json()
    results = answered(pause)
    results[-1]["content"] = nested(125)
    resume = resume_body(pause, tools=None, toolCallMessages=results)
    assert stored.post("samples/weather/execute", resume).json()["status"] == "completed"
    turns = {"messages": [{"role": "user", "content": nested(125)}]}
    assert stored.post("tests/three/execute", turns, "deep").status_code == 200
    assert [run["status"] for run in stored.session("deep")] == ["completed"] * 2


def test_step_deeply_nested_output_is_stored(stored: Backend) -> None:
    """The backend cannot reject the output of a step."""
    function = f"{__name__}:two_hundred_and_forty"
    stored.write_flow("deep", f"steps: [{{id: deep, function: '{function}'}}, {{id: end}}]")
    first = stored.step("tests/deep", MESSAGE, "deep")
    rest = {"executionId": first[0]["executionId"], "stepIndex": 1, "runRemaining": True}
    assert types(stored.step("tests/deep", rest))[-1] == "flow_completed"
    [run] = stored.session("deep")
    assert run["steps"][0]["outputSnapshot"] == two_hundred_and_forty()


def two_hundred_and_forty() -> Any:
    """Return nested lists."""
    return nested(240)
