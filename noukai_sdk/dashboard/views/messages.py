"""Messages of a model call as turns of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .recorded_values import Parts, Value

_ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclass(frozen=True)
class ToolCall:
    """A call of a tool that a model asks for, and its result if that is known."""

    name: str
    id: str
    arguments: Value | None
    result: Value | None = None


@dataclass(frozen=True)
class Turn:
    """A message. ``contents`` are its texts, and other parts as JSON."""

    role: str
    contents: tuple[Value, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = ""

    @property
    def style(self) -> str:
        """Return the role if it is one that has a style."""
        return self.role if self.role in _ROLES else "other"


def turns(messages: Any, parts: Parts, name: str, first: int = 0) -> tuple[Turn, ...]:
    """Return messages as turns; none if they are not a list of messages.

    Args:
        messages: The messages.
        parts: Gets the texts.
        name: Their name, to which the number of the message is added.
        first: The number of the first message.
    """
    if not isinstance(messages, list) or not all(
        isinstance(each, Mapping) and "role" in each for each in messages
    ):
        return ()
    return tuple(_turn(each, parts, f"{name}.{at}") for at, each in enumerate(messages, first))


def tool_calls(
    calls: Any, parts: Parts, name: str, results: Mapping[str, Any] | None = None
) -> tuple[ToolCall, ...]:
    """Return calls of tools in OpenAI's form; what has another form is shown as it is."""
    found: list[ToolCall] = []
    for at, call in enumerate(calls if isinstance(calls, list) else ()):
        place = f"{name}.{at}"
        if not isinstance(call, Mapping):
            found.append(ToolCall("?", "", parts.add(place, call)))
            continue
        function = call.get("function")
        named = function if isinstance(function, Mapping) else call
        call_id = str(call.get("id", ""))
        arguments = named.get("arguments", named.get("input"))
        result = None
        if results is not None and call_id in results:
            result = parts.add(f"{place}.result", results[call_id])
        shown = None if arguments is None else parts.add(f"{place}.arguments", arguments)
        found.append(ToolCall(str(named.get("name", "?")), call_id, shown, result))
    return tuple(found)


def _turn(message: Mapping[str, Any], parts: Parts, name: str) -> Turn:
    content = message.get("content")
    contents: list[Value] = []
    for at, part in enumerate(content if isinstance(content, list) else [content]):
        is_text = isinstance(part, Mapping) and isinstance(part.get("text"), str)
        value = part["text"] if is_text and isinstance(part, Mapping) else part
        if value is not None:
            contents.append(parts.add(f"{name}.{at}", value))
    calls = message.get("tool_calls", message.get("toolCalls"))
    call_id = message.get("tool_call_id", message.get("toolCallId"))
    return Turn(
        str(message["role"]),
        tuple(contents),
        tool_calls(calls, parts, f"{name}.calls"),
        "" if call_id is None else str(call_id),
    )


def results_by_id(results: Sequence[Mapping[str, Any]] | None) -> dict[str, Any]:
    """Return the results of tools by the ids of their calls."""
    found: dict[str, Any] = {}
    for each in results or ():
        call_id = each.get("tool_call_id", each.get("toolCallId"))
        found[str(call_id)] = each.get("content", each.get("output"))
    return found
