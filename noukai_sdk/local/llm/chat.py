"""The interface of a chat model: one streamed turn. Every provider implements it.

Messages, tools and tool calls are dicts in OpenAI's format, whichever provider serves them.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ...models.events import TokenBreakdown


@dataclass(frozen=True)
class ChatRequest:
    """One turn.

    Attributes:
        messages: In OpenAI's format, ``{"role", "content"}``, including tool turns.
        temperature: 0 to 2; None for the model's default.
        max_tokens: Most tokens to produce; None for the model's default.
        tools: OpenAI function tools that the model may call, None for none.
        tool_choice: ``"auto"``, ``"none"``, ``"required"`` or OpenAI's object form.
        response_format: ``"json"`` asks for a JSON object if the provider has a switch for it; say so
            in the prompt as well. A mapping is OpenAI's form, such as a JSON schema.
        json_schema: A JSON schema of an object that the response must fit, None for none. Providers that
            do not take schemas get it in the system turn.
        top_p: More than 0, at most 1; None for the configuration's.
        seed: For models that can repeat a response; None for the configuration's.
        extra_body: Fields to add to the request's body.
    """

    messages: list[dict[str, Any]]
    temperature: float | None = None
    max_tokens: int | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: Literal["text", "json"] | Mapping[str, Any] = "text"
    top_p: float | None = None
    seed: int | None = None
    extra_body: Mapping[str, Any] | None = None
    json_schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ChatDelta:
    """One part of a response: text as it arrives, tool calls and usage in the last part.

    Attributes:
        tool_calls: Complete calls in OpenAI's format; ``arguments`` is a JSON text.
        usage: None if the provider does not count.
        finish_reason: ``"stop"``, ``"length"``, ``"tool_calls"`` or the provider's own word; only in
            the last part.
    """

    text: str = ""
    tool_calls: tuple[dict[str, Any], ...] = ()
    usage: TokenBreakdown | None = None
    finish_reason: str | None = None


class ChatModel(Protocol):
    """A model that many tasks of one event loop may use at once.

    Attributes:
        name: The argument of ``open_model``, such as ``"openai:gpt-4o-mini"``; the key to its price.
    """

    name: str

    def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Yield the response as it arrives. Closing the generator stops the model.

        Raises:
            LlmError: See ``errors.py`` for the kinds.
        """
        ...

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """Return the whole response; cheaper than ``stream`` if its parts are not needed."""
        ...

    async def warmup(self) -> None:
        """Load weights, or open a connection and check the key. Nothing is billed."""
        ...

    async def aclose(self) -> None:
        """Release connections, threads and weights. May be called any number of times."""
        ...


async def collect(deltas: AsyncGenerator[ChatDelta, None]) -> ChatDelta:
    """Join a streamed response into one delta, and close the stream."""
    texts: list[str] = []
    calls: tuple[dict[str, Any], ...] = ()
    usage: TokenBreakdown | None = None
    finish_reason: str | None = None
    async with aclosing(deltas):
        async for delta in deltas:
            texts.append(delta.text)
            calls += delta.tool_calls
            usage = delta.usage or usage
            finish_reason = delta.finish_reason or finish_reason
    return ChatDelta("".join(texts), calls, usage, finish_reason)


def message_text(message: dict[str, Any]) -> str:
    """Return the text of a message, whose content is a text, a list of parts or missing."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def schema_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``response_format`` for a JSON schema, in OpenAI's form."""
    # OpenAI takes no other characters in a name, such as those of Page[int].
    name = re.sub(r"[^A-Za-z0-9_-]", "_", str(schema.get("title", "output")))[:64]
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def with_schema_turn(messages: list[dict[str, Any]], schema: Mapping[str, Any]) -> list[Any]:
    """Return the messages with a JSON schema in the system turn, for providers that do not take one."""
    text = "Respond with JSON that fits this JSON schema, and with nothing else:\n"
    text += json.dumps(schema, ensure_ascii=False)
    first, *others = messages or [{}]
    if first.get("role") != "system":
        return [{"role": "system", "content": text}, *messages]
    return [{**first, "content": f"{message_text(first)}\n\n{text}".strip()}, *others]


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """Build a tool call in OpenAI's format; ``arguments`` is a JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def call_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """Parse the arguments of a tool call; ``{}`` if they are not a JSON object."""
    text = call.get("function", {}).get("arguments")
    try:
        arguments = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
