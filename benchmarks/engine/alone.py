"""The engine alone: nodes that do next to nothing."""

from __future__ import annotations

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.compared import Compared
from benchmarks.engine.server import serving
from benchmarks.engine.timing import best_of_each
from noukai_sdk.local import Executor, Node, Workflow

COUNT = 100


async def per_node() -> Compared:
    """Milliseconds a node, in a row of a hundred."""

    async def nothing() -> str:
        return ""

    workflow = Workflow("alone")
    for place in range(COUNT):
        workflow.add_node(Node.function(f"n{place}", nothing))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    executor = Executor()

    async def ours() -> None:
        (await executor.run_async(workflow)).raise_for_failure()

    runs = {"ours": ours}
    with serving() as url:
        if langgraph_runs.runs():
            runs["LangGraph"] = langgraph_runs.chain(COUNT, nothing)
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.alone(url, COUNT)
        best = {name: ms / COUNT for name, ms in (await best_of_each(runs, 20)).items()}
    return Compared("engine alone, a node", "ms", best.pop("ours"), limit=0.1, others=best)
