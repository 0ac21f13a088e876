"""Reading chat messages in OpenAI's form."""

from __future__ import annotations

import json
from typing import Any


def message_text(message: dict[str, Any]) -> str:
    """The text of one message, whose content is a text, a list of parts or missing."""
    content = message.get("content")
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def call_arguments(call: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a tool call, ``{}`` where they are no JSON object."""
    text = call.get("function", {}).get("arguments")
    try:
        arguments = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        return {}
    return arguments if isinstance(arguments, dict) else {}
