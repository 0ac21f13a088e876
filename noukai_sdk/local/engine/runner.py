"""Run flows for a service: check a stored state, apply its overrides, and emit typed events."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import anyio
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from ...errors import FlowExecutionError
from ...models.events import FlowCompleted, StreamEvent
from ..workflow.kinds import Agent, Repeat
from ..workflow.node import Node
from ..workflow.plan import Flow, Plan
from .inputs import Inputs, View
from .scheduler import Scheduler, Settings
from .sizes import SizeLimits
from .state import RunState
from .step_context import Emit, Models

__all__ = ["RunState", "check_plan", "check_run", "check_tool_steps", "run_flow"]

logger = logging.getLogger("noukai_sdk.local")

# Settings that a step can do without: null removes them.
_OPTIONAL = {"system", "temperature", "max_tokens", "timeout"}


async def run_flow(
    flow: Flow,
    state: RunState,
    *,
    models: Models,
    emit: Emit,
    max_steps: int | None = None,
    sizes: SizeLimits | None = None,
) -> None:
    """Run ``flow`` from ``state`` on, and update ``state`` as the run proceeds.

    The last event is FlowCompleted, StepFailed or ToolCallsRequired; with ``max_steps`` it may be
    StepCompleted. A step that is retried emits a second StepStarted. Steps that do not need each other
    run at once, and their events mix. To resume after a tool pause, call this again with
    ``state.tool_messages`` set to the messages of the pause and the tool results.

    Args:
        flow: The flow to run.
        state: The state of the run.
        models: The source of models.
        emit: Receives the events. A step goes on when it returns. If it raises, the run stops.
        max_steps: Run at most this many steps, one after the other.
        sizes: Limits for inputs and outputs, None for no limits.

    Raises:
        FlowExecutionError: The run cannot start, see :func:`check_run`; raised before any event.
        Exception: What ``emit`` has raised.
    """
    plan = check_run(flow, state)
    error: Exception | None = None

    async def emit_or_stop(event: StreamEvent) -> None:
        nonlocal error
        try:
            await emit(event)
        except Exception as raised:  # noqa: BLE001 - raised below: in the step, it would be its failure
            error = error or raised
            scope.cancel()
            await anyio.sleep_forever()

    with anyio.CancelScope() as scope:
        settings = Settings(json_outputs=True, sizes=sizes, observes_sub_flows=True)
        scheduler = Scheduler(plan, state, models=models, settings=settings, emit=emit_or_stop)
        if state.step_index < len(plan.nodes):
            await (scheduler.run_all() if max_steps is None else scheduler.run_some(max_steps))
        if not scheduler.is_over and state.step_index == len(plan.nodes):
            end = FlowCompleted(execution_id=state.execution_id, result=scheduler.result)
            await emit_or_stop(end)
    if error is not None:
        raise error


def check_run(flow: Flow, state: RunState) -> Plan:
    """Check that a run can start, and return its plan with the overrides applied.

    :func:`run_flow` calls this first; a service calls it before it starts its response.

    Raises:
        FlowExecutionError: With status 400 and code ``INVALID_STEP_INDEX``,
            ``BLOCK_OVERRIDE_INVALID``, ``TEMPLATE_UNRESOLVED``, ``TOOLS_IN_NON_SEQUENTIAL_STEP``,
            ``APPROVALS_NOT_SUPPORTED``, or ``STALE_TREE`` if an output is missing.
    """
    plan = check_plan(flow.plan, state)
    check_tool_steps(plan, state)
    if plan.has_approvals:
        message = (
            "this flow waits for approvals, which calls to the service cannot give: run it in your own "
            "process, with executor.resume(..., approvals=...)"
        )
        raise _bad_request("APPROVALS_NOT_SUPPORTED", message)
    return plan


def check_plan(plan: Plan, state: RunState) -> Plan:
    """Do all checks of :func:`check_run` but :func:`check_tool_steps`."""
    if not 0 <= state.step_index <= len(plan.nodes):
        message = f"step index {state.step_index} is not in 0 to {len(plan.nodes)}"
        raise _bad_request("INVALID_STEP_INDEX", message)
    for node in plan.nodes[: state.step_index]:
        if node.id not in state.outputs:
            message = f"the run is at step {state.step_index} but has no output of {node.id!r}"
            raise _bad_request("STALE_TREE", message)
    overrides = state.block_overrides
    if overrides:
        unknown = sorted(set(overrides) - {node.id for node in plan.nodes})
        if unknown:
            logger.warning("ignoring block overrides for unknown steps: %s", unknown)
        nodes = [
            _override(node, overrides[node.id]) if node.id in overrides else node
            for node in plan.nodes
        ]
        plan = Plan(nodes, plan.parameters)
    for message in _unresolved(plan, state):
        raise _bad_request("TEMPLATE_UNRESOLVED", message)
    return plan


def _unresolved(plan: Plan, state: RunState, later: frozenset[str] = frozenset()) -> Iterator[str]:
    """Yield why references have no value; ``later`` are inputs that a sub-flow gets in the run."""
    inputs = Inputs(plan, state)
    for reference in plan.open_references:
        root, path = reference.reference.root, reference.reference.path
        name = "message" if root in ("message", "input") else path[0] if path else ""
        if reference.place < state.step_index or (name in later and reference.problem is None):
            continue
        missing = inputs.missing(reference)
        if missing is not None:
            yield f"step {reference.node.id!r}: {missing}"
    for node, work in plan.sub_flows:
        if plan.index[node.id] < state.step_index:
            continue
        view = View(inputs, node)
        given = later | frozenset(work.inputs or ())
        if isinstance(work, Repeat):
            given |= {"round"}
        if not view.has_message or node.for_each is not None:
            given |= {"message"}
        inner = RunState(state.execution_id, message=inputs.message, parameters=state.parameters)
        for problem in _unresolved(work.plan, inner, given):
            yield f"step {node.id!r}: {problem}"


def check_tool_steps(plan: Plan, state: RunState) -> None:
    """Check that each step with tools can pause the run.

    Raises:
        FlowExecutionError: ``TOOLS_IN_NON_SEQUENTIAL_STEP``.
    """
    if not state.tools:
        return
    for node, work in plan.sub_flows:
        if work.plan.has_tools:
            message = (
                f"step {node.id!r} runs a flow with tools, which cannot wait for their results"
            )
            raise _bad_request("TOOLS_IN_NON_SEQUENTIAL_STEP", message)
    for node in plan.nodes:
        if node.tools and (node.for_each is not None or not plan.runs_alone(node)):
            message = f"step {node.id!r} runs beside others or in a loop, and cannot wait for tools"
            raise _bad_request("TOOLS_IN_NON_SEQUENTIAL_STEP", message)


class StepOverride(BaseModel):
    """The settings of a step that a call may override. Unknown names are ignored."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    model: str | None = Field(None, min_length=1)
    prompt: str | None = None
    system: str | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    max_tokens: int | None = Field(None, gt=0)
    timeout: float | None = Field(None, gt=0, allow_inf_nan=False)
    retry: int | None = Field(None, ge=0, le=10)


def _override(node: Node, values: Mapping[str, Any]) -> Node:
    try:
        settings = StepOverride.model_validate(values).model_dump(exclude_unset=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, (node.id, *first["loc"])))
        message = f"block override {field}: {first['msg']}"
        raise _bad_request("BLOCK_OVERRIDE_INVALID", message) from error
    # Null removes an optional setting, and leaves the others as they are.
    kept = {
        name: value for name, value in settings.items() if value is not None or name in _OPTIONAL
    }
    of_node = {name: value for name, value in kept.items() if name in ("timeout", "retry")}
    of_agent = {name: value for name, value in kept.items() if name not in of_node}
    work = replace(node.work, **of_agent) if isinstance(node.work, Agent) else node.work
    return replace(node, work=work, **of_node)


def _bad_request(code: str, message: str) -> FlowExecutionError:
    return FlowExecutionError(message, status_code=400, code=code)
