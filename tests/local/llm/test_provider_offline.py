"""The deterministic model: same input, same answer; tools city by city."""

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
from noukai_sdk.local.llm.providers.cities import cities_in

pytestmark = pytest.mark.anyio

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


def asking(text: Any, **options: Any) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": text}], **options)


async def answer(request: ChatRequest) -> ChatDelta:
    return await open_model("offline").answer(request)


async def tool_rounds(text: str, tools: list[Any], limit: int = 9, **options: Any) -> list[Any]:
    """Play the rounds, answering each call with its own arguments; gives the calls, then the text."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": text}]
    seen: list[Any] = []
    for _ in range(limit):
        turn = await answer(ChatRequest(messages, tools=tools, **options))
        if not turn.tool_calls:
            return [*seen, turn.text]
        (call,) = turn.tool_calls
        assert turn.finish_reason == "tool_calls"
        assert turn.text == ""
        seen.append(json.loads(call["function"]["arguments"]))
        messages.append({"role": "assistant", "content": None, "tool_calls": [call]})
        result = f"sunny in {call['id']}"
        messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise AssertionError("the model asks for tools without end")


async def test_it_streams_in_several_pieces_that_add_up_to_the_answer() -> None:
    model = open_model("offline")
    pieces = [piece async for piece in model.stream(asking("Hello, world, how are you?"))]
    texts = [piece.text for piece in pieces if piece.text]
    assert len(texts) >= 3
    assert pieces[-1].finish_reason == "stop"
    assert pieces[-1].usage is not None
    assert all(piece.usage is None for piece in pieces[:-1])
    assert await answer(asking("Hello, world, how are you?")) == ChatDelta(
        "".join(texts), usage=pieces[-1].usage, finish_reason="stop"
    )


async def test_collect_gives_what_answer_gives() -> None:
    model = open_model("offline")
    request = asking("Weather in Paris?", tools=[WEATHER])
    assert await collect(model.stream(request)) == await model.answer(request)
    assert await collect(model.stream(asking("Hello"))) == await model.answer(asking("Hello"))


async def test_the_same_in_another_process() -> None:
    code = (
        "import asyncio; from noukai_sdk.local.llm.providers import open_model\n"
        "from noukai_sdk.local.llm.chat import ChatRequest\n"
        "request = ChatRequest([{'role': 'user', 'content': 'Hi you'}], temperature=0.5)\n"
        "print(asyncio.run(open_model('offline').answer(request)).text)"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == (await answer(asking("Hi you", temperature=0.5))).text


@pytest.mark.parametrize(
    "other",
    [
        asking("Hello!"),
        asking("Hello", temperature=0.1),
        ChatRequest([{"role": "system", "content": "x"}, {"role": "user", "content": "Hello"}]),
        asking("Hello", response_format="json"),
    ],
)
async def test_different_requests_have_different_answers(other: ChatRequest) -> None:
    assert (await answer(other)).text != (await answer(asking("Hello"))).text


async def test_it_quotes_the_last_user_message_shortened() -> None:
    turns = [{"role": "user", "content": "first"}, {"role": "assistant", "content": "yes"}]
    text = (await answer(ChatRequest([*turns, {"role": "user", "content": "a " * 90}]))).text
    assert "first" not in text
    assert '..."' in text
    assert "90 words" in text
    assert ": 1 word (ref" in (await answer(asking("Hello"))).text


@pytest.mark.parametrize(
    ("content", "quoted"),
    [([{"type": "text", "text": "Hi"}, {"type": "image_url"}, "odd"], '"Hi"'), (None, '""')],
)
async def test_content_may_be_parts_or_missing(content: Any, quoted: str) -> None:
    assert quoted in (await answer(asking(content))).text
    assert '""' in (await answer(ChatRequest([]))).text


async def test_tokens_are_counted_and_limited() -> None:
    request = ChatRequest(
        [{"role": "system", "content": "12345"}, {"role": "user", "content": "1234"}],
        max_tokens=3,
    )
    turn = await answer(request)
    assert len(turn.text) == 12
    assert turn.finish_reason == "length"
    assert turn.usage is not None
    assert (turn.usage.prompt, turn.usage.completion, turn.usage.total) == (3, 3, 6)


async def test_json_on_demand() -> None:
    told = json.loads((await answer(asking("two words", response_format="json"))).text)
    assert told["answer"] == "2 words"


async def test_other_tasks_run_between_the_pieces() -> None:
    order: list[str] = []

    async def read(name: str) -> None:
        async for _ in open_model("offline").stream(asking("some words for a few pieces")):
            order.append(name)  # noqa: PERF401  # the point is when it is appended

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(read, "a")
        tasks.start_soon(read, "b")
    assert order[:2] in (["a", "b"], ["b", "a"])


async def test_a_closed_stream_ends() -> None:
    async with aclosing(open_model("offline").stream(asking("Hello"))) as pieces:
        await anext(pieces)
    assert await anext(pieces, None) is None


async def test_warming_up_and_closing_do_nothing() -> None:
    model = open_model("offline")
    await model.warmup()
    await model.aclose()
    await model.aclose()
    assert (await model.answer(asking("Hi"))).text


async def test_it_asks_city_by_city_and_answers_from_the_results() -> None:
    paris, rome, text = await tool_rounds("Weather in Paris and Rome?", [WEATHER])
    assert (paris, rome) == ({"city": "Paris"}, {"city": "Rome"})
    assert "Paris: sunny in call_" in text
    assert "Rome: sunny in call_" in text


async def test_call_ids_differ_between_rounds_and_not_between_runs() -> None:
    first = await tool_rounds("Weather in Paris and Rome?", [WEATHER])
    assert first == await tool_rounds("Weather in Paris and Rome?", [WEATHER])
    ids = [part for part in first[-1].split() if part.startswith("call_")]
    assert len(set(ids)) == 2


async def test_it_asks_once_where_no_city_is_named() -> None:
    assert (await tool_rounds("How is the weather?", [WEATHER]))[:-1] == [{"city": "unknown"}]


async def test_a_later_question_starts_over() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "get_weather", "arguments": "{}"}}
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "Weather in Paris?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "18 C"},
        {"role": "assistant", "content": "18 C"},
        {"role": "user", "content": "And in Oslo?"},
    ]
    turn = await answer(ChatRequest(messages, tools=[WEATHER]))
    assert json.loads(turn.tool_calls[0]["function"]["arguments"]) == {"city": "Oslo"}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


MANY_TYPES = tool(
    "book",
    {
        "properties": {
            "query": {"type": "string"},
            "unit": {"enum": ["C", "F"]},
            "days": {"type": "integer", "default": 3},
            "people": {"type": "integer"},
            "share": {"type": "number"},
            "now": {"type": "boolean"},
            "tags": {"type": "array"},
            "more": {"type": "object"},
            "optional": {"type": "string"},
        },
        "required": ["query", "unit", "days", "people", "share", "now", "tags", "more", "odd"],
    },
)


async def test_arguments_match_the_tools_parameters() -> None:
    arguments, text = await tool_rounds("Weather in Paris", [MANY_TYPES])
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


@pytest.mark.parametrize("parameters", [{}, None, [], {"type": "object", "properties": {}}])
async def test_get_weather_without_a_schema_still_gets_the_city(parameters: Any) -> None:
    calls = await tool_rounds("Weather in Paris", [tool("get_weather", parameters)])
    assert calls[0] == {"city": "Paris"}


async def test_a_tool_without_parameters_is_called_once_with_none() -> None:
    calls = await tool_rounds("Time in Paris and Rome?", [tool("clock", None)])
    assert calls[:-1] == [{}]
    assert "clock: sunny" in calls[-1]


async def test_which_tool() -> None:
    first = tool("first", {"properties": {"location": {}}, "required": ["location"]})
    request = asking("Weather in Oslo", tools=[first, WEATHER])
    assert (await answer(request)).tool_calls[0]["function"]["name"] == "get_weather"
    named = asking(
        "Weather in Oslo",
        tools=[first, WEATHER],
        tool_choice={"type": "function", "function": {"name": "first"}},
    )
    call = (await answer(named)).tool_calls[0]["function"]
    assert (call["name"], call["arguments"]) == ("first", '{"location": "Oslo"}')
    assert not (await answer(asking("Oslo", tools=[WEATHER], tool_choice="none"))).tool_calls


async def test_results_with_odd_arguments_are_still_told() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "no json"}}
    listed = {"id": "d", "type": "function", "function": {"name": "g", "arguments": "[1]"}}
    messages = [
        {"role": "user", "content": "Go"},
        {"role": "assistant", "tool_calls": [call, listed]},
        {"role": "tool", "tool_call_id": "c", "content": "done"},
        {"role": "tool", "tool_call_id": "d", "content": "too"},
        {"role": "tool", "tool_call_id": "unknown", "content": "nobody asked"},
    ]
    text = (await answer(ChatRequest(messages))).text
    assert "f: done; g: too (ref" in text


@pytest.mark.parametrize(
    ("text", "cities"),
    [
        ("Weather in Paris, New York and Lyon?", ["Paris", "New York", "Lyon"]),
        ("Paris or Rome, in March?", ["Paris", "Rome"]),
        ("weather in oslo, and tell Bob", ["Oslo"]),
        ("for Ulm & in Nice", ["Ulm", "Nice"]),
        ("Compare tokyo, New Delhi; Paris and Paris", ["Tokyo", "New Delhi", "Paris"]),
        ("in Saint-Étienne, or in Ålesund", ["Saint-Étienne", "Ålesund"]),
        ("Comparison of Things", ["Things"]),
        ("hello, is it in celsius?", []),
        ("", []),
    ],
)
def test_cities_in_a_message(text: str, cities: list[str]) -> None:
    assert cities_in(text) == cities


@given(st.text())
def test_any_text_is_searched_without_an_error(text: str) -> None:
    found = cities_in(text)
    assert len(found) == len({name.casefold() for name in found})
