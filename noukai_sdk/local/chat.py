"""What a model is to the engine: one streamed chat turn. Every provider has this shape."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Protocol

from ..models.events import Tokens


@dataclass(frozen=True)
class ChatRequest:
    """One turn.

    Attributes:
        messages: In OpenAI's form, ``{"role", "content"}``, tool turns included.
        temperature: 0 to 2; None leaves it to the model.
        max_tokens: Most tokens to produce; None leaves it to the model.
        tools: OpenAI function tools that the model may call, None for none.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
    """

    messages: list[dict[str, Any]]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None


@dataclass(frozen=True)
class ChatDelta:
    """One piece of an answer: text as it comes, tool calls and usage with the last piece."""

    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: Tokens | None = None
    finish_reason: str | None = None


class ChatModel(Protocol):
    """A model that answers turns. Safe to use from many tasks of one event loop at once."""

    name: str

    def stream(self, request: ChatRequest) -> AsyncIterator[ChatDelta]:
        """The answer, piece by piece. Closing the iterator stops the model."""
        ...

    async def aclose(self) -> None:
        """Release connections, threads and weights. May be called any number of times."""
        ...
