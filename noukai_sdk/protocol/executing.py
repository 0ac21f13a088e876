"""``execute``: one exchange, and one more for each pause for tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from pydantic import Field, TypeAdapter

from ..errors import NoukaiError
from ..models.results import ExecuteResult, PausedResult, ToolResult
from .call import FlowCall
from .decoding import validated
from .exchange import exchange
from .program import PausedRun, PauseSeen, Program, ResultsSent, SendRequest
from .requests import post
from .tools import call_handler, wire_results, with_results

ExecuteResponse = ExecuteResult | PausedResult
Outcome = ExecuteResult | PausedRun

_response: TypeAdapter[ExecuteResponse] = TypeAdapter(
    Annotated[ExecuteResponse, Field(discriminator="status")], config={"defer_build": True}
)
# A resume repeats these fields of the first call, and no others (docs/wire.md, "POST execute").
REPEATED = ("parameters", "blockOverrides", "attachments", "tools", "toolChoice", "trace")


def execute(call: FlowCall, body: Mapping[str, Any] | None = None) -> Program[Outcome]:
    """Run a flow to its end, or to a pause that needs results from the caller.

    ``body`` is what resumes a run; None starts a new one.
    """
    body = call.request if body is None else body
    rounds = pauses = 0
    try:
        while True:
            response = yield from exchange(call.service, post(call, body), SendRequest)
            result = validated(_response.validate_json, "result of execute", response)
            result.session_id = call.session_id
            if isinstance(result, ExecuteResult):
                result.request_id = response.headers.get("x-request-id")
                if call.watch is not None:
                    call.watch.log.ended += 1
                    if call.watch.log.has_overlap:
                        call.watch.log.note_end(call, result.execution_id)
                return result
            pauses += 1
            yield PauseSeen(result)
            if call.tool_handler is None:
                return PausedRun(result, partial(resume, call, result))
            results = yield from call_handler(call, result, rounds)
            yield ResultsSent(results)
            body = resume_body(call, result, results)
            rounds += 1
    except BaseException as error:
        run = body.get("executionId")
        if isinstance(error, NoukaiError):
            error.execution_id = error.execution_id or run
        # A caller that resumes by itself counts the pauses, not this program.
        call.failed(error, run=run, seen=pauses if call.tool_handler is not None else None)
        raise


def resume(call: FlowCall, paused: PausedResult, results: Sequence[ToolResult]) -> Program[Outcome]:
    """Resume a paused run with the results of the tools."""
    sent = wire_results(results)
    if call.watch is not None:
        call.watch.log.forget_failure(call)  # of an earlier attempt to resume
    yield ResultsSent(sent)
    return (yield from execute(call, resume_body(call, paused, sent)))


def resume_body(
    call: FlowCall, paused: PausedResult, results: list[dict[str, Any]]
) -> dict[str, Any]:
    """Build the body that resumes a pause."""
    return {
        **{name: call.request[name] for name in REPEATED if name in call.request},
        "executionId": paused.execution_id,
        "pausedAtStep": paused.paused_at_step,
        "iterationsUsed": paused.iterations_used,
        "toolCallMessages": with_results(paused, results),
        "accumulatedOutputs": paused.accumulated_outputs,
    }
