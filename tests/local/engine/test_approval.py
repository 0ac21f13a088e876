"""``Node.approval``: the run waits for the decisions of people."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow
from noukai_sdk.local.engine.runner import check_run
from noukai_sdk.local.engine.state import RunState
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio


class Ran(list[str]):
    """Makes function nodes that say that they have run."""

    def node(self, name: str) -> Node:
        def call(value: Any) -> Any:
            self.append(name)
            return f"{value}+{name}"

        return Node.function(name, call)


def publishing(ran: Ran) -> Workflow:
    """A draft that is approved, or not, beside a branch that does not wait."""
    workflow = workflow_of(
        ran.node("Draft"),
        Node.approval("Review", "Publish {{input}}?"),
        ran.node("Publish"),
        ran.node("Log"),
        Node.transform("Reject", "no: {{node.Review.comment}}"),
        ran.node("Side"),
        ran.node("Side 2"),
        edges="Draft>Review Review!Reject Draft>Side Side>Side-2",
    )
    workflow.connect("Review", "Publish")
    workflow.connect("Publish", "Log")
    return workflow


@pytest.mark.parametrize("has_store", [False, True])
async def test_run_waits_while_its_other_branches_go_on_to_their_end(
    tmp_path: Path, has_store: bool
) -> None:
    ran = Ran()
    workflow = publishing(ran)
    path = tmp_path / "runs.db" if has_store else None

    async def resume(run: Any, approvals: Any = None) -> Any:
        target = run.run_id if has_store else run
        return await Executor(store=path).resume_async(workflow, target, approvals=approvals)

    result = await Executor(store=path).run_async(workflow, "cats")
    assert (result.state(), result.is_paused(), result.result) == ("paused", True, None)
    (request,) = result.approvals
    assert (request.node, request.name) == ("Review", "Review")
    assert (request.prompt, request.value) == ("Publish cats+Draft?", "cats+Draft")
    assert ran == ["Draft", "Side", "Side 2"]
    again = await resume(result)
    assert again.approvals == result.approvals
    for approvals, problem in {
        "Typo": "does not wait for a decision on 'Typo'; it waits for 'Review'",
        "Side": "does not wait for a decision on 'Side'",
    }.items():
        with pytest.raises(ValueError, match=problem):
            await resume(result, {approvals: True})
    for decision in ({"approved": 1}, {"comment": "x"}, {"approved": True, "by": "me"}):
        with pytest.raises(ValueError, match="a decision has 'approved'"):
            await resume(result, {"Review": decision})
    with pytest.raises(TypeError, match="must be True, False or a dict, not str"):
        await resume(result, {"Review": "yes"})
    with pytest.raises(TypeError, match="approvals must be a dict"):
        await resume(result, True)
    if has_store:
        assert Executor(store=path).runs()[0].state == "paused"
    decided = await resume(
        result, {"Review": {"approved": True, "comment": "fine", "value": "dogs"}}
    )
    assert decided.is_success()
    assert decided.get_node_output("Review") == {
        "approved": True,
        "comment": "fine",
        "value": "dogs",
    }
    assert decided.get_node_output("Log") == "dogs+Publish+Log"
    assert decided.skipped == ["Reject"]
    assert ran == ["Draft", "Side", "Side 2", "Publish", "Log"]
    with pytest.raises(ValueError, match="it waits for none"):
        await resume(decided, {"Review": True})


async def test_denied_node_skips_what_is_behind_it_and_runs_the_other_branch() -> None:
    ran = Ran()
    workflow = publishing(ran)
    paused = await Executor().run_async(workflow, "cats")
    denied = await Executor().resume_async(
        workflow, paused, approvals={"Review": {"approved": False, "comment": "too short"}}
    )
    assert denied.skipped == ["Publish", "Log"]
    assert denied.get_node_output("Reject") == "no: too short"
    assert denied.get_node_output("Review")["approved"] is False
    assert ran == ["Draft", "Side", "Side 2"]


@pytest.mark.parametrize("has_store", [False, True])
async def test_approvals_wait_at_once_in_sub_flows_and_loops(
    tmp_path: Path, has_store: bool
) -> None:
    ran = Ran()
    inner = workflow_of(
        ran.node("a"), Node.approval("ask", "{{input}}?"), ran.node("b"), edges="a>ask ask>b"
    )
    workflow = workflow_of(
        Node.flow(inner, "each", for_each="{{parameters.items}}", concurrency=2),
        Node.approval("top"),
        ran.node("last"),
        edges="each>last top>last",
    )
    executor = Executor(store=tmp_path / "runs.db" if has_store else None, max_concurrency=1)
    result = await executor.run_async(workflow, {"message": "m", "items": ["x", "y"]})
    asked = {request.node: request.prompt for request in result.approvals}
    assert asked == {"each[0]/ask": "x+a?", "each[1]/ask": "y+a?", "top": "m"}
    result = await executor.resume_async(
        workflow, result, approvals={"each[1]/ask": True, "top": True}
    )
    assert [request.node for request in result.approvals] == ["each[0]/ask"]
    assert ran == ["a", "a", "b"]
    result = await executor.resume_async(workflow, result, approvals={"each[0]/ask": True})
    assert result.get_node_output("each") == ["x+a+b", "y+a+b"]
    assert ran == ["a", "a", "b", "b", "last"]


async def test_failure_beside_a_waiting_node_fails_the_run_which_still_waits(
    tmp_path: Path,
) -> None:
    broken = [ValueError("once")]

    def work(value: str) -> str:
        if broken:
            raise broken.pop()
        return value

    workflow = workflow_of(
        Node.approval("ask"), Node.function("work", work), Node.function("end", lambda: 1)
    )
    executor = Executor(store=tmp_path / "runs.db")
    failed = await executor.run_async(workflow, "x")
    assert failed.state() == "failed"
    result = await executor.resume_async(workflow, failed, approvals={"ask": True})
    assert result.is_success()


async def test_stream_of_a_run_that_waits_ends_with_its_pause() -> None:
    stream = Executor().execute_streaming(publishing(Ran()), "cats")
    events = [event async for event in stream]
    assert (events[-1].type, events[-1].step_id) == ("step_paused", "Review")  # type: ignore[union-attr]  # its type is known here
    assert stream.result is not None
    assert stream.result.is_paused()


def test_service_refuses_a_flow_with_approvals() -> None:
    outer = workflow_of(Node.flow(publishing(Ran()), "inner"))
    for workflow in (outer, publishing(Ran())):
        flow = workflow.as_flow("acme", "p", "s")
        with pytest.raises(FlowExecutionError, match="waits for approvals") as error:
            check_run(flow, RunState("e", message="x"))
        assert (error.value.status_code, error.value.code) == (400, "APPROVALS_NOT_SUPPORTED")
