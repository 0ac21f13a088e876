"""Reading answers of Anthropic's messages API, whole or streamed. No I/O."""

from __future__ import annotations

import json
from typing import Any

from ....models.events import Tokens
from ..chat import ChatDelta
from ..errors import LlmConnectionError
from .reading import expecting, tool_call

_FINISH_REASONS = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def read_message(body: Any) -> ChatDelta:
    """The answer in a ``message`` object.

    Raises:
        LlmResponseError: It is none.
    """
    with expecting("message", body):
        blocks = body["content"]
        calls = tuple(
            tool_call(block["id"], block["name"], json.dumps(block.get("input") or {}))
            for block in blocks
            if block["type"] == "tool_use"
        )
        text = "".join(block["text"] for block in blocks if block["type"] == "text")
        return ChatDelta(text, calls, _tokens(body.get("usage") or {}), _reason(body))


class StreamReader:
    """Takes the events of one stream in order; gives text as it comes and the rest at the end."""

    def __init__(self) -> None:
        self._calls: dict[int, dict[str, str]] = {}
        self._usage: dict[str, Any] = {}
        self._finish_reason: str | None = None

    def read(self, chunk: Any) -> str:
        """The text in one event, often none.

        Raises:
            LlmResponseError: It is no event.
        """
        with expecting("event", chunk):
            kind = chunk["type"]
            if kind == "content_block_delta":
                return self._add(chunk["index"], chunk["delta"])
            if kind == "content_block_start":
                self._begin(chunk["index"], chunk["content_block"])
            elif kind == "message_start":
                self._usage.update(chunk["message"].get("usage") or {})
            elif kind == "message_delta":
                self._usage.update(chunk.get("usage") or {})
                self._finish_reason = _reason(chunk["delta"])
        return ""

    def end(self) -> ChatDelta:
        """The last piece: tool calls, usage and why it ended.

        Raises:
            LlmConnectionError: The stream was cut: nothing has said that it is complete.
            LlmResponseError: What it said of the usage was no such thing.
        """
        if self._finish_reason is None:
            raise LlmConnectionError("the stream ended before the answer was complete")
        calls = tuple(
            tool_call(call["id"], call["name"], call["arguments"] or "{}")
            for _, call in sorted(self._calls.items())
        )
        with expecting("usage", self._usage):
            return ChatDelta("", calls, _tokens(self._usage), self._finish_reason)

    def _begin(self, index: int, block: dict[str, Any]) -> None:
        if block["type"] == "tool_use":
            self._calls[int(index)] = {"id": block["id"], "name": block["name"], "arguments": ""}

    def _add(self, index: int, delta: dict[str, Any]) -> str:
        if delta["type"] == "input_json_delta":
            self._calls[index]["arguments"] += delta["partial_json"]
        return str(delta["text"]) if delta["type"] == "text_delta" else ""


def _reason(told: dict[str, Any]) -> str | None:
    reason = told.get("stop_reason")
    return _FINISH_REASONS.get(reason, reason) if reason else None


def _tokens(usage: dict[str, Any]) -> Tokens:
    # What was read from the prompt cache is counted apart, and it is part of the prompt.
    names = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    prompt = sum(usage.get(name) or 0 for name in names)
    completion = usage.get("output_tokens") or 0
    return Tokens(prompt=prompt, completion=completion, total=prompt + completion)
