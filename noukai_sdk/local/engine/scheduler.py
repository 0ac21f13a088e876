"""Run the nodes of a plan, each as soon as its own parents are done.

A task that has run a node goes on with one of the nodes that this made ready, and starts new tasks only for
the others. A chain of nodes therefore runs in a single task.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import anyio
from anyio import CapacityLimiter
from anyio.abc import TaskGroup
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from ...models.events import (
    StepFailed,
    StepFailure,
    StepStarted,
    TokenBreakdown,
    ToolCallsRequired,
)
from ..llm.config import LlmConfig
from ..run_store.storage import RunStoreError
from ..workflow.kinds import Agent, Decision, SubFlow
from ..workflow.node import Node
from ..workflow.plan import Plan
from .approval import ApprovalRequest, WaitingError
from .failures import Attempts, NodeError, StepTimeoutError, node_error
from .inputs import Inputs, View
from .journal import Journal
from .json_values import to_json
from .sizes import Budget, SizeLimits
from .spans import step_span
from .state import RunState
from .stats import Usage, total_cost, total_tokens
from .step_context import (
    Emit,
    Models,
    Paused,
    StepCompleted,
    StepContext,
    SubFlowObserver,
    Timeout,
    ToolAnswers,
    path_of,
)
from .work import run_node

logger = logging.getLogger("noukai_sdk.local")
_USING = (Agent, SubFlow)  # the kinds of work that use models
tracer = logging.getLogger("noukai_sdk.local.trace")


@dataclass(frozen=True)
class Settings:
    """Settings of a run.

    Attributes:
        max_concurrency: How many nodes, and items of loops, are worked on at once; None for no limit.
        retry: How often to retry nodes that do not set it themselves.
        default_model: For agents without a model of their own.
        is_lightweight: Retry no node, whatever it sets.
        json_outputs: Convert outputs to JSON values, for runs whose outputs leave the process.
        sizes: Limits for such outputs, and for inputs; None for no limits.
        observes_sub_flows: Emit the requests of agents in sub-flows.
    """

    max_concurrency: int | None = None
    retry: int = 0
    is_lightweight: bool = False
    default_model: str | LlmConfig = "offline"
    json_outputs: bool = False
    sizes: SizeLimits | None = None
    observes_sub_flows: bool = False

    def retry_of(self, node: Node) -> int:
        """Return how often to repeat failed attempts at a node."""
        if self.is_lightweight:
            return 0
        return self.retry if node.retry is None else node.retry


class Scheduler:
    """One run, or the part of one from ``state`` on.

    Attributes:
        error: Why the run failed, None if it did not.
        pause: The tool calls that the run waits for, None if it does not wait.
        waiting: The decisions that it waits for. Whatever does not depend on them goes on.
        usages: What each agent and sub-flow has used, by the node's id.
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
        places: CapacityLimiter | None = None,
        parent: StepContext | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.plan = plan
        self.state = state
        self.error: NodeError | None = None
        self.pause: ToolCallsRequired | None = None
        self.waiting: list[ApprovalRequest] = []
        self.usages = {name: Usage(usage, node_id=name) for name, usage in state.usages.items()}
        self._parent = parent
        self._journal = journal
        self._models = models
        self._settings = settings
        self._listener = emit
        self._tool_answers = tool_answers
        self._first_index = state.step_index
        # Also nodes beyond the first that is not done: they ran beside it before the run was interrupted.
        self._done = {node.id for node in plan.nodes if node.id in state.outputs}
        self._budget = None if settings.sizes is None else Budget(settings.sizes, state)
        limit = None if settings.sizes is None else settings.sizes.max_prompt_bytes
        self._inputs = Inputs(plan, state, max_text=limit)
        self._places = places
        if places is None and settings.max_concurrency is not None:
            self._places = CapacityLimiter(settings.max_concurrency)
        self._sorter = plan.sorter()
        self._group: TaskGroup | None = None
        self._failed_node: Node | None = None
        for node in plan.nodes:
            if node.id in self._done and self._is_skipped(node):
                self._inputs.skipped.add(node.id)

    @property
    def is_over(self) -> bool:
        """Whether the run has failed or waits for tools."""
        return self.error is not None or self.pause is not None

    @property
    def result(self) -> Any:
        """The output of the last node; if several nodes are last, their outputs by id."""
        ran = [node for node in self.plan.sinks if node.id not in self._inputs.skipped]
        if len(ran) == 1:
            return self.state.outputs[ran[0].id]
        return {node.id: self.state.outputs[node.id] for node in ran} or None

    @property
    def skipped(self) -> set[str]:
        """Ids of the nodes on branches that were not taken."""
        return self._inputs.skipped

    @property
    def tokens(self) -> TokenBreakdown | None:
        """The tokens of the run so far, those before a pause and of failed nodes included."""
        return total_tokens(self.usages.values())

    @property
    def total_cost_usd(self) -> str | None:
        """The cost of the run so far, as far as prices are known."""
        return total_cost(usage.cost_usd for usage in self.usages.values())

    async def run_all(self) -> None:
        """Run all remaining nodes, until one fails or waits for tools."""
        self._sorter.prepare()
        try:
            async with anyio.create_task_group() as self._group:
                first, *others = self._sorter.get_ready()
                for node_id in others:
                    self._group.start_soon(self._follow, node_id)
                await self._follow(first)
            # A timeout may have ended the other tasks alone.
            await checkpoint_if_cancelled()
        finally:  # also of a run that is cancelled, or takes too long
            self._keep_usages()
        await self._emit_end()

    async def run_some(self, count: int) -> None:
        """Run the next ``count`` nodes, one after the other."""
        for node in self.plan.nodes[self._first_index : self._first_index + count]:
            if node.id not in self._done:
                await self._run(node)
            if self.is_over:
                break
        self._keep_usages()
        await self._emit_end()

    async def _follow(self, node_id: str | None) -> None:
        """Run a node, then one of the nodes that this makes ready, and so on."""
        assert self._group is not None  # set by run_all
        while node_id is not None:
            if node_id not in self._done:
                await self._run(self.plan.names.by_id[node_id])
                if self.is_over:
                    self._group.cancel_scope.cancel()
                    return
                if node_id not in self._done:  # it waits for a decision
                    return
            self._sorter.done(node_id)
            node_id, *others = self._sorter.get_ready() or (None,)
            for other in others:
                self._group.start_soon(self._follow, other)

    async def _run(self, node: Node) -> None:
        if self.is_over:  # since this task was started
            return
        if self._is_skipped(node):
            self._inputs.skipped.add(node.id)
            await self._complete(node, None, Usage(), started=None)
        elif node.id in self.state.step_outputs:
            await self._take_output(node)
        else:
            await self._attempt(node)
            if isinstance(node.work, Agent):  # it has waited for its model
                return
        if len(self._done) < len(self.plan.nodes):
            # Nodes that never wait must still let other tasks run, and be cancelled.
            await checkpoint()

    def _is_skipped(self, node: Node) -> bool:
        """Return whether the node is on a branch that was not taken, or all its parents were skipped."""
        if not node.needs or not self.plan.has_routes:
            return False
        ran = [need for need in node.needs if need not in self._inputs.skipped]
        for need in ran:
            parent = self.plan.names.by_id[need]
            branches = node.branches_after(parent)
            if branches is None or not isinstance(parent.work, Decision):
                continue
            if not parent.work.leads_to(self.state.outputs[need], branches):
                return True
        return not ran

    async def _attempt(self, node: Node) -> None:
        """Run the node until it succeeds, pauses, or has failed as often as allowed."""
        state, index = self.state, self.plan.index[node.id]
        is_resumed = state.tool_messages is not None and index == self._first_index
        usage = self.usages.get(node.id) or Usage(
            parent=None if self._parent is None else self._parent.usage, node_id=node.id
        )
        if isinstance(node.work, _USING) or node.fallback:
            self.usages[node.id] = usage
        retry_of = self._settings.retry_of
        attempts = Attempts(node, retry_of, has_fallbacks=node.for_each is None)
        while True:
            context = StepContext(
                node=node,
                view=View(self._inputs, node),
                state=state,
                step_index=index,
                models=self._models,
                default_model=self._settings.default_model,
                usage=usage,
                listener=self._listener,
                tool_answers=self._tool_answers,
                iterations_used=state.iterations_used if is_resumed else 0,
                budget=self._budget,
                places=self._places,
                scheduler_of=self._scheduler_of,
                journal=self._journal,
                path=path_of(node, self._parent),
                retry_of=retry_of,
                observer=self._observer_of(node),
            ).at(attempts)
            # The items of a loop take places of their own, and a node that waits for its retry has none.
            takes_place = node.for_each is None and context.takes_place
            started = time.perf_counter()
            try:
                async with context.place() if takes_place else nullcontext():
                    started = time.perf_counter()
                    if self._listener is not None:
                        event = StepStarted(step_id=node.id, name=node.name, step_index=index)
                        await self._listener(event)
                    with step_span(context):
                        output = await self._output(context)
            except Paused as pause:
                self.pause = pause.event
                state.iterations_used = pause.event.iterations_used
                state.tool_messages = pause.event.tool_call_messages
                usage.took_ms += (time.perf_counter() - started) * 1000
                return
            except WaitingError as waiting:
                self.waiting += waiting.requests
                usage.took_ms += (time.perf_counter() - started) * 1000
                return
            except Exception as error:  # noqa: BLE001 - any exception of a node is its failure
                usage.took_ms += (time.perf_counter() - started) * 1000
                if self.is_over:
                    return
                delay = attempts.delay_after(error)
                if delay is None:
                    self._failed_node, self.error = (
                        node,
                        node_error(attempts.node, error, attempts.fallback),
                    )
                    return
                await anyio.sleep(delay)
            else:
                usage.use(attempts)
                state.inner.pop(context.path, None)
                try:
                    await self._complete(node, output, usage, started)
                except RunStoreError as error:
                    # Not retried: the work is done.
                    self._failed_node, self.error = node, node_error(node, error)
                return

    async def _output(self, context: StepContext) -> Any:
        if context.node.timeout is None:
            output = await run_node(context)
        else:
            context.timeout = Timeout(context.node.timeout)
            with context.timeout.scope as scope:
                output = await run_node(context)
            if scope.cancelled_caught:
                raise StepTimeoutError
        output = context.checked(output)
        if not self._settings.json_outputs:
            return output
        output = to_json(output)
        if self._budget is not None:
            # An event and the step; the result of the run is another event, and in the run.
            copies = 4 if context.node in self.plan.sinks else 2
            self._budget.take_output(context.node.id, output, copies)
        return output

    async def _take_output(self, node: Node) -> None:
        """Complete a node with the output that the call gives, as if it had run."""
        started, index = time.perf_counter(), self.plan.index[node.id]
        if self._listener is not None:
            await self._listener(StepStarted(step_id=node.id, name=node.name, step_index=index))
        await self._complete(node, self.state.step_outputs[node.id], Usage(), started)

    async def _complete(self, node: Node, output: Any, usage: Usage, started: float | None) -> None:
        state, nodes = self.state, self.plan.nodes
        took_ms = 0.0 if started is None else (time.perf_counter() - started) * 1000
        usage.took_ms += took_ms
        path = path_of(node, self._parent)
        has_inner = state.inner.pop(path, None) is not None
        if self._journal is not None:
            await self._journal.write(
                "" if self._parent is None else self._parent.path,
                node.id,
                output,
                usage=usage,
                drop=path if has_inner else None,
                waits=started is not None,
            )
        state.outputs[node.id] = output
        self._done.add(node.id)
        while state.step_index < len(nodes) and nodes[state.step_index].id in self._done:
            state.step_index += 1
            state.iterations_used, state.tool_messages = 0, None
        tracer.debug("step %s took %.3f ms", node.id, took_ms)
        if self._listener is not None:
            event = StepCompleted(
                step_id=node.id,
                name=node.name,
                output=output,
                duration_ms=round(took_ms),
                tokens=usage.tokens,
                cost_usd=usage.cost_usd,
                step_index=self.plan.index[node.id],
                skipped=True if started is None else None,
                fallbacks=usage.fallbacks or None,
            )
            await self._listener(event)

    def _scheduler_of(self, plan: Plan, state: RunState, parent: StepContext) -> Scheduler:
        """Return the scheduler of the sub-flow of ``parent``, within the limits of this run."""
        return Scheduler(
            plan,
            state,
            models=self._models,
            settings=self._settings,
            tool_answers=self._tool_answers,
            places=self._places,
            parent=parent,
            journal=self._journal,
        )

    def _observer_of(self, node: Node) -> SubFlowObserver | None:
        if self._parent is not None:
            return self._parent.observer
        if self._listener is None or not self._settings.observes_sub_flows:
            return None
        return SubFlowObserver(node.id, self._listener, self._budget)

    def _keep_usages(self) -> None:
        self.state.usages = {name: usage.as_dict for name, usage in self.usages.items()}

    async def _emit_end(self) -> None:
        if self._listener is None:
            return
        if self.pause is not None:
            await self._listener(self.pause)
        elif self.error is not None:
            assert self._failed_node is not None  # set with the error
            failure = StepFailure(code=self.error.code, message=self.error.message)
            node = self._failed_node
            await self._listener(StepFailed(step_id=node.id, name=node.name, error=failure))
