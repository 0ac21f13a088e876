"""Agent nodes: what the model is last_text, what becomes of its answer, tools."""

from __future__ import annotations

import json
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
from noukai_sdk.models.events import StreamEvent, Tokens
from tests.support.engine import (
    GET_WEATHER,
    FakeModel,
    FakeModels,
    last_text,
    tool_call,
    workflow_of,
)

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["streamed", "whole"])
def listens(request: pytest.FixtureRequest) -> bool:
    return bool(request.param == "streamed")


async def run(
    node: Node | list[Node],
    model: FakeModel,
    *,
    listens: bool = False,
    edges: str = "",
    **state: Any,
) -> Scheduler:
    nodes = [node] if isinstance(node, Node) else node
    events: list[StreamEvent] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    plan = workflow_of(*nodes, edges=edges).plan
    engine = Scheduler(
        plan,
        RunState("e", **state),
        models=FakeModels(model),
        settings=Settings(),
        emit=emit if listens else None,
    )
    with anyio.fail_after(20):
        await engine.run_all()
    return engine


def last_request(model: FakeModel) -> ChatRequest:
    return model.requests[-1]


async def test_settings_reach_the_model(listens: bool) -> None:
    model = FakeModel()
    node = Node.agent(
        "a", "Hi {{message}}", system_prompt="Be {{parameters.x}}", temperature=0.3, max_tokens=9
    )
    engine = await run(node, model, listens=listens, message="you", parameters={"x": "kind"})
    assert last_request(model) == ChatRequest(
        messages=[
            {"role": "system", "content": "Be kind"},
            {"role": "user", "content": "Hi you"},
        ],
        temperature=0.3,
        max_tokens=9,
    )
    assert engine.result == "<Hi you>"
    assert engine.used.tokens == Tokens(prompt=3, completion=2, total=5)
    assert engine.total_cost_usd is None


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
async def test_a_first_prompt_that_does_not_name_the_message_gets_it_below(
    prompt: str, text: str
) -> None:
    model = FakeModel()
    await run(Node.agent("a", prompt), model, message="the message", parameters={"x": 1})
    assert last_text(last_request(model)) == text


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Join", "Join\n\nb:\nfrom b\n\na:\nfrom a"),
        ("Join {{message}}", "Join hi\n\nb:\nfrom b\n\na:\nfrom a"),
        ("Take {{node.a}}", "Take from a"),
        ("All: {{input}}", 'All: {"b": "from b", "a": "from a"}'),
    ],
)
async def test_later_prompts_get_their_parents_outputs(prompt: str, text: str) -> None:
    model = FakeModel()
    nodes = [
        Node.transform("a", "from a{{parameters.x}}"),
        Node.transform("b", "from b{{parameters.x}}"),
    ]
    await run(
        [*nodes, Node.agent("end", prompt)],
        model,
        edges="b>end a>end",
        message="hi",
        parameters={"x": ""},
    )
    assert last_text(last_request(model)) == text


async def test_nothing_is_added_where_there_is_no_message() -> None:
    model = FakeModel()
    await run(Node.agent("a", "Tell a joke"), model)
    assert last_text(last_request(model)) == "Tell a joke"


async def test_what_a_model_says_is_never_expanded() -> None:
    model = FakeModel(lambda request: "{{parameters.secret}}")
    nodes = [Node.agent("a"), Node.agent("b", "It said: {{node.a}}")]
    await run(nodes, model, edges="a>b", message="{{node.a}}", parameters={"secret": "s3cret"})
    assert [last_text(request) for request in model.requests] == [
        "{{node.a}}",
        "It said: {{parameters.secret}}",
    ]


async def test_chat_turns_stand_around_the_prompt() -> None:
    model = FakeModel()
    turns = [
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "second"},
        {"role": "assistant", "content": "prefilled"},
    ]
    await run(
        [Node.agent("a", "Q: {{message}}"), Node.agent("b")], model, edges="a>b", messages=turns
    )
    assert model.requests[0].messages == [
        *turns[:2],
        {"role": "user", "content": "Q: second"},
        turns[3],
    ]
    assert model.requests[1].messages == [{"role": "user", "content": "<prefilled>"}]


async def test_turns_without_a_user_end_with_the_message() -> None:
    model = FakeModel()
    await run(Node.agent("a"), model, messages=[{"role": "assistant", "content": "said"}])
    assert last_request(model).messages == [{"role": "user", "content": "said"}]


