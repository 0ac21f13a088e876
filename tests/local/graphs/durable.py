"""A process that runs random graphs with a store, until it is killed: SEEDS FOLDER.

It goes on with the runs of the process before it, and writes each result to a file of its own.
"""

from __future__ import annotations

import asyncio
import faulthandler
import json
import sys
from pathlib import Path
from typing import Any

from noukai_sdk.errors import RunNotFoundError
from noukai_sdk.local import Executor

from .building import World, workflow_of
from .graph import Case, case_of, tool_results


async def main(seeds: list[int], folder: Path) -> None:
    cases = [case_of(seed).mended() for seed in seeds if not (folder / f"{seed}.json").exists()]
    executors = [
        Executor(store=folder / "runs.db", retry=case.retry, max_concurrency=most)
        for case, most in zip(cases, [None, 1, 3] * len(cases), strict=False)
    ]
    await asyncio.gather(*(run(*pair, folder) for pair in zip(cases, executors, strict=True)))


async def run(case: Case, executor: Executor, folder: Path) -> None:
    workflow = workflow_of(case, World(folder / f"{case.seed}.calls", slowness=8))
    run_id = f"run {case.seed}"
    try:
        result = await executor.resume_async(workflow, run_id, tool_handler=tool_results)
    except RunNotFoundError:
        result = await executor.run_async(
            workflow, case.inputs, tools=case.tools, tool_handler=tool_results, run_id=run_id
        )
    values: dict[str, Any] = {
        "outputs": dict(result.outputs),
        "skipped": list(result.skipped),
        "result": result.result,
        "errors": [error.code for error in result.errors],
        "tokens": result.tokens.total if result.tokens else 0,
    }
    written = folder / f"{case.seed}.part"
    written.write_text(json.dumps(values))
    written.rename(folder / f"{case.seed}.json")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(60, exit=True)
    asyncio.run(main([int(seed) for seed in sys.argv[1].split(",")], Path(sys.argv[2])))
