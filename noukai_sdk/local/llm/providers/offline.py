"""The model for demos and tests: no dependency, no clock, no randomness. Same input, same response.

``offline_answers.py`` answers the last question, in words that depend on the whole request. Tokens are
approximated: one for every four characters, message by message.

If the request offers tools, the model calls one of them, one call a round: ``get_weather`` if it is
offered, else the first one. A tool with a parameter for a city is called once for each city that the
message names, or once with the city ``"unknown"``; any other tool is called once.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from typing import Any

from anyio.lowlevel import checkpoint

from ....models.events import TokenBreakdown
from ..chat import ChatDelta, ChatRequest, call_arguments, message_text, tool_call
from .offline_answers import Choice, answer_from_tools, answer_prompt
from .offline_json import sample

_WORDS_PER_CHUNK = 4
_CHARS_PER_TOKEN = 4
_ARGUMENT_CHARS = 200

_CITY_PARAMETERS = ("city", "location", "place", "town")
# Capitalised words, one after the other, count as the name of a city if they follow a preposition, or
# if the whole message is a list of them. "in paris" does not count, "in March" does.
_NAME = r"[A-ZÀ-ÖØ-Þ][\w'\u2019-]+(?: [A-ZÀ-ÖØ-Þ][\w'\u2019-]+){0,2}"
_SEPARATOR = r"(?:\s*,\s*(?:and\s+|or\s+)?|\s+(?:and|or|&)\s+(?:in\s+)?)"
_NAMES = rf"{_NAME}(?:{_SEPARATOR}{_NAME})*"
_CITIES = re.compile(rf"\b(?:in|at|near|for|of)\s+({_NAMES})|\A\s*({_NAMES})\W*\Z")


class OfflineModel:
    """Respond at once, and always in the same way to the same request."""

    name = "offline"

    async def stream(self, request: ChatRequest) -> AsyncGenerator[ChatDelta, None]:
        """Yield the response a few words at a time, then the usage; or yield one tool call."""
        response = _respond(request)
        words = re.findall(r"\S+\s*", response.text)
        for start in range(0, len(words), _WORDS_PER_CHUNK):
            yield ChatDelta("".join(words[start : start + _WORDS_PER_CHUNK]))
            # A real model takes its time here; this one must still let other tasks run.
            await checkpoint()
        yield replace(response, text="")

    async def answer(self, request: ChatRequest) -> ChatDelta:
        """Return the whole response."""
        await checkpoint()
        return _respond(request)

    async def warmup(self) -> None:
        """Do nothing: there is nothing to load."""

    async def aclose(self) -> None:
        """Do nothing: there is nothing to release."""


def _wants_json(response_format: str | Mapping[str, Any]) -> bool:
    if isinstance(response_format, str):
        return response_format == "json"
    return response_format.get("type") != "text"


def _respond(request: ChatRequest) -> ChatDelta:
    settings: list[Any] = [
        request.messages,
        request.temperature,
        request.tools,
        request.tool_choice,
    ]
    # Left out if they are not set, so that the responses of other requests stay as they are.
    extras = (request.top_p, request.seed, request.json_schema)
    settings += [value for value in extras if value is not None]
    serialized = json.dumps(settings, sort_keys=True, default=str)
    digest = hashlib.sha256(serialized.encode()).hexdigest()
    # The last question, and the calls and results of the rounds since then.
    question: dict[str, Any] = {}
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for message in request.messages:
        if message.get("role") == "user":
            question, calls, results = message, [], []
        calls += message.get("tool_calls") or ()
        results += [message] if message.get("role") == "tool" else []

    finish_reason = "stop"
    call = _next_call(request, message_text(question), len(calls), f"call_{digest[:12]}")
    if call is not None:
        text, completion, finish_reason = "", "".join(call["function"].values()), "tool_calls"
    else:
        prompt = message_text(question or (request.messages or [{}])[-1])
        findings, choose = _findings(calls, results), Choice(int(digest, 16))
        text = answer_from_tools(findings, choose) if findings else answer_prompt(prompt, choose)
        if request.json_schema is not None:
            value = sample(request.json_schema, text[:_ARGUMENT_CHARS])
            text = json.dumps(value, ensure_ascii=False)
        elif _wants_json(request.response_format):
            text = json.dumps({"answer": text}, ensure_ascii=False)
        completion = text
        if request.max_tokens is not None and len(text) > request.max_tokens * _CHARS_PER_TOKEN:
            text = completion = text[: request.max_tokens * _CHARS_PER_TOKEN]
            finish_reason = "length"
    prompt_tokens = sum(_count_tokens(message_text(message)) for message in request.messages)
    completion_tokens = _count_tokens(completion)
    return ChatDelta(
        text,
        (call,) if call else (),
        TokenBreakdown(
            prompt=prompt_tokens,
            completion=completion_tokens,
            total=prompt_tokens + completion_tokens,
        ),
        finish_reason,
    )


def _findings(calls: list[dict[str, Any]], results: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Pair each result with the subject of its call: the first argument, else the tool's name."""
    calls_by_id = {call.get("id"): call for call in calls}
    findings: list[tuple[str, str]] = []
    for result in results:
        call = calls_by_id.get(result.get("tool_call_id"))
        if call is not None:
            subject = next(iter(call_arguments(call).values()), call["function"]["name"])
            findings.append((str(subject), message_text(result)))
    return findings


def _next_call(
    request: ChatRequest, question: str, calls_made: int, call_id: str
) -> dict[str, Any] | None:
    """Return the tool call for this round, None if all have been made."""
    tools = {tool["function"]["name"]: tool["function"] for tool in request.tools or ()}
    if not tools or request.tool_choice == "none":
        return None
    if isinstance(request.tool_choice, dict):
        tool = tools.get(request.tool_choice.get("function", {}).get("name"))
    else:
        tool = tools.get("get_weather") or next(iter(tools.values()))
    if tool is None:
        return None

    parameters = tool.get("parameters")
    schema = parameters if isinstance(parameters, dict) else {}
    properties = schema.get("properties") or {}
    city_parameter = next((name for name in _CITY_PARAMETERS if name in properties), None)
    if not properties and tool["name"] == "get_weather":
        city_parameter = "city"
    cities = (cities_in(question) if city_parameter else []) or ["unknown"]
    if calls_made >= len(cities):
        return None
    arguments = {city_parameter: cities[calls_made]} if city_parameter else {}
    for name in schema.get("required") or ():
        if name != city_parameter:
            argument = {**properties.get(name, {}), "$defs": schema.get("$defs", {})}
            arguments[name] = sample(argument, question[:_ARGUMENT_CHARS])
    return tool_call(call_id, tool["name"], json.dumps(arguments, ensure_ascii=False))


def cities_in(text: str) -> list[str]:
    """Return the cities that a message names, in order, each once.

    Example:
        >>> cities_in("What is the weather in Paris, New York and Rome?")
        ['Paris', 'New York', 'Rome']
    """
    lists = (match[1] or match[2] for match in _CITIES.finditer(text))
    return list(dict.fromkeys(name for names in lists for name in re.findall(_NAME, names)))


def _count_tokens(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)
