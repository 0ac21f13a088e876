"""Agents whose output has a type: what is asked, validated, repaired, and what the output is."""

from __future__ import annotations

import dataclasses
import json
import threading
from datetime import date
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from noukai_sdk.local import Executor, LlmConfig, Node, OutputInvalidError, Workflow
from noukai_sdk.local.engine.runner import RunState
from noukai_sdk.local.llm.chat import ChatDelta
from noukai_sdk.models.events import FlowCompleted, TokenBreakdown
from tests.local.llm.calls import config_of
from tests.support.engine import (
    FakeModel,
    FakeModels,
    run_steps,
    tool_call,
    workflow_of,
)
from tests.support.llm_servers import fault_server, ok

pytestmark = pytest.mark.anyio

GOOD = '{"title": "Dune", "stars": 5, "seen": "2024-02-03"}'
BAD = '```json\n{"title": "Dune", "stars": 9}\n```'


class Review(BaseModel):
    title: str
    stars: int = Field(ge=1, le=5)
    seen: date | None = None


@dataclasses.dataclass
class Point:
    x: int
    y: int


class Movie(TypedDict):
    name: str


def look_up() -> str:
    """Look it up."""
    return "found"


def in_turn(*replies: Any) -> FakeModel:
    remaining = iter(replies)
    return FakeModel(lambda request: next(remaining))


async def run(model: FakeModel, *nodes: Node, edges: str = "", **settings: Any) -> Any:
    executor = Executor(**settings)
    executor._pools.get = lambda: _answer(FakeModels(model))  # type: ignore[method-assign]  # a stand-in
    return await executor.run_async(workflow_of(*nodes, edges=edges), "a message")


async def _answer(models: FakeModels) -> Any:
    return models


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
async def test_typed_output_over_http_is_an_instance(provider: str) -> None:
    workflow = workflow_of(
        Node.agent("review", "Review {{message}}", system_prompt="Be kind.", output=Review),
        Node.agent("praise", "{{node.review.title}}, {{node.review.seen}}: {{node.review}}"),
        edges="review>praise",
    )
    with fault_server(ok(GOOD), ok("done")) as server:
        executor = Executor(config_of(provider, server.url))
        result = await executor.run_async(workflow, "Dune")
        await executor.aclose()
    assert result.get_node_output("review") == Review(title="Dune", stars=5, seen=date(2024, 2, 3))
    first, second = (request.body for request in server.requests)
    if provider == "openai":
        asked = first["response_format"]["json_schema"]
        assert (asked["name"], asked["schema"]) == ("Review", Review.model_json_schema())
        assert first["messages"][0]["content"] == "Be kind."
    else:
        assert first["system"].startswith("Be kind.\n\nRespond with JSON")
        assert json.dumps(Review.model_json_schema()) in first["system"]
    assert json.dumps(f"Dune, 2024-02-03: {GOOD}") in json.dumps(second)


async def test_response_that_does_not_fit_is_repaired_in_one_turn_that_counts() -> None:
    model = in_turn(BAD, GOOD)
    result = await run(model, Node.agent("a", output=Review, tools=[look_up]))
    assert result.result.stars == 5
    assert result.tokens == TokenBreakdown(prompt=6, completion=4, total=10)
    answer, request = model.requests[1].messages[-2:]
    assert answer == {"role": "assistant", "content": BAD}
    assert "stars: Input should be less than or equal to 5, not 9" in request["content"]
    assert model.requests[1].tools


@pytest.mark.parametrize(("repairs", "calls"), [(0, 1), (1, 2), (3, 4)])
async def test_response_that_is_not_repaired_fails_with_text_and_problems(
    repairs: int, calls: int
) -> None:
    model = FakeModel(lambda request: "x" * 1000)
    result = await run(model, Node.agent("a", output=Review, repairs=repairs))
    (failed,) = result.errors
    assert failed.code == "OUTPUT_INVALID"
    assert isinstance(failed.error, OutputInvalidError)
    assert failed.error.text == "x" * 1000
    assert "Invalid JSON" in failed.error.problems
    assert "valid JSON of Review" in failed.message
    assert len(failed.message) < 800
    assert len(model.requests) == calls