async def test_images_and_files_go_with_the_message() -> None:
    model = FakeModel()
    image = {"type": "image_url", "image_url": {"url": "https://x/i.png"}}
    parts = [{"type": "text", "text": "look"}, {"type": "text", "text": "here"}, image]
    await run(
        Node.agent("a"),
        model,
        messages=[{"role": "user", "content": parts}],
        attachments=[
            {"url": "https://x/j.png", "mime_type": "image/png"},
            {"url": "https://x/f.pdf", "mime_type": "application/pdf"},
            {"url": "https://x/g"},
        ],
    )
    assert last_request(model).messages[0]["content"] == [
        {"type": "text", "text": "look\nhere"},
        image,
        {"type": "image_url", "image_url": {"url": "https://x/j.png"}},
        {"type": "text", "text": "Attachment (application/pdf): https://x/f.pdf"},
        {"type": "text", "text": "Attachment (unknown type): https://x/g"},
    ]


async def test_loops_ask_for_each_item() -> None:
    model = FakeModel()
    nodes = [
        Node.agent("plain", "Grade", for_each="{{message}}"),
        Node.agent("named", "{{index}}: {{item.x}}", for_each="{{message}}"),
    ]
    engine = await run(nodes, model, message=[{"x": 1}, {"x": 2}])
    assert engine.state.outputs["plain"] == ["<Grade\n\nx:\n1>", "<Grade\n\nx:\n2>"]
    assert engine.state.outputs["named"] == ["<0: 1>", "<1: 2>"]
    assert engine.used.tokens == Tokens(prompt=12, completion=8, total=20)


@pytest.mark.parametrize(
    "text", ['{"a": 1}', '```json\n{"a": 1}\n```', ' ```\n{"a":\n1}\n```\n', '\n{"a": 1} ']
)
async def test_json_answers_become_values(text: str, listens: bool) -> None:
    model = FakeModel(lambda request: text)
    engine = await run(Node.agent("a", output="json"), model, listens=listens, message="x")
    assert engine.result == {"a": 1}
    assert last_request(model).response_format == "json"


async def test_an_answer_that_should_be_json_is_asked_for_again() -> None:
    answers = iter(["no json", '{"a": 1}'])
    model = FakeModel(lambda request: next(answers))
    engine = await run(Node.agent("a", output="json", retry=1), model, message="x")
    assert engine.result == {"a": 1}
    # Both answers were paid for.
    assert engine.used.tokens == Tokens(prompt=6, completion=4, total=10)


async def test_an_answer_that_never_is_json_fails() -> None:
    engine = await run(Node.agent("a", output="json"), FakeModel(lambda request: "no"), message="x")
    assert engine.error is not None
    assert engine.error.code == "OUTPUT_INVALID"


async def test_a_cut_stream_is_begun_anew_and_told() -> None:
    answers = iter([["half ", LlmServerError("cut")], ["whole"]])
    model = FakeModel(lambda request: next(answers))
    events: list[Any] = []

    async def emit(event: StreamEvent) -> None:
        events.append(event)

    plan = workflow_of(Node.agent("a", retry=1)).plan
    engine = Scheduler(
        plan,
        RunState("e", message="x"),
        models=FakeModels(model),
        settings=Settings(),
        emit=emit,
    )
    await engine.run_all()
    assert [event.type for event in events] == [
        "step_started",
        "step_input",
        "step_output",
        "step_started",
        "step_input",
        "step_output",
        "step_completed",
    ]
    assert engine.result == "whole"


async def test_a_model_without_usage_counts_nothing() -> None:
    model = FakeModel(lambda request: ChatDelta("text"))
    engine = await run(Node.agent("a"), model, message="x")
    assert engine.used.tokens is None


async def test_costs_come_from_the_price_table() -> None:
    model = FakeModel(name="openai:gpt-4o-mini")
    engine = await run([Node.agent("a"), Node.agent("b")], model, edges="a>b", message="x")
    # 2 calls of 3 tokens at 0.15 and 2 at 0.6 dollars a million.
    assert engine.total_cost_usd == "0.0000033"


