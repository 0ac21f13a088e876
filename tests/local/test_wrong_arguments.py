"""Arguments of the wrong type: a TypeError that names the argument and says what was expected, at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from noukai_sdk.local import EmbeddingConfig, Executor, LlmClient, LlmConfig, Node, Workflow
from noukai_sdk.local.llm.errors import LlmConfigError

KEY = "sk-proj-abcdefghijklmnop1234567890"
OFFLINE = LlmConfig.offline()


def one_node() -> Workflow:
    workflow = Workflow("One")
    workflow.add_node(Node.function("a", str))
    return workflow


WRONG: list[tuple[str, Callable[[Any], Any]]] = [
    ("top_p must be a number", lambda value: LlmConfig.openai("k", top_p=value)),
    ("seed must be a whole number", lambda value: LlmConfig.openai("k", seed=value)),
    (
        "response_format must be a mapping",
        lambda value: LlmConfig.openai("k", response_format=value),
    ),
    ("extra_body must be a mapping", lambda value: LlmConfig.openai("k", extra_body=value)),
    ("headers must be a mapping", lambda value: LlmConfig.openai("k", headers=value)),
    ("the header 'X' must be a str", lambda value: LlmConfig.openai("k", headers={"X": [value]})),  # type: ignore[dict-item]  # wrong on purpose
    ("timeout must be a number", lambda value: LlmConfig.openai("k", timeout=value)),
    ("max_retries must be an int", lambda value: LlmConfig.openai("k", max_retries=value)),
    ("dimensions must be an int", lambda value: EmbeddingConfig.openai("k", dimensions=value)),
    ("llm must be an LlmConfig", lambda value: EmbeddingConfig(value)),
    ("the name of a workflow must be a str", lambda value: Workflow([value])),  # type: ignore[arg-type]  # wrong on purpose
    ("parameters must be a mapping", lambda value: Workflow("w", parameters=value)),
    ("description must be a str", lambda value: Workflow("w", description=[value])),  # type: ignore[arg-type]  # wrong on purpose
    ("node must be a Node", lambda value: Workflow("w").add_node(value)),
    ("from_id must be the id", lambda value: Workflow("w").connect([value], "a")),  # type: ignore[arg-type]  # wrong on purpose
    ("to_id must be the id", lambda value: Workflow("w").connect("a", [value])),  # type: ignore[arg-type]  # wrong on purpose
    ("when must be a str, a number", lambda value: Workflow("w").connect("a", "b", when=[[value]])),  # type: ignore[list-item]  # wrong on purpose
    ("config must be an LlmConfig", lambda value: Executor(value)),
    ("max_concurrency must be an int", lambda value: Executor(max_concurrency=value)),
    ("retry must be an int", lambda value: Executor(retry=value)),
    ("debug must be True or False", lambda value: Executor(debug=value)),
    ("lightweight_mode must be True", lambda value: Executor(lightweight_mode=value)),
    ("enable_metrics must be True", lambda value: Executor().configure(enable_metrics=value)),
    ("workflow must be a Workflow", lambda value: Executor().execute(value)),
    ("tools must be a list", lambda value: Executor().execute(one_node(), tools=value)),
    ("a tool must be a mapping", lambda value: Executor().execute(one_node(), tools=[value])),
    (
        "tool_handler must be a function",
        lambda value: Executor().execute(one_node(), tool_handler=value),
    ),
    ("circuit_threshold must be an int", lambda value: LlmClient(OFFLINE, circuit_threshold=value)),
    (
        "temperature must be a number",
        lambda value: LlmClient(OFFLINE).complete("x", temperature=value),
    ),
    ("max_tokens must be an int", lambda value: LlmClient(OFFLINE).complete("x", max_tokens=value)),
    ("node 'a': top_p must be a number", lambda value: Node.agent("a", top_p=value)),
    ("node 'a': max_tokens must be an int", lambda value: Node.agent("a", max_tokens=value)),
]


@pytest.mark.parametrize(("message", "call"), WRONG, ids=[message for message, _ in WRONG])
def test_argument_of_the_wrong_type_raises_type_error_without_its_value(
    message: str, call: Callable[[Any], Any]
) -> None:
    with pytest.raises(TypeError, match=message) as caught:
        call(KEY)
    assert KEY not in str(caught.value)
    assert str(caught.value).endswith((", not str", ", not list"))


def test_true_is_not_a_number() -> None:
    with pytest.raises(
        TypeError, match="timeout must be a number of more than 0 seconds, not bool"
    ):
        LlmConfig.openai("k", timeout=True)
    with pytest.raises(TypeError, match="retry must be an int of 0 or more, not bool"):
        Executor(retry=True)


def test_value_out_of_range_raises_value_error() -> None:
    for call in (
        lambda: LlmConfig.openai("k", top_p=2),
        lambda: LlmConfig.from_spec("gpt-5"),
        lambda: EmbeddingConfig.openai("k", dimensions=0),
    ):
        with pytest.raises(LlmConfigError) as caught:
            call()
        assert isinstance(caught.value, ValueError)


def test_workflow_with_a_key_as_its_name_shows_no_key() -> None:
    with pytest.raises(ValueError, match="cannot run") as caught:
        Workflow(KEY).validate()
    assert KEY not in str(caught.value)
