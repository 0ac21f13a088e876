"""A message that a model received, in the form of any provider, as a text to read and to compare."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

# A longer part that is not text, such as an image in base64, is described.
_LONGEST_PART = 400


@dataclass(frozen=True)
class Message:
    """A message.

    Attributes:
        value: The message in the provider's form.
    """

    value: Mapping[str, Any]

    @property
    def role(self) -> str:
        """The role; ``?`` without one."""
        return str(self.value.get("role", "?"))

    @cached_property
    def text(self) -> str:
        """The texts, the calls of tools and, in short, the attachments."""
        content = self.value.get("content")
        parts = content if isinstance(content, list) else [content]
        calls = self.value.get("tool_calls")
        shown = [part_text(each) for each in parts if each is not None]
        shown += [_call_text(each) for each in (calls if isinstance(calls, list) else ())]
        return "\n".join(shown)

    @cached_property
    def size(self) -> int:
        """The number of characters of what the model received, attachments included."""
        content = self.value.get("content")
        size = len(content) if isinstance(content, str) else 0
        if isinstance(content, list):
            size = sum(len(_whole_part(each)) for each in content)
        calls = self.value.get("tool_calls")
        return size + (len(_json(calls)) if calls else 0)

    @property
    def title(self) -> str:
        """The role, and of a result the call that it answers."""
        call = self.value.get("tool_call_id")
        return self.role if call is None else f"{self.role} {call}"

    @cached_property
    def key(self) -> str:
        """What equal messages share."""
        return _json(self.value, sort_keys=True)


def message_of(value: Any) -> Message:
    """Return a message of any form; what is not an object is its content."""
    return Message(value if isinstance(value, Mapping) else {"role": "?", "content": value})


def part_text(part: Any) -> str:
    """Return a part of a message: a text as it is, others as JSON, an attachment in short.

    Example:
        >>> part_text({"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 800}})
        '[image_url: data:image/png;base64, 822 characters]'
    """
    if isinstance(part, str):
        return part
    if not isinstance(part, Mapping):
        return _json(part)
    kind = str(part.get("type", "part"))
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    if kind == "tool_use":
        return f"calls {part.get('name')}({_json(part.get('input'))}) [{part.get('id')}]"
    if kind == "tool_result":
        content = part.get("content")
        text = content if isinstance(content, str) else _json(content)
        return f"result of [{part.get('tool_use_id')}]: {text}"
    whole = _json(part)
    if len(whole) <= _LONGEST_PART:
        return f"[{kind}: {whole}]"
    address = _address(part)
    head = address.partition(",")[0] if address.startswith("data:") else address[:200]
    size = len(address) if address else len(whole)
    return f"[{kind}: {head}, {size:,} characters]" if head else f"[{kind}: {size:,} characters]"


def _whole_part(part: Any) -> str:
    is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
    return part if isinstance(part, str) else part["text"] if is_text else _json(part)


def _address(part: Mapping[str, Any]) -> str:
    """Return the URL of an attachment in the form of OpenAI or Anthropic; empty without one."""
    for holder in (part.get("image_url"), part.get("source"), part.get("file"), part):
        if not isinstance(holder, Mapping):
            continue
        if isinstance(holder.get("data"), str):
            return f"data:{holder.get('media_type', '')};base64,{holder['data']}"
        for name in ("url", "file_data"):
            if isinstance(holder.get(name), str):
                return str(holder[name])
    return ""


def _call_text(call: Any) -> str:
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return f"calls {_json(call)}"
    return f"calls {function.get('name')}({function.get('arguments')}) [{call.get('id')}]"


def _json(value: Any, **options: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, default=str, **options)
    except RecursionError:
        return "(nested too deep to be shown)"


def count_characters(number: int) -> str:
    """Return a number of characters with its noun."""
    return f"{number:,} character" + ("" if number == 1 else "s")
