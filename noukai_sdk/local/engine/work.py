"""Do the work of each kind of node, once or for each item of a list."""

from __future__ import annotations

from functools import partial
from typing import Any

from ...errors import FlowExecutionError
from ..runtime.worker_threads import call_function
from ..workflow import expressions
from ..workflow.kinds import Agent, Approval, Branch, Function, NoBranchError, Route, SubFlow
from ..workflow.transforms import TRANSFORMS
from .agent import run_agent
from .approval import ask_for_approval
from .for_each import Loop
from .step_context import StepContext
from .sub_flow import run_sub_flow


async def run_node(context: StepContext) -> Any:
    """Do the node's work and return its output; for a loop, a list with one output per item."""
    if context.node.for_each is None:
        return await _run_once(context)
    return await Loop(context, _run_once).run()


async def _run_once(context: StepContext) -> Any:
    work, view = context.node.work, context.view
    if isinstance(work, Agent):
        return await run_agent(context, work)
    if isinstance(work, Function):
        return await _call(context, work)
    if isinstance(work, SubFlow):
        return await run_sub_flow(context, work)
    if isinstance(work, Route):
        return await _pick_branch(context, work)
    if isinstance(work, Approval):
        return await ask_for_approval(context, work)
    if work.transformation not in TRANSFORMS:
        text = view.value(work.transformation)
        await context.emit_input(text)
        return text
    value = view.input
    await context.emit_input(value)
    return TRANSFORMS[work.transformation](value)


async def _pick_branch(context: StepContext, work: Route) -> Branch:
    if isinstance(work.by, str):
        await context.emit_input(context.view.input)
        value = expressions.parse(work.by).evaluate(context.view.resolve)
    else:
        value = await _call(context, Function(work.by))
    try:
        return work.pick(value)
    except NoBranchError as error:
        raise FlowExecutionError(f"step {context.node.id!r}: {error}", code="NO_BRANCH") from error


async def _call(context: StepContext, work: Function) -> Any:
    if work.arguments is None:
        value = context.view.input
        function = partial(work.call, *[value][: work.takes])
    else:
        value = context.view.value(work.arguments)
        function = partial(work.call, **value)
    await context.emit_input(value)
    # A function of a file that was read again is another object with the same name.
    name = (getattr(work.call, "__module__", None), getattr(work.call, "__qualname__", None))
    return await call_function(function, is_async=work.is_async, name=name)
