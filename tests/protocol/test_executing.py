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
from tests.support.stepping import a_call, answer, play

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
RESUME = {
    **{name: value for name, value in FIRST.items() if name != "message"},
    "executionId": "e",
    "pausedAtStep": "step-1",
    "iterationsUsed": 1,
    "toolCallMessages": [*ASKED, {"role": "tool", "tool_call_id": "call_1", "content": "r"}],
    "accumulatedOutputs": {"step-0": "out"},
}


def handler(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"tool_call_id": call["id"], "output": "r"} for call in tool_calls]


def test_one_exchange() -> None:
    played = play(execute(a_call(session_id="s1")), [answer(DONE)])
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


def test_step_by_step_as_the_docs_of_program_say() -> None:
    program = execute(a_call())
    want = next(program)
    assert isinstance(want, SendRequest)
    with pytest.raises(StopIteration) as end:
        program.send(answer(DONE))
    assert end.value.value.result == {"x": 1}


def test_a_failed_run_is_a_result() -> None:
    result = play(execute(a_call()), [answer({**DONE, "status": "failed", "result": None})]).result
    assert (result.status, result.result) == ("failed", None)


def test_a_pause_that_nobody_here_answers() -> None:
    played = play(execute(a_call(session_id="s1")), [answer(PAUSED)])
    paused = played.result
    assert isinstance(paused, PausedResult)
    assert (paused.result, paused.output, paused.requires_tool_calls) == (None, None, True)
    assert (paused.tool_calls, paused.session_id) == ([CALL], "s1")
    assert played.notes == [PauseSeen(paused)]


def test_a_resume_repeats_what_the_first_call_said_and_only_that() -> None:
    call = a_call(request=FIRST, session_id="s1", extra_headers={"X-Mine": "1"})
    paused = play(execute(call), [answer(PAUSED)]).result
    played = play(paused._resume([{"tool_call_id": "call_1", "output": "r"}]), [answer(DONE)])
    assert played.bodies == [RESUME]
    assert played.requests[0].headers["X-Session-Id"] == "s1"
    assert played.requests[0].headers["X-Mine"] == "1"
    assert played.notes == [ResultsSent(RESUME["toolCallMessages"][-1:])]  # type: ignore[index]  # RESUME holds a list there
    assert played.result.status == "completed"


def test_pause_after_pause_by_hand() -> None:
    paused = play(execute(a_call(request=FIRST)), [answer(PAUSED)]).result
    again = play(paused._resume([]), [answer({**PAUSED, "iterationsUsed": 2})]).result
    played = play(again._resume([]), [answer(DONE)])
    assert played.bodies[0]["iterationsUsed"] == 2


def test_a_handler_answers_round_after_round() -> None:
    call = a_call(request=FIRST, tool_handler=handler)
    second = {**PAUSED, "iterationsUsed": 2}
    played = play(execute(call), [answer(PAUSED), answer(second), answer(DONE)])
    assert played.bodies == [FIRST, RESUME, {**RESUME, "iterationsUsed": 2}]
    assert played.result.result == {"x": 1}
    assert [type(note) for note in played.notes] == [PauseSeen, ResultsSent] * 2


@pytest.mark.parametrize("limit", [0, 1, 3])
def test_the_rounds_are_counted(limit: int) -> None:
    asked: list[int] = []

    def counting(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
        asked.append(1)
        return handler(tool_calls)

    call = a_call(tool_handler=counting, max_tool_rounds=limit)
    with pytest.raises(ToolCallLimitError, match=f"max_tool_rounds={limit}") as caught:
        play(execute(call), [answer(PAUSED)] * (limit + 1))
    assert (len(asked), caught.value.execution_id) == (limit, "e")


def test_a_handler_that_raises_ends_the_call_with_its_own_error() -> None:
    program = execute(a_call(tool_handler=handler))
    next(program)
    program.send(answer(PAUSED))
    assert isinstance(next(program), CallTools)
    with pytest.raises(ZeroDivisionError):
        program.throw(ZeroDivisionError())


def test_an_error_after_a_pause_names_the_run() -> None:
    call = a_call(tool_handler=handler)
    with pytest.raises(APIConnectionError) as lost:
        play(execute(call), [answer(PAUSED), APIConnectionError("lost")])
    assert lost.value.execution_id == "e"
    with pytest.raises(FlowExecutionError) as said:
        play(execute(call), [answer(PAUSED), answer({"detail": {"executionId": "e2"}}, 500)])
    assert said.value.execution_id == "e2"
    with pytest.raises(APIConnectionError) as fresh:
        play(execute(call), [APIConnectionError("lost")])
    assert fresh.value.execution_id is None


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"status": "sleeping"}, "Input tag 'sleeping'"),
        ({"result": 1}, "Unable to extract tag"),
        ({"status": "completed", "blockCount": "many"}, "blockCount"),
        ({"status": "tool_calls_required"}, "executionId: Field required"),
        (b"<html>", "Invalid JSON"),
    ],
)
def test_an_answer_that_is_no_result(body: Any, said: str) -> None:
    with pytest.raises(FlowExecutionError, match=said) as caught:
        play(execute(a_call()), [answer(body)])
    assert caught.value.code == "INVALID_RESPONSE"


def test_each_kind_of_call_has_its_program() -> None:
    paths = []
    for kind in ("execute", "step", "job"):
        program = a_call(kind).live()
        paths.append(next(program).request.path.rsplit("/", 1)[1])
        program.close()
    assert paths == ["execute", "step", "jobs"]
