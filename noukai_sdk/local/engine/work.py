"""What each kind of node does, once or for each item of a list."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import checkpoint
from pydantic_core import to_jsonable_python

from ...errors import FlowExecutionError
from ..runtime.worker_threads import called
from ..workflow import expressions, templates
from ..workflow.node import Agent, Condition, Function, Transform
from ..workflow.transforms import TRANSFORMS
from .agent import run_agent
from .step_context import StepContext
from .step_events import StepInput


async def output_of(job: StepContext) -> Any:
    """Do the node's work; gives its output."""
    if job.node.for_each is None:
        return await _once(job)
    return await _for_each(job, job.node.for_each)


def as_json(value: Any) -> Any:
    """The value as JSON has it, for outputs that leave the process.

    Raises:
        FlowExecutionError: It cannot be; code ``OUTPUT_INVALID``.
    """
    try:
        return to_jsonable_python(value)
    except (ValueError, RecursionError) as error:  # pydantic's own error is a ValueError
        message = f"the output cannot be written as JSON: {error}"
        raise FlowExecutionError(message, code="OUTPUT_INVALID") from error


async def _for_each(job: StepContext, over: str) -> list[Any]:
    items = job.view.value(over)
    if not isinstance(items, list | tuple):
        kind = type(items).__name__
        message = f"step {job.node.id!r} loops over {over}, which is no list but of type {kind}"
        raise FlowExecutionError(message, code="NOT_A_LIST")
    return await _of_each(job, items)


async def _of_each(job: StepContext, items: Sequence[Any]) -> list[Any]:
    outputs: list[Any] = [None] * len(items)
    left = iter(enumerate(items))
    failures: list[Exception] = []

    async def worker() -> None:
        for index, item in left:
            # Work that never waits must still let others have the loop, and be cancelled.
            await checkpoint()
            try:
                outputs[index] = await _once(job.for_item(item, index))
            except Exception as error:  # noqa: BLE001 - raised again below, without a group around it
                failures.append(error)
                group.cancel_scope.cancel()

    async with anyio.create_task_group() as group:
        for _ in range(min(job.node.concurrency, len(items))):
            group.start_soon(worker)
    if failures:
        raise failures[0]
    return outputs


async def _once(job: StepContext) -> Any:
    work = job.node.work
    if isinstance(work, Agent):
        return await run_agent(job, work)
    if isinstance(work, Function):
        return await _function(job, work)
    if isinstance(work, Condition):
        return await _condition(job, work)
    return await _transform(job, work)


async def _function(job: StepContext, work: Function) -> Any:
    if work.arguments is None:
        value = job.view.input
        await _tell_input(job, value)
        call = partial(work.call, *[value][: work.takes])
    else:
        given = job.view.value(work.arguments)
        await _tell_input(job, given)
        call = partial(work.call, **given)
    return await called(call, is_async=work.is_async)


async def _condition(job: StepContext, work: Condition) -> bool:
    if not isinstance(work.test, str):
        return bool(await _function(job, Function(work.test)))
    await _tell_input(job, job.view.input)
    return bool(expressions.parse(work.test).evaluate(job.view.resolve))


async def _transform(job: StepContext, work: Transform) -> Any:
    if templates.parse(work.transformation).references:
        value = job.view.value(work.transformation)
        await _tell_input(job, value)
        return value
    await _tell_input(job, job.view.input)
    return TRANSFORMS[work.transformation](job.view.input)


async def _tell_input(job: StepContext, value: Any) -> None:
    if job.listens:
        event = StepInput(step_id=job.node.id, input_data=value, loop_index=job.view.index)
        await job.tell(event)
