"""Random graphs as workflows of the engine, with functions that count their calls."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from noukai_sdk.errors import FlowExecutionError
from noukai_sdk.local import Node, Workflow

from .graph import BRANCHES, WEATHER, Case, Graph, Step, made


class FlakyError(Exception):
    """A failure that is retried at once."""

    retry_after = 0


class OddError(BaseException):
    """An error that is not an Exception."""


RUDE: list[type[BaseException]] = [
    SystemExit,
    KeyboardInterrupt,
    OddError,
    asyncio.CancelledError,
    StopIteration,
]


class StopError(FlowExecutionError):
    """A failure that is not retried: the run stops, and can be resumed."""


class World:
    """What the functions of one run have done, over all its processes.

    Args:
        file: Where to keep the calls, for runs that are killed; None to keep them in memory.
        stops: Whether the first call of each function stops the run.
        is_rude: Whether functions fail with errors that are not an Exception.
        slowness: How many times longer each function takes.

    Attributes:
        calls: How often each function was called, by where it stands.
        done: How often each function has returned.
        running: How many functions run at the moment.
        is_interrupted: Whether functions may be interrupted, and called again.
    """

    def __init__(
        self,
        file: Path | None = None,
        *,
        stops: bool = False,
        is_rude: bool = False,
        slowness: int = 1,
    ) -> None:
        self.calls: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.running = 0
        self._stops = stops
        self.is_interrupted = stops or is_rude
        self._is_rude = is_rude
        self.slowness = slowness
        self._stopped: set[str] = set()
        self._lock = threading.Lock()
        self._file = None
        if file is not None:
            self._file = os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT)
            for line in file.read_text().splitlines():
                counter = self.calls if line[0] == "+" else self.done
                counter[line[1:]] += 1

    def start(self, where: str) -> int:
        """Count a call, and return how many there have been of this function."""
        with self._lock:
            if self._stops and where not in self._stopped:
                self._stopped.add(where)
                raise StopError(f"stopped at {where}", code="STOPPED")
            self.running += 1
            self.calls[where] += 1
            self._write(f"+{where}\n")
            return self.calls[where]

    def end(self, where: str, *, is_done: bool) -> None:
        """Count the end of a call."""
        with self._lock:
            self.running -= 1
            if is_done:
                self.done[where] += 1
                self._write(f"-{where}\n")

    def failure(self, step: Step, attempt: int) -> BaseException:
        """Return the error of a failed call."""
        kinds = RUDE if self._is_rude else [FlakyError]
        return kinds[attempt % len(kinds)](f"{step.id} is broken")

    def _write(self, line: str) -> None:
        if self._file is not None:
            os.write(self._file, line.encode())


def workflow_of(case: Case, world: World) -> Workflow:
    """Return the case's workflow. Its nodes and connections are added in a random order.

    The nodes of a sub-flow are added in the graph's, which is the order of the outputs in its result.
    """
    rng = random.Random(case.seed)
    steps = rng.sample(case.graph.steps, len(case.graph.steps))
    return _Builder(world, rng).workflow(case.graph, steps)


class _Builder:
    def __init__(self, world: World, rng: random.Random) -> None:
        self._world = world
        self._rng = rng

    def workflow(self, graph: Graph, steps: Sequence[Step]) -> Workflow:
        workflow = Workflow(graph.name, parameters={"tone": graph.name})
        for step in steps:
            workflow.add_node(self._node(step))
        for step in self._rng.sample(graph.steps, len(graph.steps)):
            for parent, branches in step.needs:
                source = self._rng.choice([parent, f"The {parent}"])
                workflow.connect(source, step.id, when=branches)
        return workflow

    def _node(self, step: Step) -> Node:
        name, world = f"The {step.id}", self._world
        read = step.reads and f"{{{{node.{self._rng.choice(['', 'The '])}{step.reads}}}}}"
        where = f"{{{{parameters.where}}}}@{{{{parameters.round}}}}/{step.id}"
        loop: dict[str, Any] = {}
        if step.over is not None:
            where += ".{{index}}"
            loop["on_error"] = "keep" if step.keeps_errors else "fail"
            loop["concurrency"] = step.concurrency
            loop["for_each"] = self._list_of(step)
        inputs = {"where": where} if read is None else {"where": where, "message": read}
        sub_flow = {"inputs": inputs, "node_id": step.id, "retry": step.retry or 0, **loop}
        inner = step.inner and self.workflow(step.inner, step.inner.steps)
        match step.kind:
            case "transform":
                over = loop.get("for_each")
                return Node.transform(name, step.does, node_id=step.id, for_each=over)
            case "condition":
                return Node.condition(name, _test_of(step, world), node_id=step.id)
            case "route":
                by: Any = _test_of(step, world)
                by = "len(str(input)) % 4" if step.does == "length" else by
                default = "else" if step.has_default else None
                return Node.route(name, by, BRANCHES[step.does], default=default, node_id=step.id)
            case "agent":
                return Node.agent(name, "Say {{input}}", step.id, **loop)
            case "tools":
                return Node.agent(name, f"{WEATHER} {{{{input}}}}", step.id, True)
            case "flow":
                assert inner is not None
                return Node.flow(inner, name, **sub_flow)
            case "repeat":
                assert inner is not None
                until = (
                    step.does if step.does != "function" else lambda output: made("word", output)
                )
                on_limit: Any = "keep" if step.has_default else "fail"
                rounds = {"until": until, "at_most": step.at_most, "on_limit": on_limit}
                return Node.repeat(inner, name, **rounds, **sub_flow)
        arguments = {
            "where": where,
            "value": "{{input}}",
            "tone": "{{parameters.tone}}",
            "read": read,
            "index": "{{index}}" if step.over else None,
        }
        call, retry = _function_of(step, world), step.retry
        return Node.function(name, call, arguments=arguments, node_id=step.id, retry=retry, **loop)

    def _list_of(self, step: Step) -> str:
        if step.over == "items":
            return "{{parameters.items}}"
        has_one_parent = len(step.needs) == 1
        return (
            "{{input}}"
            if has_one_parent and self._rng.random() < 0.5
            else f"{{{{node.{step.over}}}}}"
        )


def _function_of(step: Step, world: World) -> Callable[..., Any]:
    def work(attempt: int, arguments: dict[str, Any]) -> Any:
        fails = step.fails if arguments["index"] in (None, step.fails_at) else 0
        if attempt <= fails:
            raise world.failure(step, attempt)
        return made(step.does, arguments["value"], arguments["read"], arguments["tone"])

    async def call_async(**arguments: Any) -> Any:
        attempt, is_done = world.start(arguments["where"]), False
        try:
            if step.wait_ms:
                await anyio.sleep(step.wait_ms * world.slowness / 1000)
            output = work(attempt, arguments)
            is_done = True
            return output
        finally:
            world.end(arguments["where"], is_done=is_done)

    def call(**arguments: Any) -> Any:
        attempt = world.start(arguments["where"])
        try:
            time.sleep(step.wait_ms * world.slowness / 1000)
            return work(attempt, arguments)
        finally:
            # Nobody knows whether its result was used: a thread that is given up runs on.
            world.end(arguments["where"], is_done=False)

    return call_async if step.is_async else call


def _test_of(step: Step, world: World) -> Any:
    def test(value: Any) -> Any:
        world.start(step.id)
        world.end(step.id, is_done=False)
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
