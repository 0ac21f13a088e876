"""``execute``, stepped by hand."""

from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk import (
    APIConnectionError,
    ExecuteResult,
    FlowExecutionError,
    PausedResult,
    ToolCallLimitError,
)
from noukai_sdk.protocol.executing import execute
from noukai_sdk.protocol.program import CallTools, PauseSeen, ResultsSent, SendRequest
from tests.support.stepping import make_call, play, respond

DONE = {
    "status": "completed",
    "result": {"x": 1},
    "flowId": "f",
    "blockCount": 2,
    "executionId": "e",
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ASKED = [{"role": "user", "content": "hi"}, {"role": "assistant", "tool_calls": [CALL]}]
PAUSED = {
    "status": "tool_calls_required",
    "executionId": "e",
    "pausedAtStep": "step-1",
    "iterationsUsed": 1,
    "toolCallMessages": ASKED,
    "toolCalls": [CALL],
    "accumulatedOutputs": {"step-0": "out"},
    "flowId": "f",
    "blockCount": 1,
}
FIRST = {
    "message": "hi",
    "parameters": {"p": 1},
    "blockOverrides": {"step-1": {"temperature": 0}},
    "attachments": [{"url": "https://x"}],
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "toolChoice": "auto",
    "trace": True,
}
RESUME: dict[str, Any] = {
    **{name: value for name, value in FIRST.items() if name != "message"},
    "executionId": "e",
    "pausedAtStep": "step-1",
    "iterationsUsed": 1,
    "toolCallMessages": [*ASKED, {"role": "tool", "tool_call_id": "call_1", "content": "r"}],
    "accumulatedOutputs": {"step-0": "out"},
}


def handler(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": "r"} for call in tool_calls]


def test_execute_posts_request_and_returns_result() -> None:
    played = play(execute(make_call(session_id="s1")), [respond(DONE)])
    result = played.result
    assert result == ExecuteResult(
        status="completed",
        result={"x": 1},
        flow_id="f",
        block_count=2,
        execution_id="e",
        session_id="s1",
    )
    assert (result.output, result.requires_tool_calls) == ({"x": 1}, False)
    (request,) = played.requests
    assert (request.method, request.path) == ("POST", "/seq/acme/spelling/grade-3/execute")
    assert request.headers == {"Content-Type": "application/json", "X-Session-Id": "s1"}
    assert request.timeout == 300.0
    assert played.bodies == [{"message": "hi"}]


def test_execute_steps_as_program_docs_show() -> None:
    program = execute(make_call())
    assert isinstance(next(program), SendRequest)
    with pytest.raises(StopIteration) as end:
        program.send(respond(DONE))
    assert end.value.value.result == {"x": 1}


def test_execute_pause_without_handler_is_returned() -> None:
    played = play(execute(make_call(session_id="s1")), [respond(PAUSED)])
    paused = played.result.pause
    assert isinstance(paused, PausedResult)
    assert (paused.result, paused.output, paused.requires_tool_calls) == (None, None, True)
    assert (paused.tool_calls, paused.session_id) == ([CALL], "s1")
    (signal,) = played.signals
    assert isinstance(signal, PauseSeen)
    assert signal.pause is paused


def test_resume_repeats_settings_of_first_call() -> None:
    call = make_call(request=FIRST, session_id="s1", extra_headers={"X-Mine": "1"})
    paused = play(execute(call), [respond(PAUSED)]).result
    played = play(paused.resume([{"tool_call_id": "call_1", "output": "r"}]), [respond(DONE)])
    assert played.bodies == [RESUME]
    assert played.requests[0].headers["X-Session-Id"] == "s1"
    assert played.requests[0].headers["X-Mine"] == "1"
    (signal,) = played.signals
    assert isinstance(signal, ResultsSent)
    assert signal.results == RESUME["toolCallMessages"][-1:]
    assert played.result.status == "completed"


def test_resume_of_second_pause_sends_its_state() -> None:
    paused = play(execute(make_call(request=FIRST)), [respond(PAUSED)]).result
    again = play(paused.resume([]), [respond({**PAUSED, "iterationsUsed": 2})]).result
    played = play(again.resume([]), [respond(DONE)])
    assert played.bodies[0]["iterationsUsed"] == 2


def test_tool_handler_resumes_each_pause() -> None:
    call = make_call(request=FIRST, tool_handler=handler)
    second = {**PAUSED, "iterationsUsed": 2}
    played = play(execute(call), [respond(PAUSED), respond(second), respond(DONE)])
    assert played.bodies == [FIRST, RESUME, {**RESUME, "iterationsUsed": 2}]
    assert played.result.result == {"x": 1}
    assert [type(signal) for signal in played.signals] == [PauseSeen, ResultsSent] * 2


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_tool_rounds_over_limit_raise(limit: int) -> None:
    calls: list[int] = []

    def counting(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        calls.append(1)
        return handler(tool_calls)

    call = make_call(tool_handler=counting, max_tool_rounds=limit)
    with pytest.raises(ToolCallLimitError, match=f"max_tool_rounds={limit}") as caught:
        play(execute(call), [respond(PAUSED)] * (limit + 1))
    assert (len(calls), caught.value.execution_id) == (limit, "e")


def test_tool_handler_error_ends_call() -> None:
    program = execute(make_call(tool_handler=handler))
    next(program)
    program.send(respond(PAUSED))
    assert isinstance(next(program), CallTools)
    with pytest.raises(ZeroDivisionError):
        program.throw(ZeroDivisionError())


def test_execute_error_after_pause_names_run() -> None:
    call = make_call(tool_handler=handler)
    with pytest.raises(APIConnectionError) as lost:
        play(execute(call), [respond(PAUSED), APIConnectionError("lost")])
    assert lost.value.execution_id == "e"
    with pytest.raises(FlowExecutionError) as failed:
        play(execute(call), [respond(PAUSED), respond({"detail": {"executionId": "e2"}}, 500)])
    assert failed.value.execution_id == "e2"
    with pytest.raises(APIConnectionError) as fresh:
        play(execute(call), [APIConnectionError("lost")])
    assert fresh.value.execution_id is None


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"status": "sleeping"}, "Input tag 'sleeping'"),
        ({"result": 1}, "Unable to extract tag"),
        ({"status": "completed", "blockCount": "many"}, "blockCount"),
        ({"status": "tool_calls_required"}, "executionId: Field required"),
        (b"<html>", "Invalid JSON"),
    ],
)
def test_execute_response_not_valid_raises(body: Any, problem: str) -> None:
    with pytest.raises(FlowExecutionError, match=problem) as caught:
        play(execute(make_call()), [respond(body)])
    assert caught.value.code == "INVALID_RESPONSE"


def test_call_of_each_kind_goes_to_its_path() -> None:
    paths = []
    for kind in ("execute", "step", "job"):
        program = make_call(kind).live()
        paths.append(next(program).request.path.rsplit("/", 1)[1])
        program.close()
    assert paths == ["execute", "step", "jobs"]
