"""Check whether a call can continue a stored run, and prepare the run for it. No I/O."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..local.workflow.plan import Flow
from ..models.requests import StepRequest
from .capture import Event
from .encoding import encode
from .errors import RequestError
from .preconditions import check_inputs
from .rows import run_from, step_ids
from .run import ENDED, Run, Trigger

Messages = list[dict[str, Any]]


def resumed_run(
    row: Mapping[str, Any] | None,
    flow: Flow,
    version: int | None,
    call: StepRequest,
    trigger: Trigger,
) -> tuple[Run, Messages | None]:
    """Return the run that ``call`` continues, and the tool results in the call.

    The call replaces the run's parameters, overrides and tools. Nothing is written here, so after a
    RequestError a corrected call can follow.
    """
    if row is None or (row["org"], row["project"], row["slug"]) != (
        flow.org,
        flow.project,
        flow.slug,
    ):
        raise unknown_run(flow, call.execution_id)
    if row["trigger"] != trigger:
        message = f"the run was started by {row['trigger']!r} and cannot continue by {trigger!r}"
        raise RequestError(400, "EXECUTION_ID_INVALID", message, execution_id=row["id"])
    if row["status"] in ENDED:
        message = f"the run has already ended: it is {row['status']}"
        raise RequestError(409, "EXECUTION_ID_INVALID", message, execution_id=row["id"])
    if row["status"] != "paused":
        raise already_running(row["id"])
    if row["version"] != version or step_ids(row) != [step.id for step in flow.steps]:
        message = "the flow has changed since this run began: start a new run"
        raise RequestError(409, "STALE_TREE", message, execution_id=row["id"])
    check_inputs(flow, call, trigger)
    run = run_from(row, flow)
    results = _check_position(run, call, trigger)
    # A client repeats the fields of the first call, leaves them out or sends them empty; only the first
    # replaces the stored ones.
    for name in (
        "parameters",
        "attachments",
        "block_overrides",
        "input_overrides",
        "tools",
        "tool_choice",
    ):
        value = getattr(call, name)
        if value:
            setattr(run.state, name, value)
    completed = {step.id for step in flow.steps[: run.state.step_index]}
    outputs = call.accumulated_outputs or {}
    run.state.outputs.update({name: outputs[name] for name in outputs if name in completed})
    return run, results


def unknown_run(flow: Flow, execution_id: str | None) -> RequestError:
    """Return the error for a run that the flow does not have, even if another flow has it."""
    return RequestError(400, "EXECUTION_ID_INVALID", f"{flow} has no run {execution_id!r}")


def already_running(execution_id: str) -> RequestError:
    """Return the error for a second call that continues a run while the first is still active."""
    return RequestError(
        409,
        "EXECUTION_ID_INVALID",
        "another call continues this run at this moment",
        execution_id=execution_id,
    )


def _check_position(run: Run, call: StepRequest, trigger: Trigger) -> Messages | None:
    """Raise RequestError unless the call fits the position of the run; return its tool results."""
    if trigger == "step" and call.step_index != run.state.step_index:
        message = f"the run is at step {run.state.step_index}, not {call.step_index}"
        raise RequestError(400, "INVALID_STEP_INDEX", message, execution_id=run.id)
    if run.pause is None:
        if call.tool_call_messages or call.paused_at_step is not None:
            message = "the run does not wait for tool results"
            raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=run.id)
        return None
    step_id, sent_step_id = run.pause["stepId"], call.paused_at_step
    if sent_step_id != step_id and not (sent_step_id is None and trigger == "step"):
        message = f"the run is paused at step {step_id!r}, not {sent_step_id!r}"
        raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=run.id)
    iterations = run.pause["iterationsUsed"]
    if call.iterations_used not in (None, iterations):
        message = f"the pause has iterationsUsed {iterations}, not {call.iterations_used}"
        raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=run.id)
    return _tool_results(run.id, run.pause, call.tool_call_messages or [])


def _tool_results(
    execution_id: str, pause: Event, messages: Sequence[Mapping[str, Any]]
) -> Messages:
    """Return the results for the tool calls of a pause, in the wire's form and the calls' order.

    The conversation before them is taken from the run: changes of the client have no effect.
    """
    turns = [index for index, turn in enumerate(messages) if turn.get("role") == "assistant"]
    # Only after the model's last turn: models may use an id again in the next round.
    tail = messages[turns[-1] + 1 :] if turns else messages
    # Older clients send what their users wrote: {"tool_call_id", "output"}, without a role.
    results = [message for message in tail if message.get("role", "tool") == "tool"]
    call_ids = [str(call["id"]) for call in pause["toolCalls"]]
    result_ids = [str(result.get("tool_call_id", result.get("toolCallId"))) for result in results]
    if sorted(result_ids) != sorted(call_ids):
        message = (
            f"the run waits for one result for each of the tool calls {call_ids}, and received "
            f"results for {result_ids}"
        )
        raise RequestError(400, "TOOL_RESULTS_MISMATCH", message, execution_id=execution_id)
    pairs = sorted(zip(result_ids, results, strict=True), key=lambda pair: call_ids.index(pair[0]))
    return [_tool_turn(call_id, result) for call_id, result in pairs]


def _tool_turn(call_id: str, result: Mapping[str, Any]) -> dict[str, Any]:
    content = result.get("output", result.get("content"))
    text = content if isinstance(content, str) else encode(content).decode()
    return {"role": "tool", "tool_call_id": call_id, "content": text}
