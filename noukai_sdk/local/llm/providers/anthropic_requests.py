"""Convert chat requests from OpenAI's format to Anthropic's. No I/O."""

from __future__ import annotations

from typing import Any

from ..chat import ChatRequest, call_arguments, message_text, with_schema_turn

# Anthropic requires a limit and has no default for it.
_DEFAULT_MAX_TOKENS = 4096
_TOOL_CHOICES = {"auto": "auto", "none": "none", "required": "any"}

Block = dict[str, Any]


def message_body(request: ChatRequest) -> dict[str, Any]:
    """Return the body of a request, without the model's name."""
    messages = request.messages
    if request.json_schema is not None:
        messages = with_schema_turn(messages, request.json_schema)
    system = [message for message in messages if message.get("role") == "system"]
    turns = [message for message in messages if message.get("role") != "system"]
    body = {
        "max_tokens": request.max_tokens or _DEFAULT_MAX_TOKENS,
        "messages": _messages(turns),
        "system": "\n\n".join(message_text(message) for message in system) or None,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "tools": [_tool(tool) for tool in request.tools or ()] or None,
        "tool_choice": _tool_choice(request.tool_choice) if request.tools else None,
    }
    return {name: value for name, value in body.items() if value is not None}


def _messages(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert turns to messages of blocks; adjacent turns of one role are merged.

    Anthropic requires all results of one round of tool calls in one message.
    """
    messages: list[dict[str, Any]] = []
    for turn in turns:
        role = "assistant" if turn.get("role") == "assistant" else "user"
        blocks = _blocks(turn)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    return messages


def _blocks(turn: dict[str, Any]) -> list[Block]:
    if turn.get("role") == "tool":
        call_id = turn.get("tool_call_id")
        return [{"type": "tool_result", "tool_use_id": call_id, "content": message_text(turn)}]
    content = turn.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    # Anthropic rejects empty text blocks.
    blocks = [_block(part) for part in parts if part.get("type") != "text" or part.get("text")]
    for call in turn.get("tool_calls") or ():
        name = call.get("function", {}).get("name")
        arguments = call_arguments(call)
        blocks.append({"type": "tool_use", "id": call.get("id"), "name": name, "input": arguments})
    return blocks


def _block(part: dict[str, Any]) -> Block:
    if part.get("type") != "image_url":
        return part
    url = part["image_url"]["url"]
    if not url.startswith("data:"):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media_type, _, data = url.removeprefix("data:").partition(";base64,")
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source}


def _tool(tool: dict[str, Any]) -> dict[str, Any]:
    function = tool["function"]
    schema = {"type": "object", **(function.get("parameters") or {})}
    converted: dict[str, Any] = {"name": function["name"], "input_schema": schema}
    if function.get("description"):
        converted["description"] = function["description"]
    return converted


def _tool_choice(choice: str | dict[str, Any] | None) -> dict[str, Any] | None:
    if isinstance(choice, dict):
        return {"type": "tool", "name": choice.get("function", {}).get("name")}
    return {"type": _TOOL_CHOICES[choice]} if choice in _TOOL_CHOICES else None
