"""``execute``: one exchange, and one more for each pause for tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from ..models.results import ExecuteResult, PausedResult, ToolResult
from .call import FlowCall
from .decoding import validated
from .exchange import naming_run, send
from .program import PauseSeen, Program, ResultsSent
from .requests import post
from .tools import ToolRounds, continued, wire_results

Answer = ExecuteResult | PausedResult

_answer: TypeAdapter[Answer] = TypeAdapter(
    Annotated[Answer, Field(discriminator="status")], config={"defer_build": True}
)
# A resume repeats these fields of the first call, and nothing else (docs/wire.md, "POST execute").
REPEATED = ("parameters", "blockOverrides", "attachments", "tools", "toolChoice", "trace")


def execute(call: FlowCall) -> Program[Answer]:
    """Run a flow to its end, or to a pause that nobody here can answer."""
    return _run(call, call.request)


def resume(call: FlowCall, paused: PausedResult, results: Sequence[ToolResult]) -> Program[Answer]:
    """Run a paused flow on with the tools' results."""
    sent = wire_results(results)
    yield ResultsSent(sent)
    return (yield from _run(call, resume_body(call, paused, sent)))


def _run(call: FlowCall, body: Mapping[str, Any]) -> Program[Answer]:
    rounds = ToolRounds(call)
    while True:
        with naming_run(body.get("executionId")):
            response = yield from send(call.service, post(call, body))
        answer = validated(_answer.validate_json, "result of execute", response)
        answer.session_id = call.session_id
        if answer.status != "tool_calls_required":
            return answer
        yield PauseSeen(answer)
        if call.tool_handler is None:
            answer._resume = partial(resume, call, answer)
            return answer
        results = yield from rounds.answer(call.tool_handler, answer)
        yield ResultsSent(results)
        body = resume_body(call, answer, results)


def resume_body(
    call: FlowCall, paused: PausedResult, results: list[dict[str, Any]]
) -> dict[str, Any]:
    """The body that answers a pause."""
    return {
        **{name: call.request[name] for name in REPEATED if name in call.request},
        "executionId": paused.execution_id,
        "pausedAtStep": paused.paused_at_step,
        "iterationsUsed": paused.iterations_used,
        "toolCallMessages": continued(paused, results),
        "accumulatedOutputs": paused.accumulated_outputs,
    }
