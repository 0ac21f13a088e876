"""Values that a database, a parser or a number would choke on, over SQLite and over Postgres."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Backend, serving
from .streams import WEATHER, answered, step, types
from .test_bad_input import code_of

MESSAGE = {"message": "hello"}
HELLO = "samples/hello-world"
LONG = "x" * 300


@pytest.fixture
def stored(database: str, tmp_path: Path) -> Iterator[Backend]:
    """A backend for one test, over each kind of database."""
    with serving(tmp_path, database=database) as backend:
        yield backend


@pytest.mark.parametrize("name", ["%00", "a%00b", "%FF", "%ED%A0%80", LONG, "%F0%9F%98%80"])
def test_names_that_no_run_has(stored: Backend, name: str) -> None:
    flow = f"/seq/acme/{HELLO}"
    for path in (f"jobs/{name}", f"runs/{name}/trace", f"runs/{name}/trace/stream"):
        assert code_of(stored.get(f"{flow}/{path}")) == (404, "RUN_NOT_FOUND")
    run = stored.post(f"{HELLO}/execute", MESSAGE).json()["executionId"]
    response = stored.get(f"{flow}/runs/{run}/steps/{name}/trace")
    assert code_of(response) == (404, "STEP_NOT_FOUND")
    assert stored.get(f"/seq/sessions/{name}").status_code in (400, 404)


@pytest.mark.parametrize("verb", ["execute", "step", "jobs"])
def test_names_that_no_flow_has(backend: Backend, verb: str) -> None:
    for name in (LONG, "%00", "%FF", "a.b", "\U0001f600", "..."):
        for path in (f"{name}/hello-world", f"samples/{name}"):
            answer = backend.post(f"{path}/{verb}", MESSAGE)
            assert code_of(answer) == (404, "FLOW_NOT_FOUND")
        answer = backend.post(f"{HELLO}/{name}/{verb}", MESSAGE)
        assert code_of(answer) == (400, "INVALID_VERSION")


def test_a_folder_of_flows_that_cannot_be_read(
    fresh: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed(*_: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/secret/place")

    fresh.post(f"{HELLO}/execute", MESSAGE, **{"X-Session-Id": "open"})
    monkeypatch.setattr(fresh.service.catalog, "get", closed)
    assert fresh.session("open")[0]["slug"] == "hello-world"
    answer = fresh.post(f"{HELLO}/execute", MESSAGE)
    assert code_of(answer) == (404, "FLOW_NOT_FOUND")
    assert answer.json()["detail"]["message"].endswith("Permission denied")


@pytest.mark.parametrize("name", ["\0", "a\0b", LONG, "\U0001f600"])
@pytest.mark.parametrize("verb", ["execute", "step"])
def test_runs_that_nobody_can_go_on_with(stored: Backend, verb: str, name: str) -> None:
    answer = stored.post(f"{HELLO}/{verb}", {"executionId": name})
    assert code_of(answer) == (400, "EXECUTION_ID_INVALID")


def test_attempts_with_more_digits_than_a_number_has(stored: Backend) -> None:
    run = stored.post(f"{HELLO}/execute", MESSAGE).json()["executionId"]
    path = f"/seq/acme/{HELLO}/runs/{run}/steps/hello/trace"
    for attempt in ("9" * 5000, "-1", "1.0", "\u00b2"):
        answer = stored.get(f"{path}?attempt={attempt}")
        assert code_of(answer) == (400, "INVALID_REQUEST")
    assert stored.get(f"{path}?attempt=1").status_code == 200
    assert code_of(stored.get(f"{path}?loop_index={'9' * 5000}")) == (400, "INVALID_REQUEST")


def test_long_names_are_stored(stored: Backend) -> None:
    flow = stored.settings.flows[0] / "acme/tests/long.yaml"
    flow.write_text(f"steps: [{{id: {LONG}, model: echo}}, {{id: bad, model: broken}}]")
    answer = stored.post("tests/long/execute", MESSAGE, **{"X-Session-Id": "long"})
    assert code_of(answer) == (502, "MODEL_ERROR")
    flow.write_text(f"steps: [{{id: bad{LONG}, model: broken}}]")
    stored.post("tests/long/execute", MESSAGE, **{"X-Session-Id": "long"})
    first, second = stored.session("long")
    assert [s["stepId"] for s in first["steps"]] == [LONG, "bad"]
    assert second["errorAtStep"] == f"bad{LONG}"


def test_a_body_that_is_announced_too_large_is_not_waited_for(backend: Backend) -> None:
    host, port = backend.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(
            f"POST /api/v1/seq/acme/{HELLO}/execute HTTP/1.1\r\nHost: x\r\n"
            "Authorization: Bearer nk_dev\r\nContent-Length: 99999999999\r\n\r\n{".encode()
        )
        answer = connection.recv(65536)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"x-request-id: req_" in answer


def test_a_path_is_not_given_back_whole(backend: Backend) -> None:
    answer = backend.get("/" + "a" * 50_000)
    assert code_of(answer) == (404, "ROUTE_NOT_FOUND")
    assert len(answer.content) < 1000


def nested(levels: int, innermost: Any = "end") -> Any:
    for _ in range(levels):
        innermost = [innermost]
    return innermost


def test_what_is_nested_deeply_is_refused_before_it_cannot_be_read_again(stored: Backend) -> None:
    deepest = 126
    session = {"X-Session-Id": "deep"}
    for name, value in (
        ("parameters", {"x": nested(deepest)}),
        ("inputOverrides", {"one": nested(deepest)}),
        ("accumulatedOutputs", {"one": nested(deepest)}),
    ):
        body = {**MESSAGE, name: value}
        first = step(stored, "tests/three", body, **session)
        rest = {"executionId": first[0]["executionId"], "stepIndex": 1, "runRemaining": True}
        assert types(step(stored, "tests/three", rest))[-1] == "flow_completed"
        deeper = {**MESSAGE, name: {key: [value[key]] for key in value}}
        for verb in ("execute", "step", "jobs"):
            answer = stored.post(f"tests/three/{verb}", deeper)
            assert code_of(answer) == (400, "INVALID_REQUEST")
            assert "128 levels" in answer.json()["detail"]["message"]
    assert [run["status"] for run in stored.session("deep")] == ["completed"] * 3


def test_tools_and_turns_that_are_nested_deeply(stored: Backend) -> None:
    function = {**WEATHER[0]["function"], "parameters": {"x": nested(122)}}
    body = {"message": "Paris?", "tools": [{"type": "function", "function": function}]}
    pause = stored.post("samples/weather/execute", body, **{"X-Session-Id": "deep"}).json()
    results = answered(pause)
    results[-1]["content"] = nested(125)
    resume = {
        "executionId": pause["executionId"],
        "pausedAtStep": pause["pausedAtStep"],
        "toolCallMessages": results,
    }
    assert stored.post("samples/weather/execute", resume).json()["status"] == "completed"
    turns = {"messages": [{"role": "user", "content": nested(125)}]}
    assert stored.post("tests/three/execute", turns, **{"X-Session-Id": "deep"}).status_code == 200
    assert [run["status"] for run in stored.session("deep")] == ["completed"] * 2


def test_an_output_that_is_nested_deeply_can_be_read_again(stored: Backend) -> None:
    """What a step gives is not ours to refuse."""
    flow = stored.settings.flows[0] / "acme/tests/deep.yaml"
    flow.write_text(
        f"steps: [{{id: deep, function: '{__name__}:two_hundred_and_forty'}}, {{id: end}}]"
    )
    first = step(stored, "tests/deep", MESSAGE, **{"X-Session-Id": "deep"})
    rest = {"executionId": first[0]["executionId"], "stepIndex": 1, "runRemaining": True}
    assert types(step(stored, "tests/deep", rest))[-1] == "flow_completed"
    [run] = stored.session("deep")
    assert run["steps"][0]["outputSnapshot"] == two_hundred_and_forty()


def two_hundred_and_forty() -> Any:
    """Levels."""
    return nested(240)
