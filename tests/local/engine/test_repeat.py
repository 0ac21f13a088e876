"""``Node.repeat``: a node or workflow on its own output, until that is enough."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow, WorkflowResult
from noukai_sdk.local.engine.state import RunState
from noukai_sdk.models.events import StepInput
from tests.support.engine import FakeModel, FakeModels, run_steps, workflow_of

pytestmark = pytest.mark.anyio


async def run(workflow: Workflow | Node, inputs: Any = None, **settings: Any) -> WorkflowResult:
    workflow = workflow_of(workflow) if isinstance(workflow, Node) else workflow
    with anyio.fail_after(20):
        return await Executor(**settings).run_async(workflow, inputs)


ADD = Node.transform("add", "{{input}}{{parameters.mark}}{{parameters.round}}")


async def test_repeat_runs_node_or_workflow_on_its_output_until_it_is_enough() -> None:
    workflow = workflow_of(
        Node.repeat(ADD, "node", until="len(output) > 4", at_most=9),
        Node.repeat(
            workflow_of(ADD, Node.transform("lower", "lowercase"), edges="add>lower"),
            "workflow",
            until=lambda text: text.endswith("2"),
            at_most=9,
            inputs={"mark": "{{node.node}}", "message": "x"},
        ),
        Node.repeat(
            ADD,
            "each",
            until="round == 2 and item in input",
            at_most=2,
            for_each="{{parameters.l}}",
        ),
        edges="node>workflow node>each",
    )
    result = await run(workflow, {"message": "M", "mark": "+", "l": ["p", "q"]})
    assert result.outputs == {
        "node": "M+1+2",
        "workflow": "xm+1+21m+1+22",
        "each": ["p+1+2", "q+1+2"],
    }


async def test_repeat_at_its_limit_fails_or_keeps_last_output() -> None:
    never: dict[str, Any] = {"until": "round > 3", "at_most": 3}
    (error,) = (await run(Node.repeat(ADD, **never), {"message": "", "mark": "."}, retry=5)).errors
    assert isinstance(error.error, FlowExecutionError)
    assert (error.node, error.code) == ("add", "REPEAT_LIMIT")
    assert error.message == "step 'add': `until` is not true after 3 rounds"
    kept = Node.repeat(ADD, on_limit="keep", **never)
    assert (await run(kept, {"message": "", "mark": "."})).result == ".1.2.3"


async def test_repeat_keeps_finished_rounds_over_retry_and_resume() -> None:
    calls: list[str] = []
    is_down = [True]

    def grow(text: str) -> str:
        calls.append(text)
        if len(text) == 2 and is_down[0]:
            raise ConnectionError("down")
        return text + "x"

    def node(**settings: Any) -> Workflow:
        body = workflow_of(Node.function("grow", grow), Node.transform("same", "{{input}}"))
        body.connect("grow", "same")
        return workflow_of(Node.repeat(body, "rounds", until="round == 4", at_most=4, **settings))

    result = await run(node(retry=1), "")
    assert [error.message for error in result.errors] == [
        "step 'rounds': step 'grow' failed: ConnectionError: down"
    ]
    assert calls == ["", "x", "xx", "xx"]
    is_down.clear()
    is_down.append(False)
    resumed = await Executor().resume_async(node(retry=1), result)
    assert (resumed.result, calls) == ("xxxx", ["", "x", "xx", "xx", "xx", "xxx"])
    assert resumed.run_state.inner == {}


async def test_run_stopped_at_any_event_repeats_no_finished_round() -> None:
    calls: list[str] = []

    def grow(text: str) -> str:
        calls.append(text)
        return text + "x"

    body = workflow_of(
        Node.function("grow", grow), Node.transform("same", "{{input}}"), edges="grow>same"
    )
    workflow = workflow_of(
        Node.route("kind", "input", ["a", "b"]),
        Node.repeat(body, "three", until="round == 3", at_most=3),
        Node.transform("skipped", "uppercase"),
        Node.repeat(body, "each", until="round == 2", at_most=2, for_each="{{parameters.items}}"),
        edges="kind=a>three kind=b>skipped three>each skipped>each",
    )
    flow = workflow.as_flow("acme", "p", "s")
    for stop in range(1, 16):
        calls.clear()
        state = RunState("e", message="a", parameters={"items": ["p", "q"]})
        events = run_steps(flow, state, models=FakeModels(FakeModel()))
        seen = [await anext(events) for _ in range(stop)]
        await events.aclose()
        stored = RunState.stored(json.loads(json.dumps(vars(state))))
        rest = [e async for e in run_steps(flow, stored, models=FakeModels(FakeModel()))]
        assert rest[-1].result == ["pxx", "qxx"], seen  # type: ignore[attr-defined]  # its type is known here
        # The round that was under way may have been finished, without anybody knowing it.
        assert len(calls) in (7, 8), (stop, calls)


async def test_repeat_emits_rounds_as_items_and_sums_tokens() -> None:
    workflow = workflow_of(Node.repeat(Node.agent("ask"), until="round == 3", at_most=3))
    models = FakeModels(FakeModel())
    flow = workflow.as_flow("acme", "p", "s")
    events = [e async for e in run_steps(flow, RunState("e", message="m"), models=models)]
    inputs = [event for event in events if isinstance(event, StepInput)]
    assert [(event.loop_index, event.input_data["round"]) for event in inputs] == [  # type: ignore[attr-defined]  # its type is known here
        (0, 1),
        (1, 2),
        (2, 3),
    ]
    completed = next(event for event in events if event.type == "step_completed")
    assert completed.output == "<<<m>>>"  # type: ignore[attr-defined]  # its type is known here
    assert completed.tokens.total == 15  # type: ignore[attr-defined]  # its type is known here


async def test_repeat_works_within_limits_of_run() -> None:
    async def work(_: object) -> int:
        await anyio.lowlevel.checkpoint()
        return 1

    nested = Node.repeat(
        Node.repeat(Node.function("work", work), "inner", until="round == 2", at_most=2),
        until="round == 2",
        at_most=2,
        for_each="{{parameters.items}}",
        concurrency=4,
    )
    result = await run(nested, {"items": [*range(6)]}, max_concurrency=1)
    assert result.result == [1] * 6
    hanging = Node.repeat(
        Node.function("h", anyio.sleep_forever), until="0", at_most=2, timeout=0.05
    )
    assert (await run(hanging, "x")).errors[0].code == "STEP_TIMEOUT"


def test_repeat_is_drawn_as_a_box_with_an_arrow_back() -> None:
    body = workflow_of(Node.agent("a"), Node.agent("b"), edges="a>b")
    node = Node.repeat(body, "Both", until="output > 1", at_most=3, for_each="{{message}}")
    assert workflow_of(node).to_mermaid().splitlines() == [
        "flowchart TD",
        '    subgraph n0["Both (each)"]',
        '        n0_0["a"]',
        '        n0_1["b"]',
        "        n0_0 --> n0_1",
        '        n0_1 -->|"until output #62; 1, at most 3"| n0_0',
        "    end",
    ]


def test_repeat_problems_are_found_early() -> None:
    bad = workflow_of(
        Node.repeat(ADD, until="outptu == 1", at_most=1),
        Node.agent("agent", "{{round}}"),
        Node.repeat(ADD, "two", until=lambda a, b: a > b, at_most=1),  # type: ignore[misc, arg-type]  # wrong on purpose
    )
    first, second, third = map(str, bad.problems())
    assert third == "node 'two': until: the function needs more than one argument"
    assert first.startswith(
        "node 'add': until: {{outptu}} does not start with one of message, input"
    )
    assert second == (
        "node 'agent': prompt: {{round}} has a value only in the `until` of a node that repeats"
    )
    wrong: list[tuple[Any, dict[str, Any], str]] = [
        (ADD, {"until": "1", "at_most": 0}, "at_most must be 1 or more"),
        (ADD, {"until": None, "at_most": 1}, "until is required, and must not"),
        (ADD, {"until": "1", "at_most": None}, "at_most is required"),
        (ADD, {"until": 1, "at_most": 1}, "until must be a str, not int"),
        (
            ADD,
            {"until": "1", "at_most": 1, "on_limit": "stop"},
            "on_limit must be 'fail' or 'keep'",
        ),
        (
            "x",
            {"until": "1", "at_most": 1},
            "Node.repeat takes a Node, a Workflow or a Flow, not str",
        ),
    ]
    for body, settings, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            Node.repeat(body, **settings)
