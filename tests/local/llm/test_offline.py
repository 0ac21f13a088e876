"""The deterministic model: same input, same response; tool calls city by city."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.llm.chat import ChatDelta, ChatRequest, collect
from noukai_sdk.local.llm.providers import open_model
from noukai_sdk.local.llm.providers.offline import cities_in
from tests.local.llm.calls import request_of

pytestmark = pytest.mark.anyio


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = tool("get_weather", {"properties": {"city": {"type": "string"}}, "required": ["city"]})


async def respond(request: ChatRequest) -> ChatDelta:
    return await open_model("offline").answer(request)


async def tool_rounds(text: str, tools: list[Any], limit: int = 9) -> list[Any]:
    """Play the rounds of a conversation; return the arguments of each call, then the last text."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    arguments: list[Any] = []
    for _ in range(limit):
        response = await respond(ChatRequest(messages, tools=tools))
        if not response.tool_calls:
            return [*arguments, response.text]
        (call,) = response.tool_calls
        assert (response.finish_reason, response.text) == ("tool_calls", "")
        arguments.append(json.loads(call["function"]["arguments"]))
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        result = f"sunny in {call['id']}"
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise AssertionError("the model calls tools forever")


async def test_stream_yields_the_response_in_parts_then_the_usage() -> None:
    request = request_of("Hello, world, how are you?")
    async with aclosing(open_model("offline").stream(request)) as stream:
        deltas = [delta async for delta in stream]
    response = await respond(request)
    assert len([delta for delta in deltas if delta.text]) >= 3
    assert "".join(delta.text for delta in deltas) == response.text
    assert all(delta.usage is None for delta in deltas[:-1])
    assert (deltas[-1].usage, deltas[-1].finish_reason) == (response.usage, "stop")
    for asked in (request, request_of("Weather in Paris?", tools=[WEATHER])):
        assert await collect(open_model("offline").stream(asked)) == await respond(asked)


async def test_stream_lets_other_tasks_run_and_can_be_closed() -> None:
    order: list[str] = []

    async def read(name: str) -> None:
        async for _ in open_model("offline").stream(request_of("some words for a few parts")):
            order.append(name)  # noqa: PERF401  # the order of the appends is what counts

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, "a")
        tasks.start_soon(read, "b")
    assert order[:2] in (["a", "b"], ["b", "a"])
    stream = open_model("offline").stream(request_of("Hello"))
    await anext(stream)
    await stream.aclose()
    assert await anext(stream, None) is None


async def test_response_depends_on_the_request_alone() -> None:
    code = (
        "import asyncio; from noukai_sdk.local.llm.providers import open_model\n"
        "from noukai_sdk.local.llm.chat import ChatRequest\n"
        "request = ChatRequest([{'role': 'user', 'content': 'Hello'}])\n"
        "print(asyncio.run(open_model('offline').answer(request)).text)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    text = (await respond(request_of("Hello"))).text
    assert other.stdout.strip() == text
    system = {"role": "system", "content": "x"}
    for request in (
        request_of("Hello!"),
        request_of("Hello", temperature=0.1),
        request_of("Hello", response_format="json"),
        ChatRequest([system, {"role": "user", "content": "Hello"}]),
    ):
        assert (await respond(request)).text != text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hello", '"Hello": 1 word (ref'),
        ("a " * 90, '...": 90 words (ref'),
        ([{"type": "text", "text": "Hi"}, {"type": "image_url"}, "odd"], '"Hi"'),
        (None, '""'),
    ],
)
async def test_response_quotes_the_last_question(content: Any, expected: str) -> None:
    turns = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"}]
    text = (await respond(ChatRequest([*turns, {"role": "user", "content": content}]))).text
    assert expected in text
    assert "first" not in text
    assert '""' in (await respond(ChatRequest([]))).text


async def test_response_counts_tokens_and_obeys_max_tokens_and_json() -> None:
    messages = [{"role": "system", "content": "12345"}, {"role": "user", "content": "1234"}]
    response = await respond(ChatRequest(messages, max_tokens=3))
    assert (len(response.text), response.finish_reason) == (12, "length")
    assert response.usage is not None
    usage = response.usage
    assert (usage.prompt, usage.completion, usage.total) == (3, 3, 6)
    as_json = await respond(request_of("two words", response_format="json"))
    assert json.loads(as_json.text)["answer"] == "2 words"


async def test_warmup_and_close_do_nothing() -> None:
    model = open_model("offline")
    await model.warmup()
    await model.aclose()
    await model.aclose()
    assert (await model.answer(request_of("Hi"))).text


