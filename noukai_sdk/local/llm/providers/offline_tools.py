"""How the offline model uses tools: one call a round, city by city, then the answer.

It takes ``get_weather`` where that is among the tools, the first tool elsewhere. A tool that takes
no city is called once, and so is one that takes a city where the message names none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from ..chat import ChatRequest
from .cities import cities_in
from .messages import call_arguments, message_text

_CITY_NAMES = ("city", "location", "place", "town")
_UNKNOWN_CITY = "unknown"
_TOLD_CHARS = 200


def next_call(request: ChatRequest, digest: str) -> dict[str, Any] | None:
    """The tool call to ask for now, None where it is time to answer.

    Args:
        request: The turn, with the calls and results of earlier rounds among its messages.
        digest: Makes the call's id: the same for the same turn, another for another.
    """
    tool = _chosen_tool(request)
    if tool is None:
        return None
    question, made = _split_at_question(request.messages)
    wanted = (cities_in(question) if _city_parameter(tool) else []) or [_UNKNOWN_CITY]
    if len(made) >= len(wanted):
        return None
    arguments = json.dumps(_arguments(tool, wanted[len(made)], question), ensure_ascii=False)
    name = tool["function"]["name"]
    return {
        "id": f"call_{digest}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }


def tool_findings(messages: list[dict[str, Any]]) -> Iterator[str]:
    """What the tools answered since the last question, as ``"Paris: 18 C"``."""
    made = {call.get("id"): call for call in _split_at_question(messages)[1]}
    for message in messages:
        call = made.get(message.get("tool_call_id")) if message.get("role") == "tool" else None
        if call is not None:
            asked = next(iter(call_arguments(call).values()), call["function"]["name"])
            yield f"{asked}: {message_text(message)[:_TOLD_CHARS]}"


def _chosen_tool(request: ChatRequest) -> dict[str, Any] | None:
    tools = {tool["function"]["name"]: tool for tool in request.tools or ()}
    if not tools or request.tool_choice == "none":
        return None
    if isinstance(request.tool_choice, dict):
        return tools.get(request.tool_choice.get("function", {}).get("name"))
    return tools.get("get_weather") or next(iter(tools.values()))


def _split_at_question(messages: list[dict[str, Any]]) -> tuple[str, list[dict[str, Any]]]:
    """The last user message's text, and the tool calls made since."""
    question = ""
    made: list[dict[str, Any]] = []
    for message in messages:
        if message.get("role") == "user":
            question, made = message_text(message), []
        made.extend(message.get("tool_calls") or ())
    return question, made


def _parameters(tool: dict[str, Any]) -> dict[str, Any]:
    parameters = tool["function"].get("parameters") or {}
    return parameters if isinstance(parameters, dict) else {}


def _city_parameter(tool: dict[str, Any]) -> str | None:
    properties = _parameters(tool).get("properties") or {}
    if not properties and tool["function"]["name"] == "get_weather":
        return "city"
    return next((name for name in _CITY_NAMES if name in properties), None)


def _arguments(tool: dict[str, Any], city: str, question: str) -> dict[str, Any]:
    """Values for the city and for every required parameter, each of its declared type."""
    parameters = _parameters(tool)
    properties = parameters.get("properties") or {}
    city_parameter = _city_parameter(tool)
    arguments = {
        name: _value(properties.get(name, {}), question)
        for name in parameters.get("required") or ()
        if name != city_parameter
    }
    return {city_parameter: city, **arguments} if city_parameter else arguments


def _value(schema: dict[str, Any], question: str) -> Any:
    if schema.get("enum"):
        return schema["enum"][0]
    if "default" in schema:
        return schema["default"]
    by_type: dict[str, Any] = {
        "integer": 1,
        "number": 1.0,
        "boolean": True,
        "array": [],
        "object": {},
        "null": None,
    }
    return by_type.get(str(schema.get("type")), question[:_TOLD_CHARS])
