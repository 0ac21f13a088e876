"""What it takes to go on with a run that is kept in a store."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.engine.comparison import Comparison
from benchmarks.measure import PROCESSOR
from noukai_sdk.local import Executor, Node, Workflow

NODES, DONE = 1_000, 900
ROUNDS = 5


async def resume() -> Comparison:
    """Measure the processor time of a run of 1,000 nodes that goes on at 900, against the whole run."""
    is_broken = False

    async def work() -> str:
        if is_broken:
            raise ValueError("broken")
        return "done"

    async def nothing() -> str:
        return "done"

    workflow = Workflow("long")
    for place in range(NODES):
        workflow.add_node(Node.function(f"n{place}", work if place == DONE else nothing))
        if place:
            workflow.connect(f"n{place - 1}", f"n{place}")

    whole = rest = float("inf")
    with tempfile.TemporaryDirectory() as folder:
        executor = Executor(store=Path(folder) / "runs.db")
        for _ in range(ROUNDS):
            start = PROCESSOR()
            (await executor.run_async(workflow)).raise_for_failure()
            whole = min(whole, PROCESSOR() - start)
            is_broken = True
            stopped = await executor.run_async(workflow)
            assert len(stopped.outputs) == DONE
            is_broken = False
            start = PROCESSOR()
            result = await executor.resume_async(workflow, stopped.run_id)
            rest = min(rest, PROCESSOR() - start)
            assert len(result.outputs) == NODES
        await executor.aclose()
    return Comparison(
        f"resuming a run of {NODES} nodes at {DONE}",
        "ms",
        rest * 1000,
        limit=0.2,
        base=whole * 1000,
        note="the whole run",
    )
