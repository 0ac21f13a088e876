"""Random graphs as workflows of the engine, with functions that count their calls."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio

from noukai_sdk.local import Node, Workflow

from .graph import WEATHER, Case, Graph, Step, made


class FlakyError(Exception):
    """A failure that is retried at once."""

    retry_after = 0


class World:
    """What the functions of one run have done, over all its processes.

    Args:
        file: Where to keep the calls, for runs that are killed; None to keep them in memory.

    Attributes:
        calls: How often each function was called, by where it stands.
        running: How many functions run at the moment.
        most: How many have run at once.
    """

    def __init__(self, file: Path | None = None) -> None:
        self.calls: Counter[str] = Counter()
        self.running = self.most = 0
        self._lock = threading.Lock()
        self._file = None
        if file is not None:
            self._file = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            self.calls.update(file.read_text().splitlines())

    def start(self, where: str) -> int:
        """Count a call, and return how many there have been of this function."""
        with self._lock:
            self.calls[where] += 1
            self.running += 1
            self.most = max(self.most, self.running)
            if self._file is not None:
                os.write(self._file, f"{where}\n".encode())
            return self.calls[where]

    def end(self) -> None:
        with self._lock:
            self.running -= 1

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)


def workflow_of(case: Case, world: World) -> Workflow:
    """Return the case's workflow. Its nodes and connections are added in a random order.

    The nodes of a sub-flow are added in the graph's, which is the order of the outputs in its result.
    """
    rng = random.Random(case.seed)
    steps = rng.sample(case.graph.steps, len(case.graph.steps))
    return _workflow_of(case.graph, steps, world, rng)


def _workflow_of(graph: Graph, steps: Sequence[Step], world: World, rng: random.Random) -> Workflow:
    workflow = Workflow(graph.name, parameters={"tone": graph.name})
    for step in steps:
        workflow.add_node(_node_of(step, world, rng))
    for step in rng.sample(graph.steps, len(graph.steps)):
        for parent, when in step.needs:
            workflow.connect(rng.choice([parent, f"The {parent}"]), step.id, when=when)
    return workflow


def _node_of(step: Step, world: World, rng: random.Random) -> Node:
    name = f"The {step.id}"
    read = step.reads and f"{{{{node.{rng.choice(['', 'The '])}{step.reads}}}}}"
    loop: dict[str, Any] = {}
    if step.over is not None:
        over = "{{parameters.items}}" if step.over == "items" else f"{{{{node.{step.over}}}}}"
        loop["for_each"] = over
        if step.over != "items" and len(step.needs) == 1 and rng.random() < 0.5:
            loop["for_each"] = "{{input}}"
    if step.kind == "transform":
        return Node.transform(name, step.does, node_id=step.id, **loop)
    if step.kind == "condition":
        return Node.condition(name, _test_of(step, world), node_id=step.id)
    if step.kind == "tools":
        return Node.agent(name, f"{WEATHER} {{{{input}}}}", step.id, True)
    loop["concurrency"] = step.concurrency
    if step.kind == "agent":
        return Node.agent(name, "Say {{input}}", step.id, **loop)
    where = "{{parameters.where}}/" + step.id + (".{{index}}" if step.over else "")
    if step.kind == "flow":
        assert step.inner is not None
        inner = _workflow_of(step.inner, step.inner.steps, world, rng)
        inputs = {"where": where} if read is None else {"where": where, "message": read}
        retry = step.retry or 0
        return Node.flow(inner, name, inputs=inputs, node_id=step.id, retry=retry, **loop)
    arguments = {
        "where": where,
        "value": "{{input}}",
        "tone": "{{parameters.tone}}",
        "read": read,
        "index": "{{index}}" if step.over else None,
    }
    call = _function_of(step, world)
    return Node.function(name, call, arguments=arguments, node_id=step.id, retry=step.retry, **loop)


def _function_of(step: Step, world: World) -> Any:
    def work(attempt: int, arguments: dict[str, Any]) -> Any:
        fails = step.fails if arguments["index"] in (None, step.fails_at) else 0
        if attempt <= fails:
            raise FlakyError(f"attempt {attempt} of {step.id}")
        return made(step.does, arguments["value"], arguments["read"], arguments["tone"])

    async def call_async(**arguments: Any) -> Any:
        attempt = world.start(arguments["where"])
        try:
            if step.wait_ms:
                await anyio.sleep(step.wait_ms / 1000)
            return work(attempt, arguments)
        finally:
            world.end()

    def call(**arguments: Any) -> Any:
        attempt = world.start(arguments["where"])
        try:
            time.sleep(step.wait_ms / 1000)
            return work(attempt, arguments)
        finally:
            world.end()

    return call_async if step.is_async else call


def _test_of(step: Step, world: World) -> Any:
    def test(value: Any) -> Any:
        world.start(step.id)
        world.end()
        return made("word", value)

    async def test_async(value: Any) -> Any:
        return test(value)

    match step.does:
        case "function":
            return test_async if step.is_async else test
        case "truth":
            return "{{input}}"
        case "length":
            return "len(str(input)) % 2 == 0"
    read = f'node["{step.reads}"]' if step.reads else "null"
    return f"len(str(input)) <= len(str({read}))"
