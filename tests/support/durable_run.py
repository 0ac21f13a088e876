"""A program that starts or resumes a run, and writes each call of its functions to a file.

``python -m tests.support.durable_run FOLDER``. The run waits near its end for the file ``go``. The variable
``LARGEST_FILE`` limits how large files may become, as a full disk does.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio

from noukai_sdk.local import Executor, Node, Workflow
from tests.support.engine import workflow_of

RUN_ID = "the-run"
ITEMS = [f"i{number}" for number in range(12)]
INPUTS = {"items": ITEMS, "message": "x"}


def durable_workflow(folder: Path) -> Workflow:
    """Build a chain, then a loop over functions, then one over sub-flows, then a node that waits."""

    def node(name: str, **settings: Any) -> Node:
        async def call(value: Any) -> Any:
            with (folder / "calls").open("a") as calls:
                calls.write(f"{name} {value if isinstance(value, str) else ''}\n")
            while name == "wait" and not (folder / "go").exists():
                await anyio.sleep(0.01)
            await anyio.sleep(0.003)
            return value

        return Node.function(name, call, **settings)

    inner = workflow_of(*map(node, ["s1", "s2", "s3"]), edges="s1>s2 s2>s3")
    return workflow_of(
        *map(node, ["c1", "c2", "c3"]),
        node("loop", for_each="{{parameters.items}}", concurrency=2),
        Node.flow(inner, "flows", for_each="{{parameters.items}}", concurrency=2),
        node("wait"),
        edges="c1>c2 c2>c3 c3>loop loop>flows flows>wait",
    )


def durable_calls(calls: list[str]) -> set[str]:
    """Return the calls that were finished and durable when the last call was made: those with followers."""
    made = set(calls)
    followers = {"c1 x": "c2 x", "c2 x": "c3 x", "c3 x": "loop i0"}
    followers |= {f"loop {item}": "s1 i0" for item in ITEMS}
    for item in ITEMS:
        followers |= {f"s1 {item}": f"s2 {item}", f"s2 {item}": f"s3 {item}", f"s3 {item}": "wait "}
    return {call for call, follower in followers.items() if call in made and follower in made}


def main(folder: Path) -> None:
    largest = os.environ.get("LARGEST_FILE")
    if largest is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (int(largest), int(largest)))
    executor = Executor(store=folder / "runs.db")
    workflow = durable_workflow(folder)
    if executor.runs():
        result = executor.resume(workflow, RUN_ID)
    else:
        result = executor.execute(workflow, INPUTS, run_id=RUN_ID)
    print(json.dumps([result.state(), [error.code for error in result.errors]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
