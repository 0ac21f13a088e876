"""Agent nodes: what the model is sent, what becomes of its response, tools."""

from __future__ import annotations

import json
import threading
from typing import Any

import anyio
import pytest

from noukai_sdk.local.engine.scheduler import Scheduler, Settings
from noukai_sdk.local.engine.state import RunState
from noukai_sdk.local.llm.chat import ChatDelta, ChatRequest
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import LlmServerError
from noukai_sdk.local.workflow import tool_functions
from noukai_sdk.local.workflow.node import Node
from noukai_sdk.models.events import StreamEvent, TokenBreakdown
from tests.support.engine import (
    GET_WEATHER,
    FakeModel,
    FakeModels,
    last_text,
    tool_call,
    workflow_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=[True, False], ids=["streamed", "whole"])
def streamed(request: pytest.FixtureRequest) -> bool:
    """Whether there is a listener, for which the engine streams the response."""
    return bool(request.param)


async def run(
    nodes: Node | list[Node],
    model: FakeModel | FakeModels,
    *,
    events: list[Any] | None = None,
    edges: str = "",
    default_model: str = "offline",
    **state: Any,
) -> Scheduler:
    async def emit(event: StreamEvent) -> None:
        assert events is not None
        events.append(event)

    scheduler = Scheduler(
        workflow_of(*([nodes] if isinstance(nodes, Node) else nodes), edges=edges).plan,
        RunState("e", **state),
        models=FakeModels(model) if isinstance(model, FakeModel) else model,
        settings=Settings(default_model=default_model),
        emit=None if events is None else emit,
    )
    with anyio.fail_after(20):
        await scheduler.run_all()
    return scheduler


def error_code(scheduler: Scheduler) -> str:
    assert scheduler.error is not None
    return scheduler.error.code


async def test_agent_settings_reach_model(streamed: bool) -> None:
    model = FakeModel()
    node = Node.agent(
        "a", "Hi {{message}}", system_prompt="Be {{parameters.x}}", temperature=0.3, max_tokens=9
    )
    events: list[Any] | None = [] if streamed else None
    done = await run(node, model, events=events, message="you", parameters={"x": "kind"})
    assert model.requests == [
        ChatRequest(
            messages=[
                {"role": "system", "content": "Be kind"},
                {"role": "user", "content": "Hi you"},
            ],
            temperature=0.3,
            max_tokens=9,
        )
    ]
    assert done.result == "<Hi you>"
    assert done.tokens == TokenBreakdown(prompt=3, completion=2, total=5)
    assert done.total_cost_usd is None


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Say it", "Say it\n\nthe message"),
        ("Say {{message}}", "Say the message"),
        ("Say {{input}}", "Say the message"),
        ("Say {{parameters.x}}", "Say 1\n\nthe message"),
        ("", "\n\nthe message"),
    ],
)
async def test_first_prompt_without_message_gets_it_below(prompt: str, text: str) -> None:
    model = FakeModel()
    await run(Node.agent("a", prompt), model, message="the message", parameters={"x": 1})
    assert last_text(model.requests[0]) == text
    await run(Node.agent("a", "No message"), model)
    assert last_text(model.requests[1]) == "No message"


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Join", "Join\n\nb:\nfrom b\n\na:\nfrom a"),
        ("Join {{message}}", "Join hi\n\nb:\nfrom b\n\na:\nfrom a"),
        ("Take {{node.a}}", "Take from a"),
        ("All: {{input}}", 'All: {"b": "from b", "a": "from a"}'),
    ],
)
async def test_later_prompt_gets_outputs_of_parents(prompt: str, text: str) -> None:
    model = FakeModel()
    parents = [Node.transform(name, f"from {name}{{{{parameters.x}}}}") for name in "ab"]
    nodes = [*parents, Node.agent("end", prompt)]
    await run(nodes, model, edges="b>end a>end", message="hi", parameters={"x": ""})
    assert last_text(model.requests[0]) == text


async def test_reference_in_message_or_output_is_not_expanded() -> None:
    model = FakeModel(lambda request: "{{parameters.secret}}")
    nodes = [Node.agent("a"), Node.agent("b", "It said: {{node.a}}")]
    await run(nodes, model, edges="a>b", message="{{node.a}}", parameters={"secret": "s3cret"})
    texts = [last_text(request) for request in model.requests]
    assert texts == ["{{node.a}}", "It said: {{parameters.secret}}"]


