"""A batch of prompts on one client."""

from __future__ import annotations

from benchmarks.engine import graphbit_runs
from benchmarks.engine.compared import Compared
from benchmarks.engine.timing import best_of_each
from noukai_sdk.local import LlmClient, LlmConfig

COUNT = 100
LATENCY = 50


async def batch(url: str) -> Compared:
    """A hundred at once, measured against one."""
    async with LlmClient(LlmConfig.openai_compatible(f"{url}/v1", f"lat-{LATENCY}")) as client:

        async def one() -> None:
            await client.complete_async("Prompt")

        async def all_at_once() -> None:
            answers = await client.complete_batch(["Prompt"] * COUNT, max_concurrency=COUNT)
            assert all(isinstance(answer, str) for answer in answers)

        runs = {"one": one, "ours": all_at_once}
        if graphbit_runs.runs():
            runs["GraphBit"] = graphbit_runs.batch(url, COUNT, LATENCY)
        best = await best_of_each(runs, 10)
    one_ms, ours = best.pop("one"), best.pop("ours")
    name = f"batch of {COUNT}, all at once"
    return Compared(name, "ms", ours, limit=1.4, base=one_ms, note="one call", others=best)
