"""What grows with the size of a workflow, and with the number of runs."""

from __future__ import annotations

import gc
import tracemalloc
from time import process_time

from benchmarks.engine.compared import Compared
from benchmarks.engine.timing import Run, best_of_each
from noukai_sdk.local import Executor, Node, Workflow
from noukai_sdk.local.workflow import templates

SMALL, LARGE = 5_000, 10_000
RUNS = 1_000


def _chain(count: int, refers_to: str = "the one before") -> Workflow:
    workflow = Workflow("large")
    for place in range(count):
        named = 0 if refers_to == "the first" else place - 1
        prompt = f"{{{{node.n{named}}}}}" if place else "Start"
        workflow.add_node(Node.agent(f"n{place}", prompt))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")
    return workflow


def _validating(workflow: Workflow) -> Run:
    async def validate() -> None:
        # Each node is read anew, in both.
        templates.parse.cache_clear()
        workflow._plan = None
        workflow.validate()

    return validate


def _running(executor: Executor, workflow: Workflow) -> Run:
    async def run() -> None:
        (await executor.run_async(workflow)).raise_for_failure()

    return run


async def growth() -> list[Compared]:
    """Twice the nodes, measured against twice the time (the square of it would be 2 times)."""
    executor = Executor()
    small, large = _chain(SMALL), _chain(LARGE)
    far_small, far_large = (_chain(count, "the first") for count in (SMALL, LARGE))
    # What other measurements have left behind is not looked through again and again.
    gc.collect()
    gc.freeze()
    rows = [
        await _growth("validating", _validating(small), _validating(large), 15),
        await _growth(
            "validating, far references,", _validating(far_small), _validating(far_large), 15
        ),
        await _growth("running", _running(executor, small), _running(executor, large), 3),
    ]
    gc.unfreeze()
    return rows


async def _growth(what: str, small: Run, large: Run, rounds: int) -> Compared:
    best = await best_of_each({"small": small, "large": large}, rounds, process_time)
    base = best["small"] * LARGE / SMALL
    note = f"{LARGE // SMALL} x {SMALL} nodes"
    return Compared(f"{what} {LARGE} nodes", "ms", best["large"], limit=1.5, base=base, note=note)


async def memory() -> Compared:
    """Bytes that a run leaves behind, over a thousand runs with all caches warm."""

    async def run() -> None:
        # A workflow and an executor of its own each: nothing may keep them.
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
    return Compared(f"memory left by a run, of {RUNS}", "bytes", left / RUNS, limit=100)
