"""The context of one attempt at one node, and the step events that only the engine emits."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, cast

import anyio
from anyio import CapacityLimiter
from pydantic import Field

from ...models import events
from ...models.base import WireModel
from ...models.events import StreamEvent, ToolCallsRequired
from ..llm.chat import ChatModel
from ..llm.config import LlmConfig
from ..workflow.kinds import SubFlow
from ..workflow.node import Node
from .failures import Attempts
from .inputs import View
from .sizes import Budget, size_of
from .state import RunState
from .stats import Usage

if TYPE_CHECKING:
    from ..workflow.plan import Plan
    from .journal import Journal
    from .scheduler import Scheduler

Emit = Callable[[StreamEvent], Awaitable[None]]
ToolAnswers = Callable[[ToolCallsRequired], Awaitable[list[dict[str, Any]]]]
"""Returns the tool turns for a pause, or raises :class:`Paused` to leave the run there."""


class StepInput(events.StepInput):
    """The input of a step, of one item of a loop, or of one round.

    Attributes:
        loop_index: The index of the item or round, counted from 0; None for other steps.
        model: The name of the model that gets the input, None without one. Not sent.
        is_round: It is the input of a round, and so the output of the round before. Not sent.
    """

    loop_index: int | None = None
    model: str | None = Field(None, exclude=True)
    is_round: bool = Field(False, exclude=True)


class StepOutput(events.StepOutput):
    """``loop_index`` is the index of a loop's item, counted from 0; None outside of a loop."""

    loop_index: int | None = None


class StepCompleted(events.StepCompleted):
    """The output of a step.

    Attributes:
        skipped: True for a step that a condition skipped; its output is None.
        fallbacks: The names of the models and nodes that stood in, None if none did.
    """

    skipped: bool | None = None
    fallbacks: list[str] | None = None


class SubFlowInput(WireModel):
    """A request to a model by an agent in the workflow of a step.

    Attributes:
        step_id: The step of the run.
        path: The agent below it, as in ``"reviews[3]/draft"``.
    """

    type: ClassVar[Literal["sub_flow_input"]] = "sub_flow_input"
    event_type: str = "sub_flow_input"
    step_id: str
    path: str
    input_data: Any


class Models(Protocol):
    """The source of models: a :class:`~noukai_sdk.local.llm.pool.ModelPool`, or a fake."""

    async def get(self, spec: Any) -> ChatModel:
        """Return the model of this spec or configuration."""
        ...


class Paused(Exception):
    """The run waits for tool results, and ends here for now."""

    def __init__(self, event: ToolCallsRequired) -> None:
        super().__init__(event.step_id)
        self.event = event


@dataclass(frozen=True)
class SubFlowObserver:
    """Where agents in the workflow of a step tell their requests.

    Attributes:
        step_id: The step of the run.
        emit: Receives the events.
        budget: The run's.
    """

    step_id: str
    emit: Emit
    budget: Budget | None


def path_of(node: Node, parent: StepContext | None) -> str:
    """Return the path of a node in its run.

    Args:
        node: The node.
        parent: The node whose sub-flow it is a part of, None if it is the run's own.
    """
    name = _escaped(node.id)
    return name if parent is None else f"{parent.path}/{name}"


@lru_cache(maxsize=4096)
def _escaped(name: str) -> str:
    for sign, code in (("%", "%25"), ("/", "%2F"), ("[", "%5B"), ("|", "%7C"), ("#", "%23")):
        name = name.replace(sign, code)
    return name


