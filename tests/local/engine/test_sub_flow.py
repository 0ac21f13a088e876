"""``Node.flow``: a workflow as a node of another one."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow, WorkflowError, WorkflowResult
from tests.local.engine.test_concurrency import Concurrency
from tests.support.engine import GET_WEATHER, workflow_of

pytestmark = pytest.mark.anyio


async def run(workflow: Workflow | Node, inputs: Any = None, **settings: Any) -> WorkflowResult:
    workflow = workflow_of(workflow) if isinstance(workflow, Node) else workflow
    with anyio.fail_after(20):
        return await Executor(**settings).run_async(workflow, inputs)


def shout(parameters: dict[str, Any] | None = None) -> Workflow:
    return workflow_of(
        Node.transform("text", "{{message}}{{parameters.end}}"),
        Node.transform("loud", "uppercase"),
        edges="text>loud",
        parameters={"end": "!"} if parameters is None else parameters,
    )


async def test_sub_flow_gets_input_and_parameters_and_returns_its_result() -> None:
    workflow = workflow_of(
        Node.flow(shout(), "first"),
        Node.flow(shout(), "again", inputs={"end": "{{parameters.mark}}"}),
        Node.flow(workflow_of(Node.flow(shout(), "deep")), "each", for_each="{{parameters.names}}"),
        Node.flow(shout(), "other", inputs={"message": "{{node.first}} you"}),
        edges="first>again first>each first>other",
    )
    result = await run(workflow, {"message": "hi", "mark": "?", "names": ["a", "b"]})
    assert result.outputs == {
        "first": "HI!",
        "again": "HI!?",
        "each": ["A!", "B!"],
        "other": "HI! YOU!",
    }
    assert (await run(Node.flow(shout()), {"message": "hi", "end": "."})).outputs == {"test": "HI."}
    assert """
    subgraph n0["first"]
        n0_0[/"text"/]
        n0_1[/"loud"/]
        n0_0 --> n0_1
    end
