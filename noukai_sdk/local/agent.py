"""One model step: ask, pass the answer on chunk by chunk, stop for tools."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import anyio

from ..errors import FlowExecutionError
from ..models.events import StepOutput, Tokens
from .chat import ChatDelta, ChatModel, ChatRequest
from .flow import Step


@dataclass
class Answer:
    """What a model has said so far."""

    text: str = ""
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    tokens: Tokens | None = None

    def add(self, delta: ChatDelta) -> None:
        """Take in the next piece."""
        self.text += delta.text
        self.tool_calls += delta.tool_calls
        self.tokens = delta.usage or self.tokens

    def as_turn(self) -> dict[str, Any]:
        """The assistant's turn, for a conversation that goes on."""
        return {"role": "assistant", "content": self.text or None, "tool_calls": self.tool_calls}


async def ask(
    step: Step, model: ChatModel, request: ChatRequest, answer: Answer
) -> AsyncGenerator[StepOutput, None]:
    """Stream one turn into ``answer``, giving an event for each chunk of text.

    Raises:
        TimeoutError: The attempt took longer than ``step.timeout``.
    """
    deadline = None if step.timeout is None else anyio.current_time() + step.timeout
    async with aclosing(_closable(model.stream(request))) as deltas:
        while True:
            delta = await _next(deltas, deadline)
            if delta is None:
                return
            answer.add(delta)
            if delta.text:
                yield StepOutput(step_id=step.id, output_data=delta.text)


async def _closable(deltas: AsyncIterator[ChatDelta]) -> AsyncGenerator[ChatDelta, None]:
    # ChatModel promises an iterator; aclosing() needs a generator.
    try:
        async for delta in deltas:
            yield delta
    finally:
        if isinstance(deltas, AsyncGenerator):
            await deltas.aclose()


async def _next(deltas: AsyncIterator[ChatDelta], deadline: float | None) -> ChatDelta | None:
    # The limit is set for each piece anew: a cancel scope must not stay open across a yield.
    if deadline is None:
        return await anext(deltas, None)
    with anyio.fail_after(max(deadline - anyio.current_time(), 0)):
        return await anext(deltas, None)


def output_of(step: Step, answer: Answer) -> Any:
    """The step's output: the text, or the value that it spells.

    Raises:
        FlowExecutionError: The step promises JSON and the text is none; code ``OUTPUT_INVALID``.
    """
    if step.output == "text":
        return answer.text
    try:
        return json.loads(answer.text)
    except ValueError as error:
        message = f"step {step.id!r} should answer in JSON and did not: {error}"
        raise FlowExecutionError(message, code="OUTPUT_INVALID") from error
