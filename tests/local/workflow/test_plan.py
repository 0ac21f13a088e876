from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local import Node
from noukai_sdk.local.workflow.plan import Names
from tests.support.engine import workflow_of

NAMES = [f"n{place}" for place in range(8)]
needs = st.lists(st.sampled_from([*NAMES, "unknown"]), max_size=3, unique=True)
graphs = st.lists(needs, min_size=1, max_size=len(NAMES))


def ancestors(graph: list[list[str]], place: int) -> set[str]:
    """Walk up until nothing new is found."""
    known = dict(zip(NAMES, graph, strict=False))
    above: set[str] = set()
    while (
        new := {need for name in (NAMES[place], *above) for need in known[name]} & {*known} - above
    ):
        above |= new
    return above


@given(graphs)
def test_is_before_in_any_graph_follows_needs_of_needs(graph: list[list[str]]) -> None:
    nodes = [
        replace(Node.agent(name), needs=tuple(needs))
        for name, needs in zip(NAMES, graph, strict=False)
    ]
    names = Names(nodes)
    for place, node in enumerate(nodes):
        before = {other.id for other in nodes if names.is_before(other, node)}
        assert before == ancestors(graph, place) == set(names.before(node))


def test_runs_alone_if_all_others_come_before_or_after() -> None:
    nodes = [Node.agent(name) for name in ["start", "left", "right", "end"]]
    plan = workflow_of(*nodes, edges="start>left start>right left>end right>end").plan
    assert [plan.runs_alone(node) for node in plan.nodes] == [True, False, False, True]
