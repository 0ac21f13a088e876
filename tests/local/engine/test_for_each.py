"""``for_each``: items fail, are retried and are kept one by one."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, ItemError, Node, Workflow, WorkflowResult
from noukai_sdk.local.engine.state import RunState
from tests.support.engine import FakeModel, FakeModels, run_steps, workflow_of

pytestmark = pytest.mark.anyio


class Work:
    """A function that fails for some items, so often, and counts its calls by item."""

    def __init__(self, **fails: int) -> None:
        self.calls: Counter[str] = Counter()
        self.fails = fails
        self.release = anyio.Event()
        self.waits_at: str | None = None

    async def __call__(self, item: str) -> str:
        self.calls[item] += 1
        if item == self.waits_at:
            await self.release.wait()
        if self.calls[item] <= self.fails.get(item, 0):
            self.release.set()
            raise ValueError(f"no {item}")
        return item.upper()


async def run(workflow: Workflow | Node, items: Any, **settings: Any) -> WorkflowResult:
    workflow = workflow_of(workflow) if isinstance(workflow, Node) else workflow
    with anyio.fail_after(20):
        return await Executor(**settings).run_async(workflow, {"items": items})


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_loop_retries_each_item_on_its_own_and_frees_its_place(concurrency: int) -> None:
    work = Work(b=2, c=1)
    node = Node.function(
        "each", work, for_each="{{parameters.items}}", retry=2, concurrency=concurrency
    )
    result = await run(node, [*"abc"], max_concurrency=1)
    assert result.get_node_output("each") == ["A", "B", "C"]
    assert work.calls == {"a": 1, "b": 3, "c": 2}


async def test_loop_item_that_fails_lets_others_finish_and_keeps_them_for_the_next_run() -> None:
    work = Work(b=1)
    work.waits_at = "a"  # it ends when b has failed
    executor = Executor()
    workflow = workflow_of(
        Node.function("each", work, for_each="{{parameters.items}}", concurrency=2),
        Node.transform("join", "join"),
        edges="each>join",
    )
    with anyio.fail_after(20):
        failed = await executor.run_async(workflow, {"items": [*"abcd"]})
        assert failed.errors[0].message == "item 1 of step 'each' failed: ValueError: no b"
        assert isinstance(failed.errors[0].error, ValueError)
        assert work.calls == {"a": 1, "b": 1}
        result = await executor.resume_async(workflow, failed)
    assert result.result == "A\nB\nC\nD"
    assert work.calls == {"a": 1, "b": 2, "c": 1, "d": 1}


async def test_retry_of_a_loop_or_of_a_sub_flow_repeats_nothing_that_is_finished() -> None:
    first, second = Work(), Work(B=3)
    inner = workflow_of(
        Node.function("first", first), Node.function("second", second), edges="first>second"
    )
    loop = Node.flow(inner, "each", for_each="{{parameters.items}}", concurrency=3, retry=1)
    result = await run(Node.flow(workflow_of(loop), "outer", retry=1), [*"abc"])
    assert result.get_node_output("outer") == ["A", "B", "C"]
    assert first.calls == {"a": 1, "b": 1, "c": 1}
    assert second.calls == {"A": 1, "B": 4, "C": 1}
    assert result.run_state.inner == {}


async def test_loop_that_keeps_errors_has_them_in_their_places() -> None:
    work = Work(b=9, d=9)
    each = Node.function(
        "each", work, for_each="{{parameters.items}}", on_error="keep", retry=1, concurrency=2
    )
    workflow = workflow_of(
        each,
        Node.transform("code", "{{node.each.1.error.code}}"),
        Node.flow(workflow_of(each), "flow"),
        edges="each>code each>flow",
    )
    result = await run(workflow, [*"abcd"])
    assert result.is_success()
    a, b, c, d = result.get_node_output("each")
    assert (a, c) == ("A", "C")
    assert isinstance(b, ItemError)
    assert (b.index, b.code) == (1, "STEP_FAILED")
    assert d.message == "item 3 of step 'each' failed: ValueError: no d"
    assert json.loads(json.dumps(d)) == d
    assert result.failed_items == {"each": [1, 3], "flow/each": [1, 3]}
    assert work.calls["b"] == 4  # two in each loop
    assert result.get_node_output("code") == "STEP_FAILED"


async def test_service_gets_errors_of_items_as_json_and_events_of_each_attempt() -> None:
    answers = {"a": 0, "b": 0}

    def reply(request: Any) -> Any:
        item = request.messages[-1]["content"][-1]
        answers[item] += 1
        return "broken" if item == "b" else "1"

    node = Node.agent(
        "each", "Grade {{item}}", for_each="{{message}}", output="json", retry=1, on_error="keep"
    )
    flow = workflow_of(node).as_flow("acme", "p", "s")
    state = RunState("e", message=["a", "b"])
    events = [e async for e in run_steps(flow, state, models=FakeModels(FakeModel(reply)))]
    inputs = [e.loop_index for e in events if e.type == "step_input"]
    (done,) = [e for e in events if e.type == "step_completed"]
    assert inputs == [0, 1, 1]
    assert done.output[0] == 1
    assert type(done.output[1]) is dict
    assert done.output[1]["error"]["code"] == "OUTPUT_INVALID"
    assert done.output[1]["error"]["message"].startswith("item 1 of step 'each': ")
    assert (done.tokens.total, answers) == (15, {"a": 1, "b": 2})
    assert state.failed_items == {"each": [1]}


async def test_tokens_of_kept_items_are_counted_once() -> None:
    failures = [ValueError("once")]

    def unless_failed(text: str) -> str:
        if '"1"' in text and failures:
            raise failures.pop()
        return text

    inner = workflow_of(
        Node.agent("ask", "{{message}}"), Node.function("check", unless_failed), edges="ask>check"
    )
    workflow = workflow_of(Node.flow(inner, "each", for_each="{{parameters.items}}"))
    executor = Executor()
    with anyio.fail_after(20):
        failed = await executor.run_async(workflow, {"items": ["0", "1"]})
        result = await executor.resume_async(workflow, failed)
    alone = await run(workflow, ["0", "1"])
    assert failed.is_failed()
    assert result.is_success()
    assert alone.tokens == result.tokens == failed.tokens is not None
    assert executor.get_stats()["total_tokens"] == result.tokens.total


def test_on_error_is_checked() -> None:
    with pytest.raises(ValueError, match="on_error must be 'fail' or 'keep', not 'ignore'"):
        Node.agent("each", for_each="{{input}}", on_error="ignore")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="on_error must be a str"):
        Node.transform("each", "trim", on_error=1)  # type: ignore[arg-type]  # wrong on purpose
