"""Read responses of Anthropic's messages API, whole or streamed. No I/O."""

from __future__ import annotations

import json
from typing import Any

from ....models.events import TokenBreakdown
from ..chat import ChatDelta, tool_call
from ..errors import LlmConnectionError
from .sdk_errors import MALFORMED, invalid_response

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def read_message(body: Any) -> ChatDelta:
    """Read a ``message`` object.

    Raises:
        LlmResponseError: The body is not a valid one.
    """
    try:
        blocks = body["content"]
        calls = tuple(
            tool_call(block["id"], block["name"], json.dumps(block.get("input") or {}))
            for block in blocks
            if block["type"] == "tool_use"
        )
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        return ChatDelta(text, calls, _tokens(body.get("usage") or {}), _finish_reason(body))
    except MALFORMED as error:
        raise invalid_response("message", body) from error


class AnthropicStreamReader:
    """Read the events of one stream in order: text as it arrives, the rest at the end."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None

    def read(self, chunk: Any) -> str:
        """Return the text in one event, often none.

        Raises:
            LlmResponseError: The event is not a valid one.
        """
        try:
            kind = chunk["type"]
            if kind == "content_block_delta":
                delta = chunk["delta"]
                if delta["type"] == "input_json_delta":
                    self._calls[chunk["index"]]["arguments"] += delta["partial_json"]
                elif delta["type"] == "text_delta":
                    return str(delta["text"])
            elif kind == "content_block_start":
                block = chunk["content_block"]
                if block["type"] == "tool_use":
                    call = {"id": block["id"], "name": block["name"], "arguments": ""}
                    self._calls[int(chunk["index"])] = call
            elif kind == "message_start":
                self._usage.update(chunk["message"].get("usage") or {})
            elif kind == "message_delta":
                self._usage.update(chunk.get("usage") or {})
                self._finish_reason = _finish_reason(chunk["delta"])
        except MALFORMED as error:
            raise invalid_response("event", chunk) from error
        return ""

    def end(self) -> ChatDelta:
        """Return the last delta: tool calls, usage and finish reason.

        Raises:
            LlmConnectionError: The stream was cut off before its finish reason.
            LlmResponseError: The usage is not valid.
        """
        if self._finish_reason is None:
            raise LlmConnectionError("the stream ended before the response was complete")
        calls = tuple(
            tool_call(call["id"], call["name"], call["arguments"] or "{}")
            for _, call in sorted(self._calls.items())
        )
        try:
            return ChatDelta("", calls, _tokens(self._usage), self._finish_reason)
        except MALFORMED as error:
            raise invalid_response("usage", self._usage) from error


def _finish_reason(message: dict[str, Any]) -> str | None:
    reason = message.get("stop_reason")
    return _FINISH_REASONS.get(reason, reason) if reason else None


def _tokens(usage: dict[str, Any]) -> TokenBreakdown:
    # Tokens read from the prompt cache are counted separately, but they are part of the prompt.
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    prompt = sum(usage.get(name) or 0 for name in names)
    completion = usage.get("output_tokens") or 0
    return TokenBreakdown(
        prompt=prompt,
        completion=completion,
        total=prompt + completion,
        cached=usage.get("cache_read_input_tokens"),
    )
