"""The same workflows in LangGraph, if it is installed."""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from itertools import pairwise
from typing import Annotated, Any, TypedDict

from benchmarks.engine.comparison import Run

Work = Callable[[], Awaitable[str]]


def runs() -> bool:
    """Return whether LangGraph is installed."""
    return find_spec("langgraph") is not None


class State(TypedDict, total=False):
    """The state that LangGraph passes from node to node."""

    done: Annotated[list[str], operator.add]


def _compiled(edges: list[tuple[Any, Any]], names: list[str], work: Work) -> Any:
    from langgraph.graph import END, START, StateGraph

    async def node(state: State) -> State:
        await work()
        return {}

    graph = StateGraph(State)
    for name in names:
        graph.add_node(name, node)
    for one, other in [(START, names[0]), *edges, (names[-1], END)]:
        graph.add_edge(one, other)
    return graph.compile()


def chain(count: int, work: Work) -> Run:
    """Return a run of nodes in a row."""
    names = [f"n{place}" for place in range(count)]
    graph = _compiled(list(pairwise(names)), names, work)

    async def run() -> None:
        await graph.ainvoke({}, {"recursion_limit": count + 10})

    return run


def fan_out(width: int, work: Work) -> Run:
    """Return a run of one node, then many, then one."""
    middle = [f"m{place}" for place in range(width)]
    edges = [*(("first", name) for name in middle), (middle, "last")]
    graph = _compiled(edges, ["first", *middle, "last"], work)

    async def run() -> None:
        await graph.ainvoke({})

    return run