async def test_chat_turns_surround_prompt() -> None:
    model = FakeModel()
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "prefilled"},
    ]
    nodes = [Node.agent("a", "Q: {{message}}"), Node.agent("b")]
    await run(nodes, model, edges="a>b", messages=turns)
    prompt = {"role": "user", "content": "Q: second"}
    assert model.requests[0].messages == [*turns[:2], prompt, turns[3]]
    assert model.requests[1].messages == [{"role": "user", "content": "<prefilled>"}]
    # Without a user turn, the last turn is the message.
    await run(Node.agent("a"), model, messages=[{"role": "assistant", "content": "said"}])
    assert model.requests[2].messages == [{"role": "user", "content": "said"}]


async def test_images_and_attachments_go_with_message() -> None:
    model = FakeModel()
    image = {"type": "image_url", "image_url": {"url": "https://x/i.png"}}
    parts = [{"type": "text", "text": "look"}, {"type": "text", "text": "here"}, image]
    attachments = [
        {"url": "https://x/j.png", "mime_type": "image/png"},
        {"url": "https://x/f.pdf", "mimeType": "application/pdf"},
        {"url": "https://x/g"},
    ]
    turn = {"role": "user", "content": parts}
    await run(Node.agent("a"), model, messages=[turn], attachments=attachments)
    assert model.requests[0].messages[0]["content"] == [
        {"type": "text", "text": "look\nhere"},
        image,
        {"type": "image_url", "image_url": {"url": "https://x/j.png"}},
        {"type": "text", "text": "Attachment (application/pdf): https://x/f.pdf"},
        {"type": "text", "text": "Attachment (unknown type): https://x/g"},
    ]


async def test_loop_asks_model_for_each_item() -> None:
    nodes = [
        Node.agent("plain", "Grade", for_each="{{message}}"),
        Node.agent("named", "{{index}}: {{item.x}}", for_each="{{message}}"),
    ]
    done = await run(nodes, FakeModel(), message=[{"x": 1}, {"x": 2}])
    assert done.state.outputs["plain"] == ["<Grade\n\nx:\n1>", "<Grade\n\nx:\n2>"]
    assert done.state.outputs["named"] == ["<0: 1>", "<1: 2>"]
    assert done.tokens == TokenBreakdown(prompt=12, completion=8, total=20)


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '```json\n{"a": 1}\n```', ' ```\n{"a":\n1}\n```\n', '\n{"a": 1} ']
)
async def test_json_output_becomes_value(text: str, streamed: bool) -> None:
    model = FakeModel(lambda request: text)
    events: list[Any] | None = [] if streamed else None
    done = await run(Node.agent("a", output="json"), model, events=events, message="x")
    assert done.result == {"a": 1}
    assert model.requests[0].response_format == "json"


async def test_json_output_not_valid_is_retried_then_fails() -> None:
    responses = iter(["not json", '{"a": 1}'])
    model = FakeModel(lambda request: next(responses))
    done = await run(Node.agent("a", output="json", retry=1), model, message="x")
    assert done.result == {"a": 1}
    # Both responses were paid for.
    assert done.tokens == TokenBreakdown(prompt=6, completion=4, total=10)
    done = await run(Node.agent("a", output="json"), FakeModel(lambda request: "no"), message="x")
    assert error_code(done) == "OUTPUT_INVALID"


async def test_stream_cut_half_way_starts_again() -> None:
    responses = iter([["half ", LlmServerError("cut")], ["whole"]])
    events: list[Any] = []
    model = FakeModel(lambda request: next(responses))
    done = await run(Node.agent("a", retry=1), model, events=events, message="x")
    attempt = ["step_started", "step_input", "step_output"]
    assert [event.type for event in events] == [*attempt, *attempt, "step_completed"]
    assert done.result == "whole"


async def test_tokens_and_costs_are_totalled() -> None:
    model = FakeModel(name="openai:gpt-4o-mini")
    done = await run([Node.agent("a"), Node.agent("b")], model, edges="a>b", message="x")
    # 2 calls of 3 tokens at 0.15 and 2 at 0.6 dollars a million.
    assert done.total_cost_usd == "0.0000033"
    done = await run(Node.agent("a"), FakeModel(lambda request: ChatDelta("text")), message="x")
    assert done.tokens is None


async def test_node_without_model_asks_default_model() -> None:
    models = FakeModels(FakeModel())
    config = LlmConfig.ollama("x")
    nodes = [
        Node.agent("a", model="openai:m1"),
        Node.agent("b", llm_config=config),
        Node.agent("c"),
    ]
    await run(nodes, models, default_model="the default", message="x")
    assert set(models.specs) == {"openai:m1", config, "the default"}


def get_weather(city: str, days: int = 1) -> dict[str, Any]:
    """Return the weather in a city."""
    return {"city": city, "days": days}


async def get_time(zone: str) -> str:
    return f"noon in {zone}"


def broken() -> None:
    raise RuntimeError("no luck")


