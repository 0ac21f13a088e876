"""The tool of the weather flow. It runs in the app, so a replay runs it too."""

import json
from typing import Any

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city, now",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}},
                "required": ["city"],
            },
        },
    }
]


def answer_tools(tool_calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return one result for each tool call of the model."""
    return [{"tool_call_id": call["id"], "output": answer(call["function"])} for call in tool_calls]


def answer(function: dict[str, Any]) -> dict[str, Any]:
    return get_weather(**json.loads(function["arguments"]))


def get_weather(city: str = "nowhere", **_: Any) -> dict[str, Any]:
    """Return the sky over ``city`` and the temperature there, in degrees Celsius."""
    return {"city": city, "sky": "clear", "celsius": 11 + len(city)}
