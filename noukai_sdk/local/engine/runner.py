"""Runs flows for a service: from a state that can be stored, to typed events."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable

from ...errors import FlowExecutionError
from ...models.events import FlowCompleted, StreamEvent
from ..workflow.plan import Flow, Plan
from .inputs import Inputs
from .overrides import overridden
from .producer_stream import handed_over
from .scheduler import Engine, Settings
from .state import RunState
from .step_context import Models

__all__ = ["RunState", "check_plan", "check_run", "check_tool_steps", "run_steps"]


def check_run(flow: Flow, state: RunState) -> Plan:
    """The flow's plan as this run will take it, once it is sure that it can start.

    :func:`run_steps` calls it first; a service calls it before it opens its answer.

    Raises:
        FlowExecutionError: ``INVALID_STEP_INDEX``, ``BLOCK_OVERRIDE_INVALID``,
            ``TEMPLATE_UNRESOLVED``, ``TOOLS_IN_NON_SEQUENTIAL_STEP`` or ``STALE_TREE`` (an output
            is missing), all with status 400.
    """
    plan = check_plan(flow.plan, state)
    check_tool_steps(plan, state)
    return plan


def check_tool_steps(plan: Plan, state: RunState) -> None:
    """Refuse tools in steps that cannot pause the run.

    Raises:
        FlowExecutionError: ``TOOLS_IN_NON_SEQUENTIAL_STEP``.
    """
    for node in plan.nodes if state.tools else ():
        if node.tools and (node.for_each is not None or not plan.runs_alone(node)):
            message = f"step {node.id!r} runs beside others or in a loop, and cannot wait for tools"
            raise _refusal("TOOLS_IN_NON_SEQUENTIAL_STEP", message)


def check_plan(plan: Plan, state: RunState) -> Plan:
    """As :func:`check_run`, but for tools."""
    if not 0 <= state.step_index <= len(plan.nodes):
        message = f"step index {state.step_index} is not in 0 to {len(plan.nodes)}"
        raise _refusal("INVALID_STEP_INDEX", message)
    for node in plan.nodes[: state.step_index]:
        if node.id not in state.outputs:
            message = f"the run is at step {state.step_index} and has no output of {node.id!r}"
            raise _refusal("STALE_TREE", message)
    if state.block_overrides:
        plan = Plan(overridden(plan.nodes, state.block_overrides), plan.parameters)
    inputs = Inputs(plan, state)
    for node in plan.nodes[state.step_index :]:
        missing = inputs.missing(node)
        if missing is not None:
            raise _refusal("TEMPLATE_UNRESOLVED", f"step {node.id!r}: {missing}")
    return plan


def _refusal(code: str, message: str) -> FlowExecutionError:
    return FlowExecutionError(message, status_code=400, code=code)


def run_steps(
    flow: Flow, state: RunState, *, models: Models, max_steps: int | None = None
) -> AsyncGenerator[StreamEvent, None]:
    """Run ``flow`` from where ``state`` stands, which is changed as the run goes on.

    A step that is tried again gives a second StepStarted. Steps that do not need each other run at
    once, and their events mix. After a tool pause, call this again with ``state.tool_messages`` set
    to the pause's messages and the tool results.

    Args:
        flow: What to run.
        state: Where the run stands.
        models: Gives the model of a spec.
        max_steps: Run so many steps, one after the other, and then stop without FlowCompleted where
            steps are left.

    Returns:
        The events, until FlowCompleted, StepFailed, ToolCallsRequired or ``max_steps``.

    Raises:
        FlowExecutionError: Nothing can run, see :func:`check_run`; raised before the first event.
    """

    async def produce(emit: Callable[[StreamEvent], Awaitable[None]]) -> None:
        plan = check_run(flow, state)
        settings = Settings(json_outputs=True)
        engine = Engine(plan, state, models=models, settings=settings, emit=emit)
        if state.step_index < len(plan.nodes):
            await (engine.run_all() if max_steps is None else engine.run_some(max_steps))
        if not engine.is_over and state.step_index == len(plan.nodes):
            await emit(FlowCompleted(execution_id=state.execution_id, result=engine.result))

    return handed_over(produce)
