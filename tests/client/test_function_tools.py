"""Functions as tools: their schema, validated arguments, failures, and other tools beside them."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import TypeAdapter

from noukai_sdk import ReplayMissError, Tool, tool, trace_scope_sync
from noukai_sdk.local import Executor, Node, Workflow
from tests.support.service import ASKS, COMPLETED, DONE, PAUSED, STARTED, Service, stream
from tests.support.sides import SYNC, Side

DICT_TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}


@tool
def get_weather(city: str, unit: Literal["C", "F"] = "C", days: int = 1) -> dict[str, Any]:
    """Return the weather in a city."""
    return {"city": city, "unit": unit, "days": days}


@tool(name="count", description="Count to a number.")
async def count_to(number: int) -> str:
    return " ".join(map(str, range(number)))


@tool
def broken(reason: str) -> str:
    """Fail."""
    raise RuntimeError(reason)


@tool
def look_up(word: str) -> int:
    """Read data that is not valid."""
    return TypeAdapter(int).validate_python(word)


def paused(*calls: tuple[str, str]) -> dict[str, Any]:
    tool_calls = [
        {"id": f"c{index}", "type": "function", "function": {"name": name, "arguments": text}}
        for index, (name, text) in enumerate(calls)
    ]
    return {**PAUSED, "toolCalls": tool_calls}


def contents(service: Service, number: int = -1) -> dict[str, str]:
    """Return the tool results of a request, by the id of their call."""
    turns = service.requests[number].body["toolCallMessages"]
    assert all(turn["role"] == "tool" for turn in turns[1:])
    return {turn["tool_call_id"]: turn["content"] for turn in turns[1:]}


@tool
def book(city: str, nights: int = 1, *, quiet: bool = False) -> str:
    """Book a room.

    Only in Europe.

    Args:
        city: The city, such as
            "Paris": any spelling.
        nights (int): At most 7.
        other: Is not an argument.

    Returns:
        The number of the room.
    """
    return f"{city} {nights} {quiet}"


def test_docstring_describes_tool_and_its_arguments() -> None:
    function = book.definition["function"]
    assert function["description"] == (
        "Book a room.\n\nOnly in Europe.\n\nReturns:\n    The number of the room."
    )
    described = {
        name: schema.get("description")
        for name, schema in function["parameters"]["properties"].items()
    }
    assert described == {
        "city": 'The city, such as "Paris": any spelling.',
        "nights": "At most 7.",
        "quiet": None,
    }


def test_tool_schema_comes_from_annotations_defaults_and_docstring() -> None:
    function = get_weather.definition["function"]
    assert (function["name"], function["description"]) == (
        "get_weather",
        "Return the weather in a city.",
    )
    assert function["parameters"]["required"] == ["city"]
    assert function["parameters"]["properties"]["unit"]["enum"] == ["C", "F"]
    assert function["parameters"]["properties"]["days"]["default"] == 1
    assert count_to.definition["function"]["name"] == "count"
    assert count_to.definition["function"]["description"] == "Count to a number."
    assert get_weather("Rome", days=2) == {"city": "Rome", "unit": "C", "days": 2}


async def test_tool_function_is_called_with_validated_arguments(
    side: Side, service: Service
) -> None:
    service.reply(
        paused(("get_weather", '{"city": "Paris", "days": "2"}'), ("get_weather", '{"city": 5}')),
        paused(("broken", '{"reason": "no luck"}'), ("get_weather", "no json"), ("nobody", "{}")),
        paused(("look_up", '{"word": "cat"}')),
        DONE,
    )
    async with side.flow() as flow:
        tools = [get_weather, broken, look_up]
        result = await side.call(flow.execute, "hi", tools=tools)
    assert result.status == "completed"
    assert service.requests[0].body["tools"] == [each.definition for each in tools]
    first = {
        turn["tool_call_id"]: turn["content"]
        for turn in service.requests[1].body["toolCallMessages"][1:]
    }
    assert json.loads(first["c0"]) == {"city": "Paris", "unit": "C", "days": 2}
    assert (
        json.loads(first["c1"])["error"] == "wrong arguments: city: Input should be a valid string"
    )
    second = contents(service, 2)
    assert json.loads(second["c0"]) == {"error": "RuntimeError: no luck"}
    assert "JSONDecodeError" in json.loads(second["c1"])["error"]
    assert json.loads(second["c2"])["error"] == (
        "there is no tool 'nobody'; there are get_weather, broken, look_up"
    )
    assert "ValidationError: 1 validation error for int" in contents(service)["c0"]


async def test_async_client_awaits_async_tools_and_runs_others_in_threads(
    async_side: Side, service: Service
) -> None:
    threads = []

    @tool
    def which_thread() -> str:
        threads.append(threading.current_thread())
        return "done"

    service.reply(
        stream(STARTED, {**ASKS, **paused(("count", '{"number": 3}'), ("which_thread", ""))}),
        stream(STARTED, COMPLETED),
    )
    async with async_side.flow() as flow:
        await async_side.collect(flow.steps("hi", tools=[count_to, which_thread]))
    assert contents(service) == {"c0": "0 1 2", "c1": "done"}
    assert threads[0] is not threading.current_thread()


async def test_dict_tools_beside_functions_go_to_handler(side: Side, service: Service) -> None:
    seen: list[Any] = []

    def handler(calls: list[Any]) -> list[dict[str, Any]]:
        seen.extend(calls)
        return [{"tool_call_id": call["id"], "output": "found"} for call in calls]

    service.reply(paused(("search", '{"q": 1}'), ("get_weather", '{"city": "Paris"}')), DONE)
    async with side.flow() as flow:
        await side.call(flow.execute, "hi", tools=[get_weather, DICT_TOOL], tool_handler=handler)
    assert [call["function"]["name"] for call in seen] == ["search"]
    assert contents(service)["c0"] == "found"
    assert json.loads(contents(service)["c1"])["city"] == "Paris"


@pytest.mark.parametrize(
    ("tools", "error", "problem"),
    [
        ([count_to], TypeError, "plain functions as tools, and count is async: use AsyncNoukai"),
        ([get_weather, DICT_TOOL], TypeError, r"pass tool_handler= for the dicts \(search\)"),
        ([get_weather, get_weather], ValueError, "two tools with the name 'get_weather'"),
        ([len], TypeError, "len in tools must have the decorator @noukai_sdk.tool"),
        ([get_weather] * 65, ValueError, "65 tools: at most 64 are allowed"),
        ([Tool(lambda a, /: a, "f")], ValueError, "'f' cannot be a tool: its arguments need names"),
        ([tool(lambda a: a)], ValueError, r"'<lambda>' cannot be a tool: pass tool\(name="),
        ([tool(Path.exists)], ValueError, "'exists' cannot be a tool: it is not bound"),
    ],
    ids=str,
)
def test_tool_not_valid_raises_before_request(
    service: Service, tools: Any, error: type[Exception], problem: str
) -> None:
    with SYNC.make() as client, pytest.raises(error, match=problem):
        client.flow("grade-3").execute("hi", tools=tools)
    assert not service.requests


def test_tool_functions_run_again_in_replay_and_misses_pass_through(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "1")
    service.reply(paused(("lookup", '{"word": "cat"}')), DONE)
    sent: list[str] = []
    calls_flow = False

    @tool
    def lookup(word: str) -> str:
        """Look up a word."""
        sent.append(word)
        if calls_flow:
            client.flow("another").execute(word)
        return word.upper()

    with SYNC.make() as client:
        flow = client.flow("grade-3")
        with trace_scope_sync(client=client, record=tmp_path / "c.jsonl"):
            live = flow.execute("hi", tools=[lookup])
        with trace_scope_sync(client=client, cassette=tmp_path / "c.jsonl") as scope:
            assert flow.execute("hi", tools=[lookup]).result == live.result
        assert (sent, list(scope.report.drift)) == (["cat", "cat"], [])
        calls_flow = True
        with (
            pytest.raises(ReplayMissError, match="another"),
            trace_scope_sync(client=client, cassette=tmp_path / "c.jsonl"),
        ):
            flow.execute("hi", tools=[lookup])


def test_agents_of_local_engine_take_tools() -> None:
    workflow = Workflow("weather")
    prompt = "What is the weather in Paris?"
    workflow.add_node(Node.agent("a", prompt=prompt, tools=[get_weather], model="offline"))
    assert "Paris" in str(Executor().execute(workflow).result)
