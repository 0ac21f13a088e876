"""A call that goes on with a run: does it fit where the run stands? No I/O."""

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


def resumed(
    row: Mapping[str, Any] | None,
    flow: Flow,
    version: int | None,
    call: StepRequest,
    trigger: Trigger,
) -> tuple[Run, Messages | None]:
    """The run that ``call`` goes on with, and the tool results that it brings.

    The run itself is only changed by what the call may set anew: parameters, overrides, tools. A
    refusal leaves everything as it is, so that a better call can follow.
    """
    found = _found(row, flow, call, trigger)
    _check_status(found)
    if found["version"] != version or step_ids(found) != [step.id for step in flow.steps]:
        raise _refusal(
            409, "STALE_TREE", "the flow is not the one that this run began with: start anew", found
        )
    check_inputs(flow, call, trigger)
    run = run_from(found, flow)
    results = _results(run, call, trigger)
    _take_over(run, call)
    return run, results


def _refusal(status: int, code: str, message: str, row: Mapping[str, Any]) -> RequestError:
    return RequestError(status, code, message, execution_id=row["id"])


def _found(
    row: Mapping[str, Any] | None, flow: Flow, call: StepRequest, trigger: Trigger
) -> Mapping[str, Any]:
    address = (flow.org, flow.project, flow.slug)
    if row is None or (row["org"], row["project"], row["slug"]) != address:
        raise unknown_run(flow, call.execution_id)
    if row["trigger"] != trigger:
        message = f"the run was started by {row['trigger']!r} and cannot go on by {trigger!r}"
        raise _refusal(400, "EXECUTION_ID_INVALID", message, row)
    return row


def unknown_run(flow: Flow, execution_id: str | None) -> RequestError:
    """The answer where the flow has no such run. Whether another one has is nobody's business."""
    return RequestError(400, "EXECUTION_ID_INVALID", f"{flow} has no run {execution_id!r}")


def _check_status(row: Mapping[str, Any]) -> None:
    if row["status"] in ENDED:
        message = f"the run has ended already: it is {row['status']}"
        raise _refusal(409, "EXECUTION_ID_INVALID", message, row)
    if row["status"] != "paused":
        raise already_running(row["id"])


def already_running(execution_id: str) -> RequestError:
    """The answer to a second call that goes on with a run while the first still does."""
    return RequestError(
        409,
        "EXECUTION_ID_INVALID",
        "another call goes on with this run just now",
        execution_id=execution_id,
    )


def _results(run: Run, call: StepRequest, trigger: Trigger) -> Messages | None:
    if trigger == "step" and call.step_index != run.state.step_index:
        raise RequestError(
            400,
            "INVALID_STEP_INDEX",
            f"the run stands at step {run.state.step_index}, not {call.step_index}",
            execution_id=run.id,
        )
    if run.pause is None:
        if call.tool_call_messages or call.paused_at_step is not None:
            message = "the run does not wait for tool results"
            raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=run.id)
        return None
    _check_pause(run.id, run.pause, call, trigger)
    return tool_results(run.id, run.pause, call.tool_call_messages or [])


def _check_pause(execution_id: str, pause: Event, call: StepRequest, trigger: Trigger) -> None:
    step_id = pause["stepId"]
    given = call.paused_at_step
    if given != step_id and not (given is None and trigger == "step"):
        message = f"the run is paused at step {step_id!r}, not {given!r}"
        raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=execution_id)
    used = pause["iterationsUsed"]
    if call.iterations_used not in (None, used):
        message = f"the pause has iterationsUsed {used}, not {call.iterations_used}"
        raise RequestError(400, "PAUSED_STEP_INVALID", message, execution_id=execution_id)


def tool_results(
    execution_id: str, pause: Event, messages: Sequence[Mapping[str, Any]]
) -> Messages:
    """The results in ``messages`` that answer the pause, in the wire's form and its calls' order.

    The conversation before them is ours to remember: what a client changed there has no effect.
    """
    results = [message for message in _tail(messages) if message.get("role") == "tool"]
    wanted = [str(call["id"]) for call in pause["toolCalls"]]
    given = [str(_call_id(message)) for message in results]
    if sorted(given) != sorted(wanted):
        message = (
            f"the run waits for one result for each of the tool calls {wanted}, and got results "
            f"for {given}"
        )
        raise RequestError(400, "TOOL_RESULTS_MISMATCH", message, execution_id=execution_id)
    in_order = sorted(zip(given, results, strict=True), key=lambda pair: wanted.index(pair[0]))
    return [_result(name, message) for name, message in in_order]


def _tail(messages: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """What comes after the model's last turn: models may use an id again in the next round."""
    turns = [place for place, turn in enumerate(messages) if turn.get("role") == "assistant"]
    return messages[turns[-1] + 1 :] if turns else messages


def _call_id(message: Mapping[str, Any]) -> Any:
    return message.get("tool_call_id", message.get("toolCallId"))


def _result(name: str, message: Mapping[str, Any]) -> dict[str, Any]:
    content = message.get("content")
    text = content if isinstance(content, str) else encode(content).decode()
    return {"role": "tool", "tool_call_id": name, "content": text}


def _take_over(run: Run, call: StepRequest) -> None:
    """A client repeats what the first call had, or leaves it out: then what we remember stays."""
    state = run.state
    for name in (
        "parameters",
        "attachments",
        "block_overrides",
        "input_overrides",
        "tools",
        "tool_choice",
    ):
        value = getattr(call, name)
        if value is not None:
            setattr(state, name, value)
    done = {step.id for step in run.flow.steps[: state.step_index]}
    sent = call.accumulated_outputs or {}
    state.outputs.update({name: sent[name] for name in sent if name in done})
