"""Do the work of each kind of node, once or for each item of a list."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python
from pydantic_core import to_json as core_to_json

from ...errors import FlowExecutionError
from ..runtime.error_text import error_text
from ..runtime.worker_threads import call_function
from ..workflow import expressions, templates
from ..workflow.kinds import Agent, Condition, Function, SubFlow
from ..workflow.transforms import TRANSFORMS
from .agent import run_agent
from .failures import sub_flow_error
from .state import RunState
from .step_context import StepContext

_LONG_NUMBER = re.compile(rb"\d{4301}")


async def run_node(context: StepContext) -> Any:
    """Do the node's work and return its output; for a loop, a list with one output per item."""
    over = context.node.for_each
    if over is None:
        return await _run_once(context)
    items = context.view.value(over)
    if not isinstance(items, list | tuple):
        kind = type(items).__name__
        message = (
            f"step {context.node.id!r} loops over {over}, which is not a list but of type {kind}"
        )
        raise FlowExecutionError(message, code="NOT_A_LIST")

    outputs: list[Any] = [None] * len(items)
    remaining = iter(enumerate(items))
    failures: list[Exception] = []

    async def worker() -> None:
        for index, item in remaining:
            # Work that never waits must still let other tasks run, and be cancelled.
            await checkpoint()
            try:
                async with context.place() if context.takes_place else nullcontext():
                    output = await _run_once(context.for_item(item, index))
                if context.budget is not None:
                    output = to_json(output)
                    context.budget.take_output(context.node.id, output, copies=1)
                outputs[index] = output
            except Exception as error:  # noqa: BLE001 - raised below, outside of the task group
                failures.append(error)
                group.cancel_scope.cancel()
        if context.timeout is not None:
            context.timeout.end_worker()

    workers = min(context.node.concurrency, len(items))
    if context.timeout is not None:
        context.timeout.workers = workers
    async with anyio.create_task_group() as group:
        for _ in range(workers):
            group.start_soon(worker)
    if failures:
        raise failures[0]
    return outputs


async def _run_once(context: StepContext) -> Any:
    work, view = context.node.work, context.view
    if isinstance(work, Agent):
        return await run_agent(context, work)
    if isinstance(work, Function):
        return await _call(context, work)
    if isinstance(work, SubFlow):
        return await _run_sub_flow(context, work)
    if isinstance(work, Condition):
        if not isinstance(work.test, str):
            return expressions.is_true(await _call(context, Function(work.test)))
        await context.emit_input(view.input)
        return expressions.is_true(expressions.parse(work.test).evaluate(view.resolve))
    if templates.parse(work.transformation).references:
        text = view.value(work.transformation)
        await context.emit_input(text)
        return text
    value = view.input
    await context.emit_input(value)
    return TRANSFORMS[work.transformation](value)


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


async def _run_sub_flow(context: StepContext, work: SubFlow) -> Any:
    view, outer = context.view, context.state
    inputs = view.value(work.inputs or {})
    message = inputs.get("message", view.input)
    await context.emit_input({"message": message, **inputs} if inputs else message)
    state = RunState(
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
    scheduler = context.scheduler_of(work.plan, state)
    try:
        await scheduler.run_all()
    finally:
        context.usage.add_flow(scheduler.tokens, scheduler.total_cost_usd)
    if scheduler.error is not None:
        raise sub_flow_error(context.node, scheduler.error) from scheduler.error.error
    return scheduler.result


def to_json(value: Any) -> Any:
    """Convert an output to JSON values, for outputs that leave the process.

    Every parser can read the result: NaN is null, half of a surrogate pair is ``?``, a key is a text.

    Raises:
        FlowExecutionError: The output cannot be converted; code ``OUTPUT_INVALID``.
    """
    if value is None or type(value) is bool:
        return value
    try:
        plain = to_jsonable_python(value, inf_nan_mode="null")
        try:
            data = core_to_json(plain, inf_nan_mode="null")
        except (PydanticSerializationError, UnicodeError):
            data = json.dumps(plain, ensure_ascii=False).encode("utf-8", "replace")
        try:
            # Python's parser refuses such numbers, ours does not.
            return json.loads(data) if _LONG_NUMBER.search(data) else from_json(data)
        except ValueError:
            return json.loads(data)  # nested deeper than the fast parser accepts
    # The value may be of any class, whose methods may raise anything.
    except (Exception, SystemExit) as error:
        message = f"the output cannot be written as JSON: {error_text(error)}"
        raise FlowExecutionError(message, code="OUTPUT_INVALID") from error
