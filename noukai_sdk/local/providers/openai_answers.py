"""Reading answers of OpenAI's chat API, whole or streamed. No I/O."""

from __future__ import annotations

from typing import Any

from ...models.events import Tokens
from ..chat import ChatDelta
from ..llm_errors import LlmConnectionError, LlmResponseError


def read_completion(body: Any) -> ChatDelta:
    """The answer in a ``chat.completion`` object.

    Raises:
        LlmResponseError: It is none.
    """
    choice = _first_choice(body)
    message = choice.get("message") if choice else None
    if not isinstance(message, dict):
        raise LlmResponseError(f"the answer is no chat completion: {_excerpt(body)}")
    calls = _ToolCalls()
    calls.add(message)
    return ChatDelta(
        _text(message), calls.whole(), _usage(body), choice.get("finish_reason") or "stop"
    )


class StreamReader:
    """Takes the chunks of one stream in order; gives text as it comes and the rest at the end."""

    def __init__(self) -> None:
        self._calls = _ToolCalls()
        self._usage: Tokens | None = None
        self._finish_reason: str | None = None

    def read(self, chunk: Any) -> str:
        """The text in one ``chat.completion.chunk``, often none.

        Raises:
            LlmResponseError: It is no such object.
        """
        if not isinstance(chunk, dict) or not isinstance(chunk.get("choices"), list):
            raise LlmResponseError(f"the stream sent no chat completion chunk: {_excerpt(chunk)}")
        self._usage = _usage(chunk) or self._usage
        choice = _first_choice(chunk)
        if not choice:
            return ""
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta") or {}
        self._calls.add(delta)
        return _text(delta)

    def end(self) -> ChatDelta:
        """The last piece: tool calls, usage and why it ended.

        Raises:
            LlmConnectionError: The stream was cut: nothing has said that it is complete.
        """
        if self._finish_reason is None:
            raise LlmConnectionError("the stream ended before the answer was complete")
        return ChatDelta("", self._calls.whole(), self._usage, self._finish_reason)


class _ToolCalls:
    """Tool calls come in parts, told apart by their index; the arguments add up."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, str]] = {}

    def add(self, message: dict[str, Any]) -> None:
        for position, part in enumerate(message.get("tool_calls") or ()):
            call = self._parts.setdefault(
                part.get("index", position), {"id": "", "name": "", "arguments": ""}
            )
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""

    def whole(self) -> tuple[dict[str, Any], ...]:
        return tuple(
            tool_call(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._parts.items())
        )


def tool_call(call_id: str, name: str, arguments: str) -> dict[str, Any]:
    """A tool call in OpenAI's form; ``arguments`` is a JSON text."""
    function = {"name": name, "arguments": arguments}
    return {"id": call_id, "type": "function", "function": function}


def _first_choice(body: Any) -> dict[str, Any]:
    choices = body.get("choices") if isinstance(body, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    return first if isinstance(first, dict) else {}


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _usage(body: dict[str, Any]) -> Tokens | None:
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return None
    return Tokens(
        prompt=usage.get("prompt_tokens"),
        completion=usage.get("completion_tokens"),
        total=usage.get("total_tokens"),
    )


def _excerpt(body: Any) -> str:
    text = repr(body)
    return text if len(text) <= 200 else text[:200] + "..."
