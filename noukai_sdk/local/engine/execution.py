"""One run of a workflow for an executor: scheduler, tool rounds, time limit, result."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio

from ...errors import FlowExecutionError
from ...models.events import (
    FlowCompleted,
    RunStarted,
    StepFailed,
    StepFailure,
    StepPaused,
    StreamEvent,
    ToolCallsRequired,
)
from ...models.results import tool_turns
from ..runtime.worker_threads import call_function
from ..workflow.plan import Plan
from ..workflow.tool_functions import as_content
from .failures import NodeError
from .journal import Journal, node_id_of
from .result import Outputs, WorkflowResult
from .runner import check_plan, check_tool_steps
from .scheduler import Scheduler, Settings
from .spans import run_span
from .state import RunState
from .step_context import Emit, Models

ToolHandler = Callable[[list[dict[str, Any]]], Any]


@dataclass
class Execution:
    """A run, from its inputs to its result. It starts from ``state``, so it can be resumed.

    Attributes:
        timeout: Seconds for the whole run, None for no limit.
        tool_handler: Answers tool calls while the run goes on, None to pause at them.
        journal: Writes what is finished to a store, None without one.
    """

    plan: Plan
    state: RunState
    inputs: Mapping[str, Any]
    settings: Settings
    timeout: float | None
    tool_handler: ToolHandler | None
    journal: Journal | None = None

    def check(self) -> None:
        """Check that the run can start.

        Raises:
            FlowExecutionError: An input is missing, or a step that cannot pause has tools.
        """
        self.plan = check_plan(self.plan, self.state)
        if self.tool_handler is None:
            check_tool_steps(self.plan, self.state)

    async def run(self, models: Models, emit: Emit | None = None) -> WorkflowResult:
        """Run to the end, to a failure, or to a pause for tools.

        Raises:
            RunStoreError: The run cannot be stored when it begins.
        """
        with run_span(self.state.execution_id) as span:
            result = await self._run_and_store(models, emit)
            span.used(result.tokens, result.cost_usd)
            for error in result.errors:
                span.failed(error.code, error.message)
            return result

    async def _run_and_store(self, models: Models, emit: Emit | None) -> WorkflowResult:
        if self.journal is None:
            return await self._run(models, emit)
        await self.journal.open()
        result = None
        try:
            result = await self._run(models, emit)
        finally:
            await self.journal.end(self.state, result)
        return result

    async def _run(self, models: Models, emit: Emit | None) -> WorkflowResult:
        started = time.perf_counter()
        scheduler = Scheduler(
            self.plan,
            self.state,
            models=models,
            settings=self.settings,
            emit=emit,
            tool_answers=self._answer_tool_calls if self.tool_handler else None,
            journal=self.journal,
        )
        with anyio.move_on_after(self.timeout) as limit:
            await scheduler.run_all()
        nodes, outputs = self.plan.nodes, self.state.outputs
        error, pause = scheduler.error, scheduler.pause
        if limit.cancelled_caught:
            node = nodes[min(self.state.step_index, len(nodes) - 1)]
            message = f"the run took longer than its timeout of {self.timeout} seconds"
            error, pause = NodeError(node.name, "RUN_TIMEOUT", message, TimeoutError(message)), None
            if emit is not None:
                failure = StepFailure(code=error.code, message=message)
                await emit(StepFailed(step_id=node.id, name=node.name, error=failure))
        elif emit is not None and scheduler.waiting and not scheduler.is_over:
            for request in scheduler.waiting:
                step_id = node_id_of(request.node)
                paused = StepPaused(step_id=step_id, step_index=self.plan.index[step_id])
                paused.execution_id = self.state.execution_id
                await emit(paused)
        elif emit is not None and not scheduler.is_over:
            execution_id = self.state.execution_id
            await emit(FlowCompleted(execution_id=execution_id, result=scheduler.result))

        is_waiting = pause is not None or bool(scheduler.waiting)
        names = {node.id: node.name for node in nodes}
        ran = [node for node in nodes if node.id in outputs and node.id not in scheduler.skipped]
        return WorkflowResult(
            result=scheduler.result if error is None and not is_waiting else None,
            inputs=self.inputs,
            outputs=Outputs({node.name: outputs[node.id] for node in ran}, names),
            took_ms=(time.perf_counter() - started) * 1000,
            names=names,
            run_state=self.state,
            skipped=[node.name for node in nodes if node.id in scheduler.skipped],
            errors=[] if error is None else [error],
            pause=pause,
            approvals=scheduler.waiting,
            tokens=scheduler.tokens,
            cost_usd=scheduler.total_cost_usd,
            usages=scheduler.usages,
        )

    async def stream(
        self, models: Models, send: Callable[[StreamEvent | None], Awaitable[None]]
    ) -> WorkflowResult:
        """Run and send the events; go on after each pause that the consumer answers."""

        async def emit(event: StreamEvent) -> None:
            if isinstance(event, ToolCallsRequired):
                event._stage = staged.append
            await send(event)

        node_count = len(self.plan.nodes)
        await send(RunStarted(execution_id=self.state.execution_id, step_count=node_count))
        while True:
            staged: list[Sequence[dict[str, Any]]] = []
            result = await self.run(models, emit)
            if result.pause is None:
                return result
            # Returns when the consumer asks for the next event: by then it has answered, or never will.
            await send(None)
            if not staged:
                return result
            answer_pause(self.state, result.pause, staged[-1])

    async def answer(
        self, pause: ToolCallsRequired, tool_results: Sequence[Mapping[str, Any]] | None
    ) -> None:
        """Answer the tool calls that the run waits for, by results or by the handler."""
        if tool_results is None:
            if self.tool_handler is None:
                raise ValueError("the run waits for tool results: pass tool_results=")
            turns = await self._answer_tool_calls(pause)
            self.state.tool_messages = [*pause.tool_call_messages, *turns]
        else:
            answer_pause(self.state, pause, tool_results)

    async def _answer_tool_calls(self, event: ToolCallsRequired) -> list[dict[str, Any]]:
        assert self.tool_handler is not None  # checked by run()
        handler = partial(self.tool_handler, event.tool_calls)  # type: ignore[arg-type]  # dicts
        is_async = inspect.iscoroutinefunction(self.tool_handler)
        return _result_turns(event, await call_function(handler, is_async=is_async))


def answer_pause(
    state: RunState, pause: ToolCallsRequired, results: Sequence[Mapping[str, Any]]
) -> None:
    """Store the results of a pause's tool calls in the state, so that the run can be resumed."""
    state.tool_messages = [*pause.tool_call_messages, *_result_turns(pause, results)]


def _result_turns(pause: ToolCallsRequired, results: Any) -> list[dict[str, Any]]:
    """Convert results to tool turns, one for each call.

    Raises:
        FlowExecutionError: The results do not match the calls; code ``TOOL_RESULTS_MISMATCH``.
    """
    turns = tool_turns(results, as_content)
    call_ids = sorted(str(call["id"]) for call in pause.tool_calls)
    result_ids = sorted(turn["tool_call_id"] for turn in turns)
    if result_ids != call_ids:
        message = (
            f"one result is needed for each of the tool calls {call_ids}, not for {result_ids}"
        )
        raise FlowExecutionError(message, code="TOOL_RESULTS_MISMATCH")
    return turns
