"""From OpenAI's form of a chat turn to Anthropic's. No I/O."""

from __future__ import annotations

from typing import Any

from ..chat import ChatRequest
from .messages import call_arguments, message_text

# Anthropic has no default of its own.
_DEFAULT_MAX_TOKENS = 4096
_CHOICES = {"auto": "auto", "none": "none", "required": "any"}

Block = dict[str, Any]


def body_of(request: ChatRequest) -> dict[str, Any]:
    """The request's body, but for the model."""
    system = [message for message in request.messages if message.get("role") == "system"]
    turns = [message for message in request.messages if message.get("role") != "system"]
    body = {
        "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS,
        "messages": _joined(turns),
        "system": "\n\n".join(message_text(message) for message in system) or None,
        "temperature": request.temperature,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _choice(request.tool_choice) if request.tools else None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _joined(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Turns in blocks; neighbours of one role become one turn, as tool results must be."""
    joined: list[dict[str, Any]] = []
    for turn in turns:
        role = "assistant" if turn.get("role") == "assistant" else "user"
        blocks = _blocks(turn)
        if joined and joined[-1]["role"] == role:
            joined[-1]["content"] += blocks
        elif blocks:
            joined.append({"role": role, "content": blocks})
    return joined


def _blocks(turn: dict[str, Any]) -> list[Block]:
    if turn.get("role") == "tool":
        call_id = turn.get("tool_call_id")
        return [{"type": "tool_result", "tool_use_id": call_id, "content": message_text(turn)}]
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    blocks = [_part(part) for part in parts if part.get("type") != "text" or part.get("text")]
    return blocks + [_tool_use(call) for call in turn.get("tool_calls") or ()]


def _part(part: dict[str, Any]) -> Block:
    if part.get("type") != "image_url":
        return part
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, _, data = url.removeprefix("data:").partition(";base64,")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source}


def _tool_use(call: dict[str, Any]) -> Block:
    name = call.get("function", {}).get("name")
    return {"type": "tool_use", "id": call.get("id"), "name": name, "input": call_arguments(call)}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    schema = {"type": "object", **(function.get("parameters") or {})}
    described: dict[str, Any] = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        described["description"] = function["description"]
    return described


def _choice(choice: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(choice, dict):
        return {"type": "tool", "name": choice.get("function", {}).get("name")}
    return {"type": _CHOICES[choice]} if choice in _CHOICES else None
