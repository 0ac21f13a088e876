"""The tool that both apps hand to the weather flow: their own code, so it runs in a replay too."""

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
    """One result for each tool call of the model."""
    return [{"tool_call_id": call["id"], "output": answer(call["function"])} for call in tool_calls]


def answer(function: dict[str, Any]) -> dict[str, Any]:
    return get_weather(**json.loads(function["arguments"]))


def get_weather(city: str = "nowhere", **_: Any) -> dict[str, Any]:
    """The sky over ``city`` and the temperature there, in degrees Celsius."""
    return {"city": city, "sky": "clear", "celsius": 11 + len(city)}
