"""Reading answers of OpenAI's chat API, whole or streamed. No I/O."""

from __future__ import annotations

from typing import Any

from ....models.events import Tokens
from ..chat import ChatDelta
from ..errors import LlmConnectionError
from .reading import expecting, tool_call


def read_completion(body: Any) -> ChatDelta:
    """The answer in a ``chat.completion`` object.

    Raises:
        LlmResponseError: It is none.
    """
    with expecting("chat completion", body):
        choice = body["choices"][0]
        message = choice["message"]
        calls = _ToolCalls()
        calls.add(message)
        finish_reason = choice.get("finish_reason") or "stop"
        return ChatDelta(_text(message), calls.whole(), _usage(body), finish_reason)


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
        with expecting("chat completion chunk", chunk):
            self._usage = _usage(chunk) or self._usage
            # The chunk with the usage has no choice.
            return "".join(self._read_choice(choice) for choice in chunk["choices"][:1])

    def end(self) -> ChatDelta:
        """The last piece: tool calls, usage and why it ended.

        Raises:
            LlmConnectionError: The stream was cut: nothing has said that it is complete.
        """
        if self._finish_reason is None:
            raise LlmConnectionError("the stream ended before the answer was complete")
        return ChatDelta("", self._calls.whole(), self._usage, self._finish_reason)

    def _read_choice(self, choice: dict[str, Any]) -> str:
        self._finish_reason = choice.get("finish_reason") or self._finish_reason
        delta = choice.get("delta") or {}
        self._calls.add(delta)
        return _text(delta)


class _ToolCalls:
    """Tool calls come in parts, told apart by their index; the arguments add up."""

    def __init__(self) -> None:
        self._parts: dict[int, dict[str, str]] = {}

    def add(self, message: dict[str, Any]) -> None:
        for position, part in enumerate(message.get("tool_calls") or ()):
            index = int(part.get("index", position))
            call = self._parts.setdefault(index, {"id": "", "name": "", "arguments": ""})
            function = part.get("function") or {}
            call["id"] = part.get("id") or call["id"]
            call["name"] = function.get("name") or call["name"]
            call["arguments"] += function.get("arguments") or ""

    def whole(self) -> tuple[dict[str, Any], ...]:
        return tuple(
            tool_call(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._parts.items())
        )


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is no text")
    return content or ""


def _usage(body: dict[str, Any]) -> Tokens | None:
    usage = body.get("usage")
    if not usage:
        return None
    return Tokens(
        prompt=usage.get("prompt_tokens"),
        completion=usage.get("completion_tokens"),
        total=usage.get("total_tokens"),
    )
