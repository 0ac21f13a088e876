"""One attempt at one node: what its work may see and do."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import anyio

from ...models.events import StreamEvent, Tokens, ToolCallsRequired
from ..llm.chat import ChatModel
from ..llm.config import LlmConfig
from ..workflow.node import Node
from .inputs import View
from .state import RunState
from .usage import Usage

Emit = Callable[[StreamEvent], Awaitable[None]]
ToolAnswers = Callable[[ToolCallsRequired], Awaitable[list[dict[str, Any]]]]
"""Gives the tool turns that answer a pause, or raises :class:`Paused` to leave the run there."""


class Models(Protocol):
    """Where the engine gets its models: a :class:`~noukai_sdk.local.llm.pool.ModelPool`, or a fake."""

    def get(self, spec: Any) -> ChatModel:
        """The model of this spec or configuration."""
        ...


class Paused(Exception):
    """The run waits for tool results and ends here for now."""

    def __init__(self, event: ToolCallsRequired) -> None:
        super().__init__(event.step_id)
        self.event = event


class Limit:
    """A timeout whose clock can be stopped, by several items of a loop at once.

    Args:
        seconds: What the time inside :attr:`scope` may come to.
    """

    def __init__(self, seconds: float) -> None:
        self.scope = anyio.move_on_after(seconds)
        self._stops = 0
        self._left = seconds

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the time in this block."""
        if not self._stops:
            self._left = self.scope.deadline - anyio.current_time()
            self.scope.deadline = math.inf
        self._stops += 1
        try:
            yield
        finally:
            self._stops -= 1
            if not self._stops:
                self.scope.deadline = anyio.current_time() + self._left


@dataclass
class StepContext:
    """One attempt; in a loop, at one item.

    Attributes:
        emit: Takes the events, None where nobody listens.
        limit: The attempt's timeout, None where it has none.
    """

    node: Node
    view: View
    state: RunState
    place: int
    models: Models
    default_model: str | LlmConfig
    usage: Usage
    emit: Emit | None
    tool_answers: ToolAnswers | None
    limit: Limit | None = None
    iterations_used: int = 0

    @property
    def listens(self) -> bool:
        """Whether somebody wants the events."""
        return self.emit is not None

    def for_item(self, item: Any, index: int) -> StepContext:
        """The same attempt at one item of a loop."""
        return replace(self, view=replace(self.view, item=item, index=index))

    def model(self, spec: str | LlmConfig | None) -> ChatModel:
        """The model that the node asks."""
        return self.models.get(self.default_model if spec is None else spec)

    def spend(self, model: str, tokens: Tokens | None) -> None:
        """Count an answer."""
        self.usage.add(model, tokens)

    async def tell(self, event: StreamEvent) -> None:
        """Emit an event. The time that the listener takes is not the node's."""
        assert self.emit is not None  # callers look at listens, and make no event for nobody
        with self.limit.stopped() if self.limit else nullcontext():
            await self.emit(event)

    def resumed_messages(self) -> list[dict[str, Any]] | None:
        """The conversation to go on with, where the run was paused in this node."""
        is_paused = self.place == self.state.step_index
        return self.state.tool_messages if is_paused else None

    async def tool_results(
        self, messages: list[dict[str, Any]], calls: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The tool turns that answer these calls.

        Raises:
            Paused: Nobody here can answer them.
        """
        event = ToolCallsRequired(
            execution_id=self.state.execution_id,
            step_id=self.node.id,
            step_index=self.place,
            iterations_used=self.iterations_used,
            tool_call_messages=messages,
            tool_calls=calls,
            accumulated_outputs=dict(self.state.outputs),
        )
        if self.tool_answers is None:
            raise Paused(event)
        return await self.tool_answers(event)