class Timeout:
    """A timeout whose clock can be stopped, by several items of a loop at once.

    Args:
        seconds: The time limit for :attr:`scope`.

    Attributes:
        workers: How many items of a loop are worked on at once.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = anyio.move_on_after(seconds)
        self.workers = 1
        self._waiting = 0
        self._stops = 0
        self._left = seconds
        self._is_running = True

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the clock in this block."""
        self._stops += 1
        self._set_clock()
        try:
            yield
        finally:
            self._stops -= 1
            self._set_clock()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Stop the clock in this block while every worker waits."""
        self._waiting += 1
        self._set_clock()
        try:
            yield
        finally:
            self._waiting -= 1
            self._set_clock()

    def end_worker(self) -> None:
        """Count a worker less: it has no more items."""
        self.workers -= 1
        self._set_clock()

    def _set_clock(self) -> None:
        is_running = not self._stops and self._waiting < self.workers
        if is_running is self._is_running:
            return
        self._is_running = is_running
        if is_running:
            self.scope.deadline = anyio.current_time() + self._left
        else:
            self._left = self.scope.deadline - anyio.current_time()
            self.scope.deadline = math.inf


@dataclass
class StepContext:
    """One attempt at a node; in a loop, at one item.

    Attributes:
        step_index: The node's place in the plan.
        listener: Receives the events, None if there is no listener.
        tool_answers: Answers tool calls while the run goes on, None to pause the run.
        timeout: The attempt's timeout, None for no limit.
        budget: Limits sizes, None for no limits.
        places: Limits how much of the run is worked on at once, None for no limit.
        scheduler_of: Makes the scheduler of a sub-flow.
        journal: Writes what is finished to the run's store, None without one.
        path: Where in the run this is: the node's id, behind the path of the sub-flow that it is a part of;
            in a loop with the item's index, as in ``"reviews[3]/draft"``.
        is_round: This is one round of a repetition.
        retry_of: Returns how often to repeat a failed attempt at a node.
        observer: Receives the requests of agents in a sub-flow, None if nobody does.
    """

    node: Node
    view: View
    state: RunState
    step_index: int
    models: Models
    default_model: str | LlmConfig
    usage: Usage
    listener: Emit | None
    tool_answers: ToolAnswers | None
    timeout: Timeout | None = None
    iterations_used: int = 0
    budget: Budget | None = None
    places: CapacityLimiter | None = None
    scheduler_of: Callable[[Plan, RunState, StepContext], Scheduler] | None = None
    journal: Journal | None = None
    is_round: bool = False
    path: str = ""
    retry_of: Callable[[Node], int] = lambda node: node.retry or 0
    observer: SubFlowObserver | None = None
    _streamed: int = 0

    @property
    def has_listener(self) -> bool:
        """Whether events are wanted. Without a listener, none should be made."""
        return self.listener is not None

    def for_item(self, item: Any, index: int) -> StepContext:
        """Return the context of one item of a loop."""
        view = replace(self.view, item=item, index=index)
        return replace(self, view=view, path=f"{self.path}[{index}]")

    def at(self, attempts: Attempts) -> StepContext:
        """Return the context for the next attempt, which may be one at a fallback."""
        if attempts.fallback is None:
            return self
        # What the node has finished inside is not the fallback's.
        path = f"{self.path}|{attempts.fallback}"
        view = replace(self.view, node=attempts.node)
        return replace(self, node=attempts.node, view=view, path=path)

    @property
    def kept(self) -> dict[str, Any]:
        """What earlier attempts have finished inside of the node, see :meth:`keep`."""
        return self.state.inner.get(self.path, {})

    async def keep(self, part: int, output: Any, *, is_error: bool = False) -> None:
        """Keep the output of a finished part of the node, so that no later attempt repeats it.

        Args:
            part: The index of an item or of a round.
            output: Its output.
            is_error: It has failed for good, and ``output`` is its error.
        """
        state, failed = self.state, {}
        if is_error:
            state.failed_items.setdefault(self.path, []).append(part)
            failed = {self.path: state.failed_items[self.path]}
        # Nobody asks any more for what was finished inside of the part.
        inside = f"{self.path}[{part}]"
        has_inner = state.inner.pop(inside, None) is not None
        if self.journal is not None:
            await self.journal.write(
                self.path,
                str(part),
                output,
                usage=self.usage,
                failed=failed,
                drop=inside if has_inner else None,
            )
        state.inner.setdefault(self.path, {})[str(part)] = output
        if self.usage.is_used and self.usage is self.usage.root:
            state.usages[self.node.id] = self.usage.as_dict

    def checked(self, output: Any) -> Any:
        """Return an output as the run's store will return it.

        Raises:
            OutputNotStorableError: The store cannot hold it.
        """
        if self.journal is None:
            return output
        what = f"the output of step {self.node.id!r}"
        return self.journal.checked(what, output)

    @property
    def takes_place(self) -> bool:
        """Whether the work needs a place. The nodes of a sub-flow take places of their own."""
        return self.places is not None and not isinstance(self.node.work, SubFlow)

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """Wait for a place among the work of the run, and hold it in this block.

        The wait does not count for the node's timeout.
        """
        if self.places is None:
            yield
            return
        with self.timeout.waiting() if self.timeout else nullcontext():
            await self.places.acquire()
        try:
            yield
        finally:
            self.places.release()

    async def model(self, spec: str | LlmConfig | None) -> ChatModel:
        """Return the model of a spec; for None, the default model."""
        return await self.models.get(self.default_model if spec is None else spec)

    async def emit_input(self, value: Any, model: str | None = None) -> None:
        """Emit a StepInput event, if there is a listener."""
        if self.budget is not None:
            self.budget.take_input(self.node.id, value)
        if self.has_listener:
            event = StepInput(
                step_id=self.node.id,
                input_data=value,
                loop_index=self.view.index,
                model=model,
                is_round=self.is_round,
            )
            await self._emit(event)

    async def emit_sub_flow_input(self, value: Any) -> None:
        """Emit a SubFlowInput event to the observer, which there must be."""
        observer = self.observer
        assert observer is not None  # callers check it
        if observer.budget is not None:
            observer.budget.take(size_of(value))
        event = SubFlowInput(step_id=observer.step_id, path=self.path, input_data=value)
        with self.timeout.stopped() if self.timeout else nullcontext():
            await observer.emit(cast("StreamEvent", event))

    async def emit_output(self, text: str) -> None:
        """Emit one chunk of output."""
        if self.budget is not None:
            self._streamed += len(text)
            self.budget.check_output(self.node.id, self._streamed)
            self.budget.take_chunk(text)
        index = self.view.index
        await self._emit(StepOutput(step_id=self.node.id, output_data=text, loop_index=index))

    async def _emit(self, event: StreamEvent) -> None:
        assert self.listener is not None  # callers check has_listener
        # The time that the listener takes does not count for the node's timeout.
        with self.timeout.stopped() if self.timeout else nullcontext():
            await self.listener(event)

    def resumed_messages(self) -> list[dict[str, Any]] | None:
        """Return the conversation to resume; None if the run was not paused in this node."""
        is_paused = self.step_index == self.state.step_index
        return self.state.tool_messages if is_paused else None

    async def tool_results(
        self, messages: list[dict[str, Any]], calls: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Return the tool turns for these calls.

        Raises:
            Paused: Their results can come from the caller only.
        """
        event = ToolCallsRequired(
            execution_id=self.state.execution_id,
            step_id=self.node.id,
            step_index=self.step_index,
            iterations_used=self.iterations_used,
            tool_call_messages=messages,
            tool_calls=calls,  # type: ignore[arg-type]  # dicts of this form
            accumulated_outputs=dict(self.state.outputs),
        )
        if self.tool_answers is None:
            if self.budget is not None:
                # Stored as an event, with the run's position and as a round of tools.
                self.budget.take(3 * size_of([messages, calls, event.accumulated_outputs]))
            raise Paused(event)
        return await self.tool_answers(event)
