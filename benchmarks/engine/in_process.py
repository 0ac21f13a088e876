"""The engine without HTTP: time per node, and growth with the size of a workflow and with runs."""

from __future__ import annotations

import gc
import tracemalloc
from time import process_time

from benchmarks.engine import graphbit_runs, langgraph_runs
from benchmarks.engine.comparison import Comparison, Run, best_of_each
from noukai_sdk.local import Executor, Node, Workflow
from noukai_sdk.local.workflow import templates

SMALL, LARGE = 5_000, 10_000
RUNS = 1_000
NODES = 100


async def per_node(url: str) -> Comparison:
    """Measure the milliseconds per node of a hundred empty nodes in a row."""

    async def nothing() -> str:
        return ""

    workflow = Workflow("alone")
    for place in range(NODES):
        workflow.add_node(Node.function(f"n{place}", nothing))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    runs = {"ours": _run_of(Executor(), workflow)}
    if langgraph_runs.runs():
        runs["LangGraph"] = langgraph_runs.chain(NODES, nothing)
    if graphbit_runs.runs():
        runs["GraphBit"] = graphbit_runs.alone(url, NODES)
    best = {name: ms / NODES for name, ms in (await best_of_each(runs, 20)).items()}
    return Comparison("the engine alone, a node", "ms", best.pop("ours"), 0.1, others=best)


def _chain(count: int, refer_to_first: bool = False) -> Workflow:
    workflow = Workflow("large")
    for place in range(count):
        target = 0 if refer_to_first else place - 1
        prompt = f"{{{{node.n{target}}}}}" if place else "Start"
        workflow.add_node(Node.agent(f"n{place}", prompt))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    return workflow


def _validating(workflow: Workflow) -> Run:
    async def validate() -> None:
        # Each workflow is parsed again, in both cases.
        templates._parse_cached.cache_clear()
        workflow._plan = None
        workflow.validate()

    return validate


def _run_of(executor: Executor, workflow: Workflow) -> Run:
    async def run() -> None:
        (await executor.run_async(workflow)).raise_for_failure()

    return run


async def growth() -> list[Comparison]:
    """Measure twice the nodes against twice the time; quadratic growth would be 2 times."""
    executor = Executor()
    small, large = _chain(SMALL), _chain(LARGE)
    far_small, far_large = (_chain(count, refer_to_first=True) for count in (SMALL, LARGE))
    # The garbage collector must not scan the leftovers of other measurements again and again.
    gc.collect()
    gc.freeze()
    rows = [
        await _growth("validating", _validating(small), _validating(large), 15),
        await _growth(
            "validating, far references,", _validating(far_small), _validating(far_large), 15
        ),
        await _growth("running", _run_of(executor, small), _run_of(executor, large), 3),
    ]
    gc.unfreeze()
    return rows


async def _growth(name: str, small: Run, large: Run, rounds: int) -> Comparison:
    best = await best_of_each({"small": small, "large": large}, rounds, process_time)
    base = best["small"] * LARGE / SMALL
    note = f"{LARGE // SMALL} x {SMALL} nodes"
    return Comparison(f"{name} {LARGE} nodes", "ms", best["large"], limit=1.5, base=base, note=note)


async def memory() -> Comparison:
    """Measure the bytes that a run leaves behind, over a thousand runs with warm caches."""

    async def run() -> None:
        # Each run has its own workflow and executor: nothing may keep them.
        executor = Executor()
        workflow = _chain(10)
        workflow.add_node(Node.function("end", lambda text: {"text": text}))
        workflow.connect("n9", "end")
        (await executor.run_async(workflow, {"message": "x"})).raise_for_failure()

    for _ in range(50):
        await run()
    gc.collect()
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(RUNS):
        await run()
    gc.collect()
    left = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    return Comparison(f"memory left by a run, of {RUNS}", "bytes", left / RUNS, limit=100)
