"""One run of a workflow: engine, tool rounds, time limit, result."""

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
    StreamEvent,
    ToolCallsRequired,
)
from ...models.tool_results import tool_turns
from ..runtime.worker_threads import called
from ..workflow.plan import Plan
from ..workflow.tool_functions import as_content
from .failures import NodeError
from .result import WorkflowResult
from .runner import check_plan, check_tool_steps
from .scheduler import Engine, Settings
from .state import RunState
from .step_context import Emit, Models

ToolHandler = Callable[[list[dict[str, Any]]], Any]
Inputs = Mapping[str, Any] | str | None
Take = Callable[[StreamEvent | None], Awaitable[None]]


@dataclass
class Execution:
    """A run, from its inputs to its result. Goes on from ``state``, so it can be run again.

    Attributes:
        timeout: Seconds for the whole run, None for no limit.
        tool_handler: Answers tool calls while the run goes on.
    """

    plan: Plan
    state: RunState
    inputs: Mapping[str, Any]
    settings: Settings
    timeout: float | None
    tool_handler: ToolHandler | None

    def check(self) -> None:
        """Refuse what cannot start.

        Raises:
            FlowExecutionError: An input is missing, or tools are where nobody can answer them.
        """
        self.plan = check_plan(self.plan, self.state)
        if self.tool_handler is None:
            check_tool_steps(self.plan, self.state)

    async def run(self, models: Models, emit: Emit | None = None) -> WorkflowResult:
        """Run to the end, to a failure, or to a pause for tools."""
        started = time.perf_counter()
        engine = Engine(
            self.plan,
            self.state,
            models=models,
            settings=self.settings,
            emit=emit,
            tool_answers=self._answers if self.tool_handler else None,
        )
        with anyio.move_on_after(self.timeout) as limit:
            await engine.run_all()
        errors = [engine.error] if engine.error else []
        if limit.cancelled_caught:
            errors = [self._timed_out()]
        if emit is not None:
            await _tell_end(emit, self, engine, errors, timed_out=limit.cancelled_caught)
        return self._result(engine, errors, (time.perf_counter() - started) * 1000)

    async def stream(self, models: Models, take: Take) -> WorkflowResult:
        """As :meth:`run`, handing over the events; goes on after a pause that was answered."""

        async def emit(event: StreamEvent) -> None:
            if isinstance(event, ToolCallsRequired):
                event._stage = staged.append
            await take(event)

        node_count = len(self.plan.nodes)
        await take(RunStarted(execution_id=self.state.execution_id, step_count=node_count))
        while True:
            staged: list[Sequence[dict[str, Any]]] = []
            result = await self.run(models, emit)
            if result.pause is None:
                return result
            # Taken when the consumer comes back, who then has answered or never will.
            await take(None)
            if not staged:
                return result
            answer_pause(self.state, result.pause, staged[-1])

    async def _answers(self, event: ToolCallsRequired) -> list[dict[str, Any]]:
        assert self.tool_handler is not None  # run() has looked
        handler = self.tool_handler
        is_async = inspect.iscoroutinefunction(handler)
        results = await called(partial(handler, event.tool_calls), is_async=is_async)
        return answered(event, results)

    def _timed_out(self) -> NodeError:
        node = self.plan.nodes[min(self.state.step_index, len(self.plan.nodes) - 1)]
        message = f"the run took longer than its timeout of {self.timeout} seconds"
        return NodeError(node.name, "RUN_TIMEOUT", message, TimeoutError(message))

    def _result(
        self, engine: Engine, errors: Sequence[NodeError], took_ms: float
    ) -> WorkflowResult:
        nodes = self.plan.nodes
        ran = [n for n in nodes if n.id in self.state.outputs and n.id not in engine.skipped]
        is_done = not errors and engine.pause is None
        return WorkflowResult(
            result=engine.result if is_done else None,
            inputs=self.inputs,
            outputs={node.name: self.state.outputs[node.id] for node in ran},
            took_ms=took_ms,
            names={node.id: node.name for node in nodes},
            run_state=self.state,
            skipped=[node.name for node in nodes if node.id in engine.skipped],
            errors=errors,
            pause=engine.pause if not errors else None,
            tokens=engine.used.tokens,
            cost_usd=engine.total_cost_usd,
        )


async def _tell_end(
    emit: Emit,
    execution: Execution,
    engine: Engine,
    errors: Sequence[NodeError],
    *,
    timed_out: bool,
) -> None:
    if timed_out:
        error = errors[0]
        node = execution.plan.names.get(error.node)
        told = StepFailure(code=error.code, message=error.message)
        step_id = node.id if node else error.node
        await emit(StepFailed(step_id=step_id, name=error.node, error=told))
    elif not engine.is_over:
        execution_id = execution.state.execution_id
        await emit(FlowCompleted(execution_id=execution_id, result=engine.result))


def answer_pause(
    state: RunState, pause: ToolCallsRequired, results: Sequence[Mapping[str, Any]]
) -> None:
    """Put the results of a pause's tool calls where the run goes on from."""
    state.tool_messages = [*pause.tool_call_messages, *answered(pause, results)]


def answered(pause: ToolCallsRequired, results: Any) -> list[dict[str, Any]]:
    """The results as tool turns, one for each call.

    Raises:
        FlowExecutionError: There is not one result for each call; code ``TOOL_RESULTS_MISMATCH``.
    """
    turns = tool_turns(results, as_content)
    wanted = sorted(str(call["id"]) for call in pause.tool_calls)
    given = sorted(turn["tool_call_id"] for turn in turns)
    if given != wanted:
        message = f"one result for each of the tool calls {wanted} is needed, and not for {given}"
        raise FlowExecutionError(message, code="TOOL_RESULTS_MISMATCH")
    return turns
