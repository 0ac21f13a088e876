"""What a model is to the engine: one streamed chat turn. Every provider has this shape."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ...models.events import Tokens


@dataclass(frozen=True)
class ChatRequest:
    """One turn.

    Attributes:
        messages: In OpenAI's form, ``{"role", "content"}``, tool turns included.
        temperature: 0 to 2; None leaves it to the model.
        max_tokens: Most tokens to produce; None leaves it to the model.
        tools: OpenAI function tools that the model may call, None for none.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
        response_format: ``"json"`` asks for a JSON object where the provider has a switch for it;
            say so in the prompt as well.
    """

    messages: list[dict[str, Any]]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: Literal["text", "json"] = "text"


@dataclass(frozen=True)
class ChatDelta:
    """One piece of an answer: text as it comes, tool calls and usage with the last piece.

    Attributes:
        tool_calls: Whole calls in OpenAI's form; ``arguments`` is a JSON text.
        usage: None where the provider does not count.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or the provider's own word; on the
            last piece only.
    """

    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: Tokens | None = None
    finish_reason: str | None = None


class ChatModel(Protocol):
    """A model that answers turns. Safe to use from many tasks of one event loop at once.

    Attributes:
        name: What ``open_model`` takes, such as ``"openai:gpt-4o-mini"``; prices are looked up by it.
    """

    name: str

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """The answer, piece by piece. Closing the generator stops the model.

        Raises:
            LlmError: As the providers' error tree says (``llm_errors.py``).
        """
        ...

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """The whole answer as one piece; cheaper than ``stream`` where nobody reads along."""
        ...

    async def warmup(self) -> None:
        """Load weights, or open a connection and check the key. Nothing is billed."""
        ...

    async def aclose(self) -> None:
        """Release connections, threads and weights. May be called any number of times."""
        ...


async def collect(pieces: AsyncGenerator[ChatDelta, None]) -> ChatDelta:
    """The whole of a streamed answer as one piece."""
    texts: list[str] = []
    whole = ChatDelta()
    async with aclosing(pieces):
        async for piece in pieces:
            texts.append(piece.text)
            whole = ChatDelta(
                tool_calls=whole.tool_calls + piece.tool_calls,
                usage=piece.usage or whole.usage,
                finish_reason=piece.finish_reason or whole.finish_reason,
            )
    return ChatDelta("".join(texts), whole.tool_calls, whole.usage, whole.finish_reason)
