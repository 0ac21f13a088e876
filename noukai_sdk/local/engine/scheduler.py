"""Runs a plan: each node as soon as its own parents are done.

A node that is done hands over to one of the nodes that this made ready, in the same task; only the
others get tasks of their own. A chain therefore costs no tasks at all.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint

from ...models.events import StepFailed, StepFailure, StepStarted, StreamEvent, ToolCallsRequired
from ..llm.config import LlmConfig
from ..workflow.node import Condition, Node
from ..workflow.plan import Plan
from .failures import NodeError, StepTimeoutError, delay_before, failure, is_worth_retrying
from .inputs import Inputs, View
from .state import RunState
from .step_context import Emit, Limit, Models, Paused, StepContext, ToolAnswers
from .step_events import StepCompleted
from .usage import Usage, plus, total_cost
from .work import as_json, output_of

logger = logging.getLogger("noukai_sdk.local")
tracer = logging.getLogger("noukai_sdk.local.trace")


@dataclass(frozen=True)
class Settings:
    """How a run is run.

    Attributes:
        max_concurrency: How many nodes work at once; None for no limit.
        retry: For nodes that do not say themselves how often they are tried again.
        default_model: For agents that name no model.
        json_outputs: Turn outputs into JSON values, for runs whose outputs leave the process.
    """

    max_concurrency: int | None = None
    retry: int = 0
    default_model: str | LlmConfig = "offline"
    json_outputs: bool = False


class Engine:
    """One run, or the part of one that goes on from ``state``.

    Attributes:
        error: Why the run failed, None where it did not.
        pause: What the run waits for, None where it does not.
    """

    def __init__(
        self,
        plan: Plan,
        state: RunState,
        *,
        models: Models,
        settings: Settings,
        emit: Emit | None = None,
        tool_answers: ToolAnswers | None = None,
    ) -> None:
        self.plan = plan
        self.state = state
        self.error: NodeError | None = None
        self.pause: ToolCallsRequired | None = None
        self.used = Usage()
        self.costs: list[str] = []
        self._models = models
        self._settings = settings
        self._emit = emit
        self._tool_answers = tool_answers
        self._first = state.step_index
        self._done = {node.id for node in plan.nodes[: state.step_index]}
        self._inputs = Inputs(plan, state)
        self._limiter = _limiter(settings.max_concurrency)
        self._sorter = plan.sorter()
        self._group: TaskGroup | None = None
        self._failed_at = plan.nodes[0]
        self._see_skipped(plan.nodes[: state.step_index])

    @property
    def is_over(self) -> bool:
        """Whether the run has failed or waits for tools."""
        return self.error is not None or self.pause is not None

    @property
    def result(self) -> Any:
        """The output of the last node; where several are last, all of theirs by id."""
        ran = [node for node in self.plan.sinks if node.id not in self._inputs.skipped]
        if len(ran) == 1:
            return self.state.outputs[ran[0].id]
        return {node.id: self.state.outputs[node.id] for node in ran} or None

    @property
    def skipped(self) -> set[str]:
        """Ids of the nodes that a condition left out."""
        return self._inputs.skipped

    async def run_all(self) -> None:
        """Run every node that is left, or until one fails or waits for tools."""
        self._sorter.prepare()
        async with anyio.create_task_group() as self._group:
            first, *others = self._sorter.get_ready()
            for name in others:
                self._group.start_soon(self._follow, name)
            await self._follow(first)
        await self._tell_end()

    async def run_some(self, count: int) -> None:
        """Run the next ``count`` nodes, one after the other."""
        for node in self.plan.nodes[self._first : self._first + count]:
            await self._take(node)
            if self.is_over:
                break
        await self._tell_end()

    async def _follow(self, name: str | None) -> None:
        """Run a node, then the nodes that this makes ready, from parent to child."""
        while name is not None:
            if name not in self._done:
                await self._take(self.plan.names.by_id[name])
                if self.is_over:
                    self._stop()
                    return
            self._sorter.done(name)
            name, *others = self._sorter.get_ready() or (None,)
            for other in others:
                assert self._group is not None  # made by run_all
                self._group.start_soon(self._follow, other)

    def _stop(self) -> None:
        assert self._group is not None  # made by run_all
        self._group.cancel_scope.cancel()

    async def _take(self, node: Node) -> None:
        # Nodes that never wait must still let others have the loop, and be cancelled.
        await checkpoint()
        if self._is_left_out(node):
            self._inputs.skipped.add(node.id)
            await self._complete(node, None, Usage(), started=None)
            return
        async with self._limiter:
            await self._attempts(node)

    async def _attempts(self, node: Node) -> None:
        retry = self._settings.retry if node.retry is None else node.retry
        usage = Usage(self.state.step_tokens if self._resumes(node) else None)
        attempt = 0
        while True:
            error = await self._attempt(node, usage)
            if error is None or self.is_over:
                return
            attempt += 1
            if attempt > retry or not is_worth_retrying(error):
                self._failed_at, self.error = node, failure(node, error)
                return
            logger.warning("step %s failed and is tried again: %r", node.id, error)
            await anyio.sleep(delay_before(attempt, error))

    async def _attempt(self, node: Node, usage: Usage) -> Exception | None:
        """Try once; gives the error where it failed."""
        started = time.perf_counter()
        job = self._job(node, usage)
        try:
            if self._emit is not None:
                place = self.plan.index[node.id]
                await self._tell(StepStarted(step_id=node.id, name=node.name, step_index=place))
            output = await self._limited(job)
        except Paused as pause:
            self._pause(pause.event, job)
        except Exception as error:  # noqa: BLE001 - whatever a node raises is its failure
            return error
        else:
            await self._complete(node, output, usage, started)
        return None

    async def _limited(self, job: StepContext) -> Any:
        if job.node.timeout is None:
            return await self._output(job)
        job.limit = Limit(job.node.timeout)
        with job.limit.scope:
            return await self._output(job)
        raise StepTimeoutError

    async def _output(self, job: StepContext) -> Any:
        output = await output_of(job)
        return as_json(output) if self._settings.json_outputs else output

    def _job(self, node: Node, usage: Usage) -> StepContext:
        return StepContext(
            node=node,
            view=View(self._inputs, node),
            state=self.state,
            place=self.plan.index[node.id],
            models=self._models,
            default_model=self._settings.default_model,
            usage=usage,
            emit=None if self._emit is None else self._tell,
            tool_answers=self._tool_answers,
            iterations_used=self.state.iterations_used if self._resumes(node) else 0,
        )

    def _resumes(self, node: Node) -> bool:
        return self.state.tool_messages is not None and self.plan.index[node.id] == self._first

    def _pause(self, event: ToolCallsRequired, job: StepContext) -> None:
        self.pause = event
        self.state.iterations_used = event.iterations_used
        self.state.tool_messages = event.tool_call_messages
        self.state.step_tokens = job.usage.as_dict

    async def _tell(self, event: StreamEvent) -> None:
        # What other nodes still do while the run stops is not told: its end is the last event.
        if self._emit is not None and not self.is_over:
            await self._emit(event)

    async def _tell_end(self) -> None:
        if self._emit is None:
            return
        if self.pause is not None:
            await self._emit(self.pause)
        elif self.error is not None:
            told = StepFailure(code=self.error.code, message=self.error.message)
            node = self._failed_at
            await self._emit(StepFailed(step_id=node.id, name=node.name, error=told))

    async def _complete(self, node: Node, output: Any, usage: Usage, started: float | None) -> None:
        self._note(node, output, usage)
        took = 0.0 if started is None else (time.perf_counter() - started) * 1000
        tracer.debug("step %s took %.3f ms", node.id, took)
        if self._emit is not None:
            event = StepCompleted(
                step_id=node.id,
                name=node.name,
                output=output,
                duration_ms=round(took, 3),
                tokens=usage.tokens,
                cost_usd=usage.cost_usd,
                step_index=self.plan.index[node.id],
                skipped=True if started is None else None,
            )
            await self._tell(event)

    def _note(self, node: Node, output: Any, usage: Usage) -> None:
        state = self.state
        state.outputs[node.id] = output
        self._done.add(node.id)
        if usage.model is not None:
            self.used.tokens = plus(self.used.tokens, usage.tokens)
            self.costs += [usage.cost_usd] if usage.cost_usd else []
        while state.step_index < len(self.plan.nodes) and self._is_next_done():
            state.step_index += 1
            state.iterations_used, state.tool_messages, state.step_tokens = 0, None, None

    def _is_next_done(self) -> bool:
        return self.plan.nodes[self.state.step_index].id in self._done

    def _is_left_out(self, node: Node) -> bool:
        """Whether a condition came out the other way, or all parents were left out."""
        if not node.needs or not self.plan.has_conditions:
            return False
        ran = [need for need in node.needs if need not in self._inputs.skipped]
        return not ran or any(self._is_shut(need, node) for need in ran)

    def _is_shut(self, need: str, node: Node) -> bool:
        is_condition = isinstance(self.plan.names.by_id[need].work, Condition)
        return is_condition and bool(self.state.outputs[need]) is (need in node.unless)

    def _see_skipped(self, nodes: Sequence[Node]) -> None:
        for node in nodes:
            if self._is_left_out(node):
                self._inputs.skipped.add(node.id)

    @property
    def total_cost_usd(self) -> str | None:
        """What the run has cost so far, as far as prices are known."""
        return total_cost(self.costs)


def _limiter(count: int | None) -> AbstractAsyncContextManager[Any]:
    return nullcontext() if count is None else anyio.CapacityLimiter(count)