async def test_every_node_may_name_its_model() -> None:
    models = FakeModels(FakeModel())
    config = LlmConfig.ollama("x")
    nodes = [Node.agent("a", model="m1"), Node.agent("b", llm_config=config), Node.agent("c")]
    plan = workflow_of(*nodes).plan
    settings = Settings(default_model="the default")
    engine = Scheduler(plan, RunState("e", message="x"), models=models, settings=settings)
    await engine.run_all()
    assert set(models.specs) == {"m1", config, "the default"}


def get_weather(city: str, days: int = 1) -> dict[str, Any]:
    """The weather in a city."""
    return {"city": city, "days": days}


async def get_time(zone: str) -> str:
    return f"noon in {zone}"


def broken() -> None:
    raise RuntimeError("no luck")


def rounds(*answers: Any) -> FakeModel:
    left = iter(answers)
    return FakeModel(lambda request: next(left))


def calls(*tools: Any) -> ChatDelta:
    return ChatDelta(tool_calls=tools, usage=Tokens(prompt=1, completion=1, total=2))


async def test_functions_of_a_node_are_called_and_answer(listens: bool) -> None:
    asking = calls(
        tool_call("get_weather", "1", '{"city": "Paris", "days": 2}'),
        tool_call("get_time", "2", '{"zone": "UTC"}'),
    )
    model = rounds(asking, "done")
    node = Node.agent("a", tools=[get_weather, get_time])
    engine = await run(node, model, listens=listens, message="x")
    assert engine.result == "done"
    assert last_request(model).messages[1:] == [
        {"role": "assistant", "content": None, "tool_calls": list(asking.tool_calls)},
        {"role": "tool", "tool_call_id": "1", "content": '{"city":"Paris","days":2}'},
        {"role": "tool", "tool_call_id": "2", "content": "noon in UTC"},
    ]
    assert engine.used.tokens == Tokens(prompt=4, completion=3, total=7)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (tool_call("nonesuch"), "there is no tool 'nonesuch'; there are get_weather, broken"),
        (tool_call("get_weather", arguments="{}"), "wrong arguments"),
        (tool_call("get_weather", arguments='{"city": "x", "days": "y"}'), "wrong arguments"),
        (tool_call("get_weather", arguments="no json"), "JSONDecodeError"),
        (tool_call("get_weather", arguments="[]"), "TypeError"),
        (tool_call("broken", arguments=""), "RuntimeError: no luck"),
    ],
)
async def test_a_call_that_fails_is_told_to_the_model(call: Any, told: str) -> None:
    model = rounds(calls(call), "done")
    engine = await run(Node.agent("a", tools=[get_weather, broken]), model, message="x")
    assert engine.result == "done"
    assert told in json.loads(last_request(model).messages[-1]["content"])["error"]


async def test_the_schema_of_a_function_comes_from_its_signature() -> None:
    assert tool_functions.schema_of(get_weather) == {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
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


@pytest.mark.parametrize("function", [lambda x, /: x, lambda *args: args, print])
async def test_a_function_without_names_for_its_arguments_is_no_tool(function: Any) -> None:
    with pytest.raises(ValueError, match="cannot be a tool"):
        tool_functions.schema_of(function)


async def test_tool_rounds_have_a_limit() -> None:
    model = FakeModel(lambda request: calls(tool_call("broken", arguments="")))
    node = Node.agent("a", tools=[broken], max_tool_iterations=3)
    engine = await run(node, model, message="x")
    assert engine.error is not None
    assert engine.error.code == "TOOL_ITERATION_LIMIT"
    assert len(model.requests) == 4


async def test_tools_of_the_call_go_to_nodes_that_allow_them() -> None:
    model = FakeModel()
    nodes = [Node.agent("a", tools=True), Node.agent("b"), Node.agent("c", tools=[get_weather])]
    await run(
        nodes, model, edges="a>b b>c", message="x", tools=[GET_WEATHER], tool_choice="required"
    )
    first, second, third = model.requests
    assert (first.tools, first.tool_choice) == ([GET_WEATHER], "required")
    assert (second.tools, second.tool_choice) == (None, None)
    assert [tool["function"]["name"] for tool in third.tools or []] == ["get_weather"]


async def test_tools_that_nobody_offered_are_refused() -> None:
    engine = await run(Node.agent("a", tools=True), rounds(calls(tool_call())), message="x")
    assert engine.error is not None
    assert engine.error.code == "TOOLS_NOT_ENABLED"
