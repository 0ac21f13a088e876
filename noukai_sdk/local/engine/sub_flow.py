"""Run the workflow of a node: once, or round by round."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from ...errors import FlowExecutionError
from ..runtime.worker_threads import call_function
from ..workflow import expressions, templates
from ..workflow.kinds import Function, Repeat, SubFlow
from ..workflow.templates import Reference
from .approval import WaitingError
from .failures import sub_flow_error
from .json_values import to_json
from .state import RunState
from .step_context import StepContext


async def run_sub_flow(context: StepContext, work: SubFlow) -> Any:
    """Run the node's workflow and return its result."""
    inputs = context.view.value(work.inputs or {})
    if isinstance(work, Repeat):
        return await _run_rounds(context, work, inputs)
    return await _run_once(context, work, inputs)


async def _run_rounds(context: StepContext, work: Repeat, inputs: Mapping[str, Any]) -> Any:
    """Run the workflow on its own output until that is enough.

    Finished rounds are kept: the last two, since nobody asks for those before.
    """
    view = context.view
    kept = {int(key): output for key, output in context.kept.items()}
    done = max(kept, default=-1) + 1
    before, output = None, inputs.get("message", view.input)
    if done:
        before, output = kept.get(done - 2, output), kept[done - 1]
    while not done or not await _is_enough(context, work, before, output, done):
        if done == work.at_most and work.on_limit == "keep":
            break
        if done == work.at_most:
            rounds = "round" if done == 1 else "rounds"
            message = f"step {context.node.id!r}: `until` is not true after {done} {rounds}"
            raise FlowExecutionError(message, code="REPEAT_LIMIT")
        given = {**inputs, "round": done + 1}
        if done:
            given["message"] = output
        # As events show the items of a loop, unless the rounds are those of one item.
        is_item = view.index is not None
        round_context = replace(
            context,
            view=view if is_item else replace(view, index=done),
            path=f"{context.path}[{done}]",
            is_round=not is_item,
        )
        before, output = output, await _run_once(round_context, work, given)
        if context.budget is not None:
            output = to_json(output)
            context.budget.take_output(context.node.id, output, copies=1)
        output = context.checked(output)
        await context.keep(done, output)
        context.kept.pop(str(done - 2), None)
        done += 1
    return output


async def _is_enough(
    context: StepContext, work: Repeat, before: Any, output: Any, number: int
) -> bool:
    """Return whether ``until`` is true after a round, whose input is ``before``."""
    if not isinstance(work.until, str):
        function = Function(work.until)
        call = partial(work.until, *[output][: function.takes])
        return expressions.is_true(await call_function(call, is_async=function.is_async))
    of_round = {"input": before, "output": output, "round": number}

    def resolve(reference: Reference) -> Any:
        if reference.root in of_round:
            return templates.field_of(of_round[reference.root], reference.path, reference)
        return context.view.resolve(reference)

    return expressions.is_true(expressions.parse(work.until).evaluate(resolve))


async def _run_once(context: StepContext, work: SubFlow, inputs: Mapping[str, Any]) -> Any:
    view, outer = context.view, context.state
    message = inputs.get("message", view.input)
    await context.emit_input({"message": message, **inputs} if inputs else message)
    # What an earlier attempt has finished is not repeated.
    state = RunState(
        outputs=outer.inner.setdefault(context.path, {}),
        inner=outer.inner,
        failed_items=outer.failed_items,
        approvals=outer.approvals,
        execution_id=outer.execution_id,
        message=message,
        parameters={**outer.parameters, "message": message, **inputs},
        tools=outer.tools,
        tool_choice=outer.tool_choice,
        stored_bytes=outer.stored_bytes,
    )
    if view.has_message and "message" not in inputs:
        state.messages, state.attachments = outer.messages, outer.attachments
    assert context.scheduler_of is not None  # set by the scheduler
    scheduler = context.scheduler_of(work.plan, state, context)
    await scheduler.run_all()
    if scheduler.error is not None:
        raise sub_flow_error(scheduler.error) from scheduler.error.error
    if scheduler.waiting:
        raise WaitingError(scheduler.waiting)
    return scheduler.result
