"""The results of tool calls, in the forms in which users give them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any


def tool_turns(results: Any, write: Callable[[Any], str]) -> list[dict[str, Any]]:
    """Tool results as ``{"role": "tool", "tool_call_id", "content"}``.

    Args:
        results: Each ``{"tool_call_id", "output"}`` or ``{"role": "tool", "tool_call_id", "content"}``;
            ``toolCallId`` will do.
        write: Makes the content's text of a value that is no text.

    Raises:
        TypeError: They are no list of dicts.
        ValueError: One lacks its call's id or its output.
    """
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise TypeError(f"tool results must be a list of dicts, not {type(results).__name__}")
    return [_tool_turn(result, write) for result in results]


def _tool_turn(result: Any, write: Callable[[Any], str]) -> dict[str, Any]:
    if not isinstance(result, Mapping):
        raise TypeError(f"a tool result must be a dict, not {type(result).__name__}")
    call_id = result.get("tool_call_id", result.get("toolCallId"))
    if not isinstance(call_id, str):
        raise ValueError("a tool result needs the 'tool_call_id' of the call that it answers")
    if "output" not in result and "content" not in result:
        raise ValueError(f"the result of tool call {call_id!r} needs 'output' or 'content'")
    content = result["output"] if "output" in result else result["content"]
    text = content if isinstance(content, str) else write(content)
    return {"role": "tool", "tool_call_id": call_id, "content": text}