async def test_repair_after_a_tool_call_and_retry_of_the_node_work_together() -> None:
    calls = ChatDelta(tool_calls=(tool_call("look_up"),))
    model = in_turn(calls, BAD, BAD, calls, BAD, GOOD)
    result = await run(model, Node.agent("a", output=Review, tools=[look_up], retry=1))
    assert result.result == Review.model_validate_json(GOOD)
    roles = [turn["role"] for turn in model.requests[-1].messages]
    assert roles == ["user", "assistant", "tool", "assistant", "user"]


@pytest.mark.parametrize(
    ("kind", "text", "output"),
    [
        (Point, '{"x": 1, "y": 2}', Point(1, 2)),
        (Movie, '{"name": "Dune"}', {"name": "Dune"}),
        (list[Point], '{"result": [{"x": 1, "y": 2}]}', [Point(1, 2)]),
        (Literal["yes", "no"], '{"result": "no"}', "no"),
        (Review | None, '{"result": null}', None),
    ],
)
async def test_other_types_are_outputs_too(kind: Any, text: str, output: Any) -> None:
    model = in_turn(text)
    assert (await run(model, Node.agent("a", output=kind))).result == output
    assert model.requests[0].json_schema["type"] == "object"  # type: ignore[index]  # its type is known here


async def test_typed_outputs_of_a_loop_reach_functions_as_instances() -> None:
    model = FakeModel(lambda request: GOOD)
    result = await run(
        model,
        Node.transform("lines", "words"),
        Node.agent("reviews", "{{item}}", output=Review, for_each="{{input}}", concurrency=2),
        Node.function("stars", lambda reviews: sum(review.stars for review in reviews)),
        edges="lines>reviews reviews>stars",
    )
    assert result.result == 10


async def test_typed_output_in_a_service_is_json() -> None:
    node = Node.agent("a", "Write about {{message}}", output=Review)
    flow = workflow_of(node).as_flow("acme", "docs", "review")
    state = RunState("run", message="Dune", block_overrides={"a": {"prompt": "Say Dune"}})
    events = [
        event async for event in run_steps(flow, state, models=FakeModels(in_turn(BAD, GOOD)))
    ]
    assert isinstance(events[-1], FlowCompleted)
    assert events[-1].result == json.loads(GOOD)


async def test_typed_outputs_of_a_stored_run_come_back_as_instances(tmp_path: Path) -> None:
    seen: list[Any] = []

    def stars(reviews: list[Any]) -> int:
        seen.append(reviews)
        if len(seen) == 1:
            raise ValueError("at first")
        return sum(review["inner"].stars for review in reviews if review)

    inner = workflow_of(
        Node.agent("review", output=Review),
        Node.function("wrap", lambda review: {"inner": review}),
        edges="review>wrap",
    )
    workflow = workflow_of(
        Node.agent("points", "{{item}}", output=list[Point], for_each="{{parameters.n}}"),
        Node.flow(inner, "inner", for_each="{{parameters.n}}"),
        Node.function("stars", stars),
        edges="points>inner inner>stars",
    )
    store = tmp_path / "runs.db"
    failed = await Executor(store=store).run_async(workflow, {"n": [1, 2]}, run_id="r")
    assert failed.is_failed()
    result = await Executor(store=store).resume_async(workflow, "r")
    assert result.result == 2
    assert seen[0] == seen[1]
    assert result.get_node_output("points") == [[Point(1, 1)]] * 2


@pytest.mark.parametrize("kind", [Review, Point, Movie, list[Review], dict[str, int]])
def test_offline_model_fits_any_type(kind: Any) -> None:
    workflow = Workflow("Offline")
    workflow.add_node(Node.agent("a", "Write about cats", output=kind, repairs=0))
    first, second = (Executor().execute(workflow) for _ in range(2))
    first.raise_for_failure()
    assert first.result == second.result


def test_small_model_fits_a_type() -> None:
    workflow = Workflow("SmolLM2")
    answer: Any = Literal["yes", "no"]  # a number may have any number of digits
    node = Node.agent("a", "Is it?", output=answer, repairs=0, max_tokens=100, temperature=0)
    workflow.add_node(node)
    executor = Executor(LlmConfig.smollm2())
    result = executor.execute(workflow)
    executor.close()
    result.raise_for_failure()
    assert result.result in ("yes", "no")


@pytest.mark.parametrize("output", [None, 5, Review(title="x", stars=1), threading.Thread])
def test_output_that_is_no_type_of_json_raises_type_error(output: Any) -> None:
    with pytest.raises(TypeError, match="node 'a': output must be 'text', 'json' or a type"):
        Node.agent("a", output=output)
