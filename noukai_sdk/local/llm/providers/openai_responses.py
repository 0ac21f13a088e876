"""Read responses of OpenAI's chat and embeddings APIs, whole or streamed. No I/O."""

from __future__ import annotations

from typing import Any

from ....models.events import TokenBreakdown
from ..chat import ChatDelta, tool_call
from ..errors import LlmConnectionError
from .sdk_errors import MALFORMED, invalid_response


def read_completion(body: Any) -> ChatDelta:
    """Read a ``chat.completion`` object.

    Raises:
        LlmResponseError: The body is not a valid one.
    """
    try:
        choice = body["choices"][0]
        message = choice["message"]
        calls: tuple[dict[str, Any], ...] = ()
        if message.get("tool_calls"):
            parts = _ToolCalls()
            parts.add(message)
            calls = parts.complete()
        finish_reason = choice.get("finish_reason") or "stop"
        return ChatDelta(_text(message), calls, _usage(body), finish_reason)
    except MALFORMED as error:
        raise invalid_response("chat completion", body) from error


def read_embeddings(body: Any) -> list[list[float]]:
    """Read the vectors of an embeddings response, in the order of their texts.

    Raises:
        LlmResponseError: The body is not a valid one.
    """
    try:
        items = sorted(body["data"], key=lambda item: item["index"])
        return [[float(value) for value in item["embedding"]] for item in items]
    except MALFORMED as error:
        raise invalid_response("list of embeddings", body) from error


class OpenAiStreamReader:
    """Read the chunks of one stream in order: text as it arrives, the rest at the end."""

    def __init__(self) -> None:
        self._calls = _ToolCalls()
        self._usage: TokenBreakdown | None = None
        self._finish_reason: str | None = None

    def read(self, chunk: Any) -> str:
        """Return the text in one ``chat.completion.chunk``, often none.

        Raises:
            LlmResponseError: The chunk is not a valid one.
        """
        try:
            self._usage = _usage(chunk) or self._usage
            # The chunk with the usage has no choice.
            if not chunk["choices"][:1]:
                return ""
            choice = chunk["choices"][0]
            self._finish_reason = choice.get("finish_reason") or self._finish_reason
            delta = choice.get("delta") or {}
            self._calls.add(delta)
            return _text(delta)
        except MALFORMED as error:
            raise invalid_response("chat completion chunk", chunk) from error

    def end(self) -> ChatDelta:
        """Return the last delta: tool calls, usage and finish reason.

        Raises:
            LlmConnectionError: The stream was cut off before its finish reason.
        """
        if self._finish_reason is None:
            raise LlmConnectionError("the stream ended before the response was complete")
        return ChatDelta("", self._calls.complete(), self._usage, self._finish_reason)


class _ToolCalls:
    """Tool calls arrive in parts with an index; the parts of the arguments add up."""

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

    def complete(self) -> tuple[dict[str, Any], ...]:
        return tuple(
            tool_call(call["id"] or f"call_{index}", call["name"], call["arguments"] or "{}")
            for index, call in sorted(self._parts.items())
        )


def _text(message: dict[str, Any]) -> str:
    content = message.get("content")
    if content is not None and not isinstance(content, str):
        raise TypeError("content is not a text")
    return content or ""


def _usage(body: dict[str, Any]) -> TokenBreakdown | None:
    usage = body.get("usage")
    if not usage:
        return None
    return TokenBreakdown(
        prompt=usage.get("prompt_tokens"),
        completion=usage.get("completion_tokens"),
        total=usage.get("total_tokens"),
        cached=_cached(usage),
    )


def _cached(usage: dict[str, Any]) -> int | None:
    details = usage.get("prompt_tokens_details")
    if details:
        return details.get("cached_tokens")  # type: ignore[no-any-return]  # checked by the model
    return usage.get("prompt_cache_hit_tokens")  # DeepSeek's name
