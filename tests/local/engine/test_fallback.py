"""Fallbacks of agents and functions: when they are tried, what they get, and what the result says."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow, WorkflowError
from noukai_sdk.models.events import StepStarted
from tests.local.llm.calls import config_of
from tests.support.engine import workflow_of
from tests.support.llm_servers import fault_server, ok, status

pytestmark = pytest.mark.anyio


class Answer(BaseModel):
    text: str


def fail(*_: Any) -> Any:
    raise ValueError("broken")


def fallbacks_of(result: Any, node: str = "a") -> Any:
    return result.get_node_response_metadata(node)["fallbacks"]


@pytest.mark.parametrize("code", [400, 401, 404, 429, 503])
async def test_model_that_fails_is_replaced_by_the_next_that_does_not(code: int) -> None:
    with fault_server(status(code)) as server, fault_server(ok("from the other")) as other:
        workflow = workflow_of(
            Node.agent(
                "a",
                "Prompt",
                llm_config=config_of("openai", server.url, max_retries=0),
                fallback=["groq:missing-key", config_of("ollama", other.url), "offline"],
                retry=1 if code == 503 else 0,
            )
        )
        executor = Executor()
        events = executor.execute_streaming(workflow)
        seen = [event async for event in events]
        await executor.aclose()
    result = events.result
    assert result.result.strip() == "from the other"
    assert len(server.requests) == (2 if code == 503 else 1)
    assert other.requests[0].body["messages"] == server.requests[0].body["messages"]
    assert fallbacks_of(result) == ["ollama:smollm2"]
    assert result.get_node_response_metadata("a")["model"] == "ollama:smollm2"
    assert sum(isinstance(event, StepStarted) for event in seen) == (4 if code == 503 else 3)
    assert [event.fallbacks for event in seen if event.type == "step_completed"] == [  # type: ignore[attr-defined]  # its type is known here
        ["ollama:smollm2"]
    ]


async def test_tokens_of_the_model_and_of_its_fallback_count() -> None:
    with fault_server(ok("no JSON")) as server:
        node = Node.agent(
            "a", llm_config=config_of("openai", server.url), output=Answer, fallback="offline"
        )
        executor = Executor()
        result = await executor.run_async(workflow_of(node), "hi")
        alone = await executor.run_async(workflow_of(Node.agent("b", output=Answer)), "hi")
        await executor.aclose()
    assert isinstance(result.result, Answer)
    assert result.tokens.total > alone.tokens.total  # type: ignore[union-attr, operator]  # its type is known here
    assert len(server.requests) == 2  # with the repair


async def test_node_as_fallback_gets_the_input_and_the_place_of_the_node() -> None:
    calls: list[str] = []

    def first(text: str) -> Any:
        calls.append(text)
        raise ValueError("first")

    workflow = workflow_of(
        Node.transform("up", "uppercase"),
        Node.function(
            "a",
            first,
            retry=1,
            fallback=[Node.function("Second", fail), Node.transform("Third", "I: {{input}}")],
        ),
        Node.agent("b", "{{node.a}}"),
        edges="up>a a>b",
    )
    result = await Executor().run_async(workflow, "hi")
    result.raise_for_failure()
    assert (calls, result.get_node_output("a")) == (["HI", "HI"], "I: HI")
    assert fallbacks_of(result) == ["Third"]
    assert result.get_node_output("Third") is None


async def test_fallback_that_fails_too_fails_the_node_with_its_error() -> None:
    node = Node.function("a", lambda: 1 / 0, fallback=Node.function("B", fail))
    result = await Executor().run_async(workflow_of(node))
    (error,) = result.errors
    assert (error.node, error.code) == ("a", "STEP_FAILED")
    assert error.message == "the fallback 'B' of 'a' failed: ValueError: broken"


async def test_fallback_in_a_loop_stands_in_for_single_items() -> None:
    def odd(number: int) -> int:
        return 1 // (number % 2)

    workflow = workflow_of(
        Node.function(
            "a",
            odd,
            for_each="{{parameters.numbers}}",
            concurrency=2,
            on_error="keep",
            fallback=Node.function("Even", lambda number: -number if number < 6 else fail()),
        )
    )
    result = await Executor(max_concurrency=1).run_async(workflow, {"numbers": [1, 2, 3, 4, 6]})
    *outputs, failed = result.result
    assert outputs == [1, -2, 1, -4]
    assert failed.message == "item 4 of step 'a' failed: ValueError: broken"
    assert fallbacks_of(result) == ["Even"]


async def test_workflow_as_fallback_runs_its_own_nodes_in_its_own_places() -> None:
    other = workflow_of(Node.function("x", lambda: "other"))
    loop = Node.function(
        "a", fail, for_each="{{parameters.items}}", fallback=Node.flow(other, "Other")
    )
    result = await Executor(max_concurrency=1).run_async(workflow_of(loop), {"items": [1, 2]})
    assert result.result == ["other", "other"]
    assert result.run_state.inner == {}


@pytest.mark.parametrize("code", ["PROMPT_TOO_LARGE", "RUN_TOO_LARGE"])
async def test_error_that_a_fallback_would_share_is_not_caught(code: str) -> None:
    def too_large() -> Any:
        raise FlowExecutionError("too large", code=code)

    result = await Executor().run_async(
        workflow_of(Node.function("a", too_large, fallback=Node.function("B", lambda: 1)))
    )
    assert result.errors[0].code == code


def test_fallback_of_a_wrong_kind_raises() -> None:
    for fallback in (5, None, {"a": 1}, ["offline", 5]):
        with pytest.raises(TypeError, match="fallback must be a Node, or the name or LlmConfig"):
            Node.agent("a", fallback=fallback)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="a fallback must be a Node, not str"):
        Node.function("a", fail, fallback=["offline"])  # type: ignore[list-item]  # wrong on purpose
    with pytest.raises(TypeError, match="not branches"):
        Node.function("a", fail, fallback=Node.condition("c", "input"))
    with pytest.raises(ValueError, match="must not have for_each"):
        Node.function("a", fail, fallback=Node.function("b", fail, for_each="{{input}}"))


def test_validate_checks_the_fallbacks() -> None:
    workflow = Workflow("Checked")
    workflow.add_node(
        Node.agent("a", fallback=["gpt-5", Node.agent("b", "{{node.c}}", model="x:y")])
    )
    with pytest.raises(WorkflowError) as caught:
        workflow.validate()
    fields = [(problem.field, problem.message) for problem in caught.value.problems]
    assert len(fields) == 3
    assert {field for field, _ in fields} == {"fallback"}
    assert "no node of that name" in str(caught.value)


def test_model_of_a_flow_is_that_of_its_fallbacks_too() -> None:
    workflow = workflow_of(Node.function("a", fail, fallback=Node.agent("b")))
    flow = workflow.as_flow("acme", "docs", "x", model="openai:gpt-5")
    assert flow.steps[0].fallback[0].model == "openai:gpt-5"  # type: ignore[union-attr]  # its type is known here