def responding(*responses: Any) -> FakeModel:
    remaining = iter(responses)
    return FakeModel(lambda request: next(remaining))


def calls(*tools: Any) -> ChatDelta:
    return ChatDelta(tool_calls=tools, usage=TokenBreakdown(prompt=1, completion=1, total=2))


async def test_function_tools_are_called_for_model(streamed: bool) -> None:
    request = calls(
        tool_call("get_weather", "1", '{"city": "Paris", "days": 2}'),
        tool_call("get_time", "2", '{"zone": "UTC"}'),
    )
    model = responding(request, "done")
    node = Node.agent("a", tools=[get_weather, get_time])
    events: list[Any] | None = [] if streamed else None
    done = await run(node, model, events=events, message="x")
    assert done.result == "done"
    assert model.requests[-1].messages[1:] == [
        {"role": "assistant", "content": None, "tool_calls": list(request.tool_calls)},
        {"role": "tool", "tool_call_id": "1", "content": '{"city":"Paris","days":2}'},
        {"role": "tool", "tool_call_id": "2", "content": "noon in UTC"},
    ]
    assert done.tokens == TokenBreakdown(prompt=4, completion=3, total=7)


async def test_tool_calls_of_one_turn_run_at_once_and_keep_their_order() -> None:
    everyone = threading.Barrier(2)
    second_ran = anyio.Event()

    def meet(number: int) -> int:
        everyone.wait(10)
        return number

    async def wait() -> str:
        await second_ran.wait()
        return "first"

    async def wake() -> str:
        second_ran.set()
        return "second"

    numbers = [tool_call("meet", f"m{n}", f'{{"number": {n}}}') for n in range(2)]
    model = responding(calls(*numbers, tool_call("wait", "w1"), tool_call("wake", "w2")), "done")
    await run(Node.agent("a", tools=[meet, wait, wake]), model, message="x")
    turns = model.requests[-1].messages[2:]
    results = [(turn["tool_call_id"], turn["content"]) for turn in turns]
    assert results == [("m0", "0"), ("m1", "1"), ("w1", "first"), ("w2", "second")]


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (tool_call("nonesuch"), "there is no tool 'nonesuch'; there are get_weather, broken"),
        (tool_call("get_weather", arguments="{}"), "wrong arguments"),
        (tool_call("get_weather", arguments='{"city": "x", "days": "y"}'), "wrong arguments"),
        (tool_call("get_weather", arguments="no json"), "JSONDecodeError"),
        (tool_call("get_weather", arguments="[]"), "TypeError"),
        (tool_call("broken", arguments=""), "RuntimeError: no luck"),
    ],
)
async def test_tool_call_that_fails_reports_error_to_model(call: Any, error: str) -> None:
    model = responding(calls(call), "done")
    done = await run(Node.agent("a", tools=[get_weather, broken]), model, message="x")
    assert done.result == "done"
    assert error in json.loads(model.requests[-1].messages[-1]["content"])["error"]


def test_function_schema_comes_from_its_signature() -> None:
    assert tool_functions.schema_of(get_weather) == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Return the weather in a city.",
            "parameters": {
                "additionalProperties": False,
                "properties": {
                    "city": {"title": "City", "type": "string"},
                    "days": {"default": 1, "title": "Days", "type": "integer"},
                },
                "required": ["city"],
                "type": "object",
            },
        },
    }
    without_names: list[Any] = [lambda x, /: x, lambda *args: args, print]
    for function in without_names:
        with pytest.raises(ValueError, match="cannot be a tool"):
            tool_functions.schema_of(function)


async def test_tool_rounds_over_limit_fail_node() -> None:
    model = FakeModel(lambda request: calls(tool_call("broken", arguments="")))
    done = await run(Node.agent("a", tools=[broken], max_tool_iterations=3), model, message="x")
    assert error_code(done) == "TOOL_ITERATION_LIMIT"
    assert len(model.requests) == 4


async def test_tools_of_call_go_to_nodes_that_allow_them() -> None:
    model = FakeModel()
    nodes = [Node.agent("a", tools=True), Node.agent("b"), Node.agent("c", tools=[get_weather])]
    tools: dict[str, Any] = {"tools": [GET_WEATHER], "tool_choice": "required"}
    await run(nodes, model, edges="a>b b>c", message="x", **tools)
    first, second, third = model.requests
    assert (first.tools, first.tool_choice) == ([GET_WEATHER], "required")
    assert (second.tools, second.tool_choice) == (None, None)
    assert [tool["function"]["name"] for tool in third.tools or []] == ["get_weather"]
    done = await run(Node.agent("a", tools=True), responding(calls(tool_call())), message="x")
    assert error_code(done) == "TOOLS_NOT_ENABLED"
