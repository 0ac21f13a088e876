"""Which nodes come before which, in any graph."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from noukai_sdk.local import Node
from noukai_sdk.local.workflow.plan import Names

NAMES = [f"n{place}" for place in range(8)]
needs = st.lists(st.sampled_from([*NAMES, "unknown"]), max_size=3, unique=True)
graphs = st.lists(needs, min_size=1, max_size=len(NAMES))


def agents(graph: list[list[str]]) -> list[Node]:
    return [
        replace(Node.agent(name), needs=tuple(needs))
        for name, needs in zip(NAMES, graph, strict=False)
    ]


def ancestors(graph: list[list[str]], place: int) -> set[str]:
    """By walking up until nothing new is found."""
    known = dict(zip(NAMES, graph, strict=False))
    found: set[str] = set()
    while (
        new := {need for name in (NAMES[place], *found) for need in known[name]} & {*known} - found
    ):
        found |= new
    return found


@given(graphs)
def test_a_node_is_before_those_that_need_it_also_by_others(graph: list[list[str]]) -> None:
    nodes = agents(graph)
    names = Names(nodes)
    for place, node in enumerate(nodes):
        before = {other.id for other in nodes if names.is_before(other, node)}
        assert before == ancestors(graph, place) == set(names.before(node))
