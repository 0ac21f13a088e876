"""``Node.route``: one of several branches, by a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio
import pytest

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Executor, Node, Workflow, WorkflowResult
from tests.support.engine import workflow_of

pytestmark = pytest.mark.anyio


async def run(workflow: Workflow, inputs: Any) -> WorkflowResult:
    with anyio.fail_after(20):
        return await Executor().run_async(workflow, inputs)


def desk(by: str | Callable[[Any], Any] = "input", **settings: Any) -> Workflow:
    return workflow_of(
        Node.route("kind", by, ["bug", "billing", 3], **settings),
        Node.transform("fix", "uppercase"),
        Node.transform("pay", "{{input}} paid"),
        Node.transform("either", "lowercase"),
        Node.transform("end", "{{node.kind}}: {{node.fix}}{{node.pay}}"),
        Node.transform("always", "uppercase"),
        edges="kind=bug>fix kind=billing>pay kind=billing,bug>either fix>end pay>end kind>always",
    )


async def test_route_runs_nodes_on_its_branch_and_joins_behind_it() -> None:
    result = await run(desk(), "bug")
    assert result.outputs == {
        "kind": "bug",
        "fix": "BUG",
        "either": "bug",
        "end": "bug: BUG",
        "always": "BUG",
    }
    assert result.skipped == ["pay"]
    # Models write their decisions as text.
    assert (await run(desk(), ' "Billing".')).outputs["kind"] == "billing"
    assert (await run(desk(lambda text: {"kind": len(text)}["kind"]), "abc")).outputs == {
        "kind": 3,
        "always": "ABC",
    }
    assert (await run(desk("message", default="other"), "x")).skipped == [
        *("fix", "pay", "either", "end"),
    ]


async def test_route_without_branch_for_value_fails_with_value_and_branches() -> None:
    result = await run(desk(), "refund")
    (error,) = result.errors
    assert isinstance(error.error, FlowExecutionError)
    assert (error.node, error.code) == ("kind", "NO_BRANCH")
    branches = "'bug', 'billing', 3"
    assert error.message == (
        f"step 'kind': the value 'refund' is not one of the branches {branches}"
    )
    (error,) = (await run(desk(lambda _: {"a": 1}), "x")).errors
    assert error.code == "NO_BRANCH"


async def test_route_that_is_skipped_skips_nodes_behind_it() -> None:
    workflow = workflow_of(
        Node.condition("long", "len(input) > 3"),
        Node.route("which", lambda text: text[0], ["a", "b"]),
        Node.transform("a", "uppercase"),
        Node.transform("join", "lowercase"),
        edges="long>which which=a>a a>join long!join",
    )
    # The join is on the branch "no" of the condition, which was not taken: that decides.
    assert (await run(workflow, "abcd")).outputs == {"long": True, "which": "a", "a": "ABCD"}
    assert (await run(workflow, "ABC")).outputs == {"long": False, "join": "abc"}


def test_route_problems_name_unknown_branches() -> None:
    workflow = desk()
    workflow.connect("kind", "end", when="refund")
    workflow.connect("fix", "always", when="bug")
    workflow.add_node(Node.route("other", "input +", ["a"]))
    workflow.connect("kind", "other", when=[])
    assert [str(problem) for problem in workflow.problems()] == [
        "node 'end': needs: 'kind' has no branch 'refund'; there are 'bug', 'billing', 3",
        "node 'always': needs: 'fix' does not decide: it has no branches",
        "node 'other': needs: it is on no branch of 'kind', and can never run",
        "node 'other': route: not a valid expression: 'input +'",
    ]
    assert 'n0 -->|"billing or bug"| n3' in workflow.to_mermaid()
    wrong: list[tuple[Any, Any, str]] = [
        (3, ["a"], "by must be a str, not int"),
        ("input", "ab", "branches must be a list of values, not str"),
        ("input", [{}], "a branch must be a str, a number, True or False, not dict"),
        ("input", [], "at least one branch"),
        ("input", ["A", "a."], "two branches read 'a'"),
    ]
    for by, branches, message in wrong:
        with pytest.raises((TypeError, ValueError), match=message):
            Node.route("kind", by, branches)