async def test_weather_tool_is_called_city_by_city_then_answered() -> None:
    rounds = await tool_rounds("Weather in Paris and Rome?", [WEATHER])
    assert rounds[:-1] == [{"city": "Paris"}, {"city": "Rome"}]
    assert "Paris: sunny in call_" in rounds[-1]
    assert "Rome: sunny in call_" in rounds[-1]
    call_ids = [word for word in rounds[-1].split() if word.startswith("call_")]
    assert len(set(call_ids)) == 2
    assert rounds == await tool_rounds("Weather in Paris and Rome?", [WEATHER])
    no_city = await tool_rounds("How is the weather?", [WEATHER])
    assert no_city[:-1] == [{"city": "unknown"}]


async def test_later_question_starts_over_and_odd_calls_are_reported() -> None:
    odd_calls = [
        {"id": "c", "type": "function", "function": {"name": "f", "arguments": "not json"}},
        {"id": "d", "type": "function", "function": {"name": "g", "arguments": "[1]"}},
    ]
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "tool_calls": odd_calls},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "tool", "tool_call_id": "d", "content": "too"},
        {"role": "tool", "tool_call_id": "unknown", "content": "not requested"},
    ]
    assert "f: done; g: too (ref" in (await respond(ChatRequest(messages))).text
    messages.append({"role": "user", "content": "And in Oslo?"})
    (call,) = (await respond(ChatRequest(messages, tools=[WEATHER]))).tool_calls
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


async def test_arguments_match_the_declared_parameters() -> None:
    properties = {
        "query": {"type": "string"},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "integer", "default": 3},
        "people": {"type": "integer"},
        "share": {"type": "number"},
        "now": {"type": "boolean"},
        "tags": {"type": "array"},
        "more": {"type": "object"},
        "optional": {"type": "string"},
    }
    required = [name for name in properties if name != "optional"]
    book = tool("book", {"properties": properties, "required": [*required, "odd"]})
    arguments, text = await tool_rounds("Weather in Paris", [book])
    assert arguments == {
        "query": "Weather in Paris",
        "unit": "C",
        "days": 3,
        "people": 1,
        "share": 1.0,
        "now": True,
        "tags": [],
        "more": {},
        "odd": "Weather in Paris",
    }
    assert "sunny" in text
    assert (await tool_rounds("In Rome?", [tool("clock", None)]))[:-1] == [{}]
    for parameters in ({}, None, [], {"type": "object", "properties": {}}):
        calls = await tool_rounds("Weather in Paris", [tool("get_weather", parameters)])
        assert calls[0] == {"city": "Paris"}


@pytest.mark.parametrize(
    ("choice", "name"),
    [
        (None, "get_weather"),
        ("none", None),
        ({"type": "function", "function": {"name": "first"}}, "first"),
        ({"type": "function", "function": {"name": "missing"}}, None),
    ],
)
async def test_tool_choice_selects_the_tool(choice: Any, name: str | None) -> None:
    first = tool("first", {"properties": {"location": {}}, "required": ["location"]})
    request = request_of("Weather in Oslo", tools=[first, WEATHER], tool_choice=choice)
    calls = [call["function"] for call in (await respond(request)).tool_calls]
    assert [call["name"] for call in calls] == ([] if name is None else [name])
    if name == "first":
        assert calls[0]["arguments"] == '{"location": "Oslo"}'


@pytest.mark.parametrize(
    ("text", "cities"),
    [
        ("Weather in Paris, New York and Lyon?", ["Paris", "New York", "Lyon"]),
        ("How is the weather in Paris and in Oslo?", ["Paris", "Oslo"]),
        ("Paris or Rome?", ["Paris", "Rome"]),
        ("Paris", ["Paris"]),
        ("for Ulm & in Nice, and tell Bob", ["Ulm", "Nice"]),
        ("in Paris; later near Paris", ["Paris"]),
        ("in Saint-Étienne, or in Ålesund", ["Saint-Étienne", "Ålesund"]),
        ("How is it? Tell Bob", []),
        ("hello, is it in celsius?", []),
        ("", []),
    ],
)
def test_cities_are_capitalised_names_after_a_preposition(text: str, cities: list[str]) -> None:
    assert cities_in(text) == cities


@given(st.text())
def test_cities_of_any_text_are_unique(text: str) -> None:
    cities = cities_in(text)
    assert len(cities) == len(set(cities))
