from __future__ import annotations

from typing import Any

import pytest

from noukai_sdk.local import LlmConfig, Node


def test_node_id_is_made_from_the_name_or_given() -> None:
    assert Node.agent("Data Analyzer (v2)!").id == "Data-Analyzer-v2"
    assert Node.agent("Größe 大").id == "Größe-大"
    for node in (
        Node.agent("x", agent_id="given"),
        Node.condition("x", "True", node_id="given"),
        Node.function("x", len, node_id="given"),
        Node.transform("x", "text", node_id="given"),
    ):
        assert node.id == "given"


def test_node_kind_model_and_tools_describe_its_work() -> None:
    assert Node.function("f", len).kind == "function"
    assert Node.condition("c", "True").model is None
    assert Node.agent("a", llm_config=LlmConfig.ollama("x")).model == "ollama:x"
    assert Node.agent("a", tools=True).tools
    assert not Node.agent("a", tools=[len]).tools


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Node.agent("!!"), "must have a letter or a digit"),
        (lambda: Node.agent("a", temperature=2.5), "temperature must be 0 to 2"),
        (lambda: Node.agent("a", max_tokens=0), "max_tokens must be 1 or more"),
        (lambda: Node.agent("a", max_tool_iterations=0), "max_tool_iterations must be 1"),
        (lambda: Node.agent("a", retry=-1), "retry must be 0 or more"),
        (lambda: Node.function("a", len, timeout=0), "timeout must be more than 0"),
        (lambda: Node.function("a", len, concurrency=0), "concurrency must be 1 or more"),
        (lambda: Node.agent("a", model="x", llm_config=LlmConfig.offline()), "not both"),
    ],
)
def test_node_setting_out_of_range_raises_value_error(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Node.agent(3), "name of a node must be a str, not int"),
        (lambda: Node.agent("n", 3), "node 'n': prompt must be a str, not int"),
        (lambda: Node.agent("n", system_prompt=3), "system_prompt must be a str"),
        (lambda: Node.agent("n", agent_id=3), "id must be a str, not int"),
        (lambda: Node.agent("n", for_each=3), "for_each must be a str, not int"),
        (lambda: Node.agent("n", tools=[len, 3]), "a tool must be callable, not int"),
        (
            lambda: Node.agent("n", tools="len"),
            "tools must be True or a list of functions, not str",
        ),
        (
            lambda: Node.agent("n", temperature="1"),
            "temperature must be a number from 0 to 2, not str",
        ),
        (lambda: Node.agent("n", retry="1"), "retry must be an int of 0 or more, not str"),
        (lambda: Node.agent("n", model=3), "model must be the name of a model, as a str, not int"),
        (lambda: Node.agent("n", llm_config="x"), "llm_config must be an LlmConfig, .*, not str"),
        (lambda: Node.function("n", len, timeout="1"), "timeout must be a number .*, not str"),
        (
            lambda: Node.function("n", len, concurrency=1.5),
            "concurrency must be an int .*, not float",
        ),
        (lambda: Node.function("n", len, arguments=[1]), "arguments must be a dict .*, not list"),
        (lambda: Node.condition("n", 3), "expression must be a str, not int"),
        (lambda: Node.transform("n", 3), "transformation must be a str, not int"),
        (lambda: Node.function("n", 3), "the function must be callable, not int"),
    ],
)
def test_node_argument_of_wrong_type_raises_type_error(make: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        make()