""" in workflow.to_mermaid()


async def test_sub_flows_share_max_concurrency() -> None:
    work = Concurrency()
    inner = workflow_of(*(Node.function(f"n{n}", work) for n in range(3)))
    workflow = workflow_of(
        *(Node.flow(workflow_of(Node.flow(inner, "inner")), f"flow {n}") for n in range(50)),
        Node.flow(inner, "loop", for_each="{{parameters.items}}", concurrency=5),
    )
    result = await run(workflow, {"message": "x", "items": [*range(5)]}, max_concurrency=4)
    assert result.is_success()
    assert (work.most, work.calls) == (4, 165)


async def test_sub_flow_that_fails_fails_its_node_with_both_names() -> None:
    calls = []

    async def fail(text: str) -> str:
        calls.append(text)
        if len(calls) < 6:
            raise ValueError("broken")
        return text

    inner = workflow_of(Node.function("inner", fail))
    # The executor's retries are for the nodes of the sub-flow, and do not multiply.
    result = await run(Node.flow(inner, "outer"), "x", retry=1)
    assert [error.node for error in result.errors] == ["outer"]
    assert result.errors[0].code == "STEP_FAILED"
    assert result.errors[0].message == "step 'outer': step 'inner' failed: ValueError: broken"
    assert len(calls) == 2
    assert (await run(Node.flow(inner, "outer", retry=3), "x")).outputs == {"outer": "x"}
    assert len(calls) == 6
    hanging = workflow_of(Node.function("hang", anyio.sleep_forever))
    result = await run(Node.flow(hanging, "outer", timeout=0.05))
    assert result.errors[0].code == "STEP_TIMEOUT"


async def test_loops_over_sub_flows_two_deep_keep_limits_order_and_finished_items() -> None:
    work = Concurrency()
    is_broken = [True]
    worked: list[list[int]] = []

    async def leaf(pair: list[int]) -> list[int]:
        await work(pair)
        worked.append(pair)
        if pair == [1, 1] and is_broken:
            raise ValueError("broken")
        return pair

    inner = workflow_of(
        Node.transform("pair", "{{input}}"), Node.function("leaf", leaf), edges="pair>leaf"
    )
    row = workflow_of(Node.flow(inner, "pairs", for_each="{{input}}", concurrency=3))

    def rows(**settings: Any) -> Workflow:
        return workflow_of(
            Node.function("table", lambda: [[[i, j] for j in range(3)] for i in range(4)]),
            Node.flow(row, "rows", for_each="{{input}}", concurrency=4, **settings),
            edges="table>rows",
        )

    failed = await run(rows(), max_concurrency=2)
    message = (
        "item 1 of step 'rows': item 1 of step 'pairs': step 'leaf' failed: ValueError: broken"
    )
    assert [error.message for error in failed.errors] == [message]
    assert work.most <= 2
    before = len(worked)
    kept = (await run(rows(on_error="keep"), max_concurrency=2)).result
    assert [item for item in kept if item != kept[1]] == [
        [[i, j] for j in range(3)] for i in (0, 2, 3)
    ]
    assert kept[1].message == message
    finished = [pair for pair in worked[:before] if pair != [1, 1]]
    is_broken.clear()
    worked.clear()
    result = await Executor(max_concurrency=2).resume_async(rows(), failed)
    assert result.result == [[[i, j] for j in range(3)] for i in range(4)]
    assert [pair for pair in worked if pair in finished] == []
    events = [event async for event in Executor().execute_streaming(rows())]
    inputs = [event for event in events if event.type == "step_input"]
    assert [event.loop_index for event in inputs[1:]] == [0, 1, 2, 3]  # type: ignore[attr-defined]  # its type is known here


async def test_sub_flow_counts_tokens_and_cost_for_its_node() -> None:
    agents = workflow_of(Node.agent("one"), Node.agent("two"), edges="one>two")
    alone = await run(agents, "cats")
    nested = await run(Node.flow(workflow_of(Node.flow(agents, "inner")), "outer"), "cats")
    assert nested.result == alone.result
    assert nested.tokens == alone.tokens is not None
    assert nested.cost_usd == alone.cost_usd is not None


async def test_sub_flow_that_cannot_run_raises_before_anything_runs() -> None:
    with pytest.raises(WorkflowError, match="no nodes"):
        Node.flow(Workflow("empty"))
    with pytest.raises(TypeError, match="takes a Workflow or a Flow, not str"):
        Node.flow("acme/samples/two-step")  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(TypeError, match="inputs must be a mapping"):
        Node.flow(shout(), inputs=["x"])  # type: ignore[arg-type]  # wrong on purpose
    ran: list[str] = []
    flow = Node.flow(workflow_of(Node.flow(shout({}), "deep")), "outer")
    workflow = workflow_of(Node.function("first", ran.append), flow, edges="first>outer")
    with pytest.raises(FlowExecutionError, match=r"'outer': step 'deep': step 'text': .*end"):
        await run(workflow, "hi")
    with pytest.raises(FlowExecutionError, match="no message"):
        await run(Node.flow(shout()))
    tools = workflow_of(Node.agent("agent", tools=True))
    with pytest.raises(FlowExecutionError, match="a flow with tools"):
        await Executor().run_async(workflow_of(Node.flow(tools, "outer")), "x", tools=[GET_WEATHER])
    assert ran == []


async def test_model_of_flow_is_model_of_its_sub_flows() -> None:
    inner = workflow_of(Node.agent("agent"), Node.agent("own", model="offline"))
    flow = workflow_of(Node.flow(inner, "outer")).as_flow("acme", "p", "s", model="openai:x")
    (node,) = flow.steps
    assert [step.model for step in node.work.plan.nodes] == ["openai:x", "offline"]  # type: ignore[union-attr]  # its type is known here
