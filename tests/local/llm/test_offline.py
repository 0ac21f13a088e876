"""The deterministic model: same input, same response; tool calls city by city."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import aclosing
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local.engine.runner import RunState
from noukai_sdk.local.flow_files.catalog import FlowCatalog
from noukai_sdk.local.llm.chat import ChatDelta, ChatRequest, collect
from noukai_sdk.local.llm.pool import ModelPool
from noukai_sdk.local.llm.providers import open_model
from noukai_sdk.local.llm.providers.offline import cities_in
from tests.local.llm.calls import request_of
from tests.support.engine import run_steps

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
    model = open_model("offline")
    await model.warmup()
    stream = model.stream(request_of("Hello"))
    await anext(stream)
    await stream.aclose()
    assert await anext(stream, None) is None
    await model.aclose()


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


async def test_bundled_flow_correcting_a_text_corrects_it_and_names_the_mistakes() -> None:
    cases = {
        "The cat sat on the mat.": ("The cat sat on the mat.", "no mistakes"),
        "The cat sat on teh mat.": ("The cat sat on the mat.", '"the" instead of "teh"'),
        "Teh cat sat.": ("The cat sat.", '"The" instead of "Teh"'),
        "Their are to many cats.": ("There are too many cats.", '"There" instead of "Their"'),
        "I has a cat.": ("I have a cat.", '"have" instead of "has"'),
        "She runned.": ("She ran.", '"ran" instead of "runned"'),
        "We was late": ("We were late.", '"were" instead of "was"'),
        "Two cats": ("Two cats.", "a full stop at the end"),
        "I has a freind.\nTeh cat sat.": (
            "I have a friend.\nThe cat sat.",
            '"The" instead of "Teh"',
        ),
    }
    feedbacks = set()
    for message, (corrected, expected) in cases.items():
        outputs = await run_bundled("acme/spelling/grade-3", message)
        assert outputs["correct"] == corrected
        assert expected in outputs["feedback"]
        assert " ".join(corrected.split()) in outputs["feedback"]
        feedbacks.add(outputs["feedback"])
    assert len(feedbacks) == len(cases)
    hard = await run_bundled("acme/spelling/grade-3", "Teh cat sat.", difficulty="hard")
    assert hard["feedback"] not in feedbacks


async def test_bundled_flow_writing_a_text_keeps_the_topic_and_shortens_the_draft() -> None:
    for message in ("The cat sat on the mat.", "the sea"):
        outputs = await run_bundled("acme/samples/two-step", message)
        assert message in outputs["draft"]
        assert message in outputs["polish"]
        assert len(outputs["polish"]) < len(outputs["draft"])


async def test_bundled_flow_greeted_greets() -> None:
    assert (await run_bundled("acme/samples/hello-world", "Hello"))["hello"] == (
        "Hello! It is good to hear from you. How can I help you today?"
    )


async def run_bundled(name: str, message: str, **parameters: Any) -> dict[str, Any]:
    """Run a bundled flow on the offline model; return the output of each step by its id."""
    flow = FlowCatalog().get(*name.split("/"))
    state = RunState("e", message=message, parameters={**flow.parameters, **parameters})
    return {
        event.step_id: event.output
        async for event in run_steps(flow, state, models=ModelPool())
        if event.type == "step_completed"
    }


async def test_prompt_of_a_known_kind_is_answered_as_its_instruction_says() -> None:
    ask = "In one word, is this mail a question or a complaint?"
    cases = {
        f"{ask} Where is my parcel?": r"question",
        f"{ask} It is broken.": r"complaint",
        "In one word, good or bad? It is fine.": r"good|bad",
        "Draft an answer to this question: Where is it?": r'Thank.* "Where is it\?" We .*',
        "Write about cats": r".*\bcats\b.*",
        "Make this shorter: It was a really good day.": r"It was a good day\.",
        "Make this shorter: Good.": r".*: Good\.",
        "Summarize: One cat. Two dogs.": r".*: One cat\. \(from 4 words\)",
        "Fix the grammar: cat": r"cat",
        "Say cats": r"Cats\.",
        "hey there!": r"Hey there! .*",
        "How is the weather in Rome?": r'.* weather .*"How is the weather in Rome\?"',
        "Why?": r'.*"Why\?".*\?',
        "one": r'.*: "one"\. .*\?',
        "": r".* What would you like to talk about\?",
    }
    for prompt, expected in cases.items():
        text = (await respond(request_of(prompt))).text
        assert re.fullmatch(expected, text), (prompt, text)


async def test_long_prompt_is_quoted_by_its_ends() -> None:
    for number in range(3):
        text = (await respond(request_of(f"First words. {'a ' * 900} and the last {number}"))).text
        assert "First words." in text
        assert f"and the last {number}" in text
        assert len(text) < 400


async def test_long_prompt_of_any_kind_is_answered_at_once() -> None:
    words = "a " * 50_000
    for prompt in (
        words,
        "wrote:" * 20_000,
        " " * 100_000 + "x",
        "weather " * 20_000,
        f"The pupil wrote: {words}\nCorrected: {words}b {words}",
    ):
        with anyio.fail_after(30):
            assert (await respond(request_of(prompt))).text


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ([{"type": "text", "text": "Hi"}, {"type": "image_url"}, "odd"], "Hi!"),
        (None, "What would you like to talk about?"),
    ],
)
async def test_response_answers_the_last_question(content: Any, expected: str) -> None:
    turns = [{"role": "user", "content": "earlier"}, {"role": "assistant", "content": "yes"}]
    text = (await respond(ChatRequest([*turns, {"role": "user", "content": content}]))).text
    assert expected in text
    assert "earlier" not in text
    assert (await respond(ChatRequest([]))).text


async def test_response_counts_tokens_and_obeys_max_tokens_and_json() -> None:
    messages = [{"role": "system", "content": "12345"}, {"role": "user", "content": "1234"}]
    response = await respond(ChatRequest(messages, max_tokens=3))
    assert (len(response.text), response.finish_reason) == (12, "length")
    assert response.usage is not None
    usage = response.usage
    assert (usage.prompt, usage.completion, usage.total) == (3, 3, 6)
    as_json = await respond(request_of("two words", response_format="json"))
    assert '"two words"' in json.loads(as_json.text)["answer"]


async def test_tool_result_that_reports_weather_is_answered_in_words() -> None:
    call = {"id": "c", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
    for result, expected in (
        ({"city": "Oslo", "sky": "clear", "celsius": 15}, ". Oslo: clear, 15 °C."),
        ({"city": "Oslo", "wind": "N"}, '. Oslo: {"city": "Oslo", "wind": "N"}'),
        ([15], ". Oslo: [15]"),
    ):
        messages = [
            {"role": "user", "content": "How is the weather in Oslo?"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": json.dumps(result)},
        ]
        assert (await respond(ChatRequest(messages))).text.endswith(expected)


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
    assert " f: done; g: too." in (await respond(ChatRequest(messages))).text
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
