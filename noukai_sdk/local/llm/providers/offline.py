"""The model for demos and tests: no dependency, no clock, no chance. Same input, same answer.

The answer quotes the input and carries a hash of the whole request, so that different inputs have
different answers. Tokens are approximated: one for every four characters begun, message by message.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from typing import Any

from anyio.lowlevel import checkpoint

from ....models.events import Tokens
from ..chat import ChatDelta, ChatRequest
from .messages import message_text
from .offline_tools import next_call, tool_findings

_WORDS_A_CHUNK = 4
_CHARS_A_TOKEN = 4
_QUOTED_CHARS = 80


class OfflineModel:
    """Answers at once and always the same. Asks for tools city by city (``offline_tools.py``)."""

    name = "offline"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """The answer in pieces of a few words, then the usage; or one tool call."""
        turn = _turn(request)
        for text in _chunks(turn.text):
            yield ChatDelta(text)
            # A real model takes its time here; an instant one must still let other tasks run.
            await checkpoint()
        yield replace(turn, text="")

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """The whole answer as one piece."""
        await checkpoint()
        return _turn(request)

    async def warmup(self) -> None:
        """Nothing to load."""

    async def aclose(self) -> None:
        """Nothing to release."""


def _turn(request: ChatRequest) -> ChatDelta:
    call = next_call(request, _digest(request, 12))
    if call is not None:
        function = call["function"]
        usage = _usage(request, function["name"] + function["arguments"])
        return ChatDelta(tool_calls=(call,), usage=usage, finish_reason="tool_calls")
    text, finish_reason = _shorten(_text(request), request.max_tokens)
    return ChatDelta(text, usage=_usage(request, text), finish_reason=finish_reason)


def _text(request: ChatRequest) -> str:
    words = message_text(_last_user_message(request)).split()
    quoted = " ".join(words)
    if len(quoted) > _QUOTED_CHARS:
        quoted = quoted[: _QUOTED_CHARS - 3] + "..."
    counted = "1 word" if len(words) == 1 else f"{len(words)} words"
    said = "; ".join(tool_findings(request.messages)) or counted
    ref = _digest(request, 8)
    if request.response_format == "json":
        return json.dumps({"answer": said, "to": quoted, "ref": ref}, ensure_ascii=False)
    return f'Offline answer to "{quoted}": {said} (ref {ref}).'


def _last_user_message(request: ChatRequest) -> dict[str, Any]:
    users = [message for message in request.messages if message.get("role") == "user"]
    return (users or request.messages or [{}])[-1]


def _digest(request: ChatRequest, length: int) -> str:
    told = json.dumps(
        [request.messages, request.temperature, request.tools, request.tool_choice],
        sort_keys=True,
        default=str,
    )
    return hashlib.sha256(told.encode()).hexdigest()[:length]


def _shorten(text: str, max_tokens: int | None) -> tuple[str, str]:
    if max_tokens is None or len(text) <= max_tokens * _CHARS_A_TOKEN:
        return text, "stop"
    return text[: max_tokens * _CHARS_A_TOKEN], "length"


def _chunks(text: str) -> Iterator[str]:
    words = re.findall(r"\S+\s*", text)
    for start in range(0, len(words), _WORDS_A_CHUNK):
        yield "".join(words[start : start + _WORDS_A_CHUNK])


def _usage(request: ChatRequest, answer: str) -> Tokens:
    prompt = sum(_count(message_text(message)) for message in request.messages)
    completion = _count(answer)
    return Tokens(prompt=prompt, completion=completion, total=prompt + completion)


def _count(text: str) -> int:
    return -(-len(text) // _CHARS_A_TOKEN)
