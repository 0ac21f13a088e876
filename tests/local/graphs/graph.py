"""Random graphs as data: what the engine and the reference interpreter both run."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["function", "transform", "condition", "agent", "flow", "tools"]
"""``"tools"`` is an agent that waits for tool results from the caller."""

FOREVER = 1_000_000
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
WEATHER = "How is the weather in Paris and Rome?"
TRANSFORMS = ["uppercase", "lowercase", "trim", "text", "words", "lines", "<{{input}}>"]
TESTS = ["function", "function", "truth", "length", "compare"]
SHAPES = ["number", "text", "text", "list", "list", "record", "word", "none", "echo"]
WORDS = ["yes", "No.", "False", "0", " none ", "Maybe", "off", ""]
DEEPEST = 3


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        needs: The parents, in the order of their outputs, each with the value that it must have if it is a
            condition.
        does: The shape of a function's output, the name of a transform, or the kind of a condition's test.
        reads: Another node that it refers to, None for none.
        over: The parent whose list it loops over, or ``"items"``, an input; None for no loop.
        fails: How many of its first attempts fail; in a loop, at the item ``fails_at``.
        wait_ms: How long a call of its function takes.
        inner: The graph of a sub-flow.
    """

    id: str
    kind: Kind
    needs: tuple[tuple[str, bool], ...] = ()
    does: str = ""
    reads: str | None = None
    over: str | None = None
    concurrency: int = 1
    retry: int | None = None
    fails: int = 0
    fails_at: int = 0
    is_async: bool = True
    wait_ms: float = 0.0
    inner: Graph | None = None


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which they can run, and the default of ``{{parameters.tone}}``."""

    name: str
    steps: tuple[Step, ...]

    def all_steps(self) -> Iterator[tuple[str, Step]]:
        """Yield each step and those of its sub-flows, with their paths."""
        for step in self.steps:
            yield step.id, step
            for path, inner in step.inner.all_steps() if step.inner else ():
                yield f"{step.id}/{path}", inner


@dataclass(frozen=True)
class Case:
    """One random run: a graph, its inputs, and the executor's ``retry``."""

    seed: int
    graph: Graph
    retry: int
    inputs: dict[str, Any] = field(default_factory=dict)

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools of the call, if a step wants some."""
        return TOOLS if any(step.kind == "tools" for step in self.graph.steps) else []

    def without_failures(self) -> Case:
        """Return the case without the failures that no retry mends."""
        return replace(self, graph=_mended(self.graph))


def made(shape: str, *parts: Any) -> Any:
    """Return what a function of this shape makes of its arguments."""
    number = zlib.crc32(json.dumps(parts, sort_keys=True).encode())
    match shape:
        case "number":
            return number % 100
        case "text":
            return f"Text {number % 1000}\n and more "
        case "list":
            return [f"i{number % 11}", number % 13, {"of": number % 17}][: number % 4]
        case "record":
            return {"score": number % 10, "name": f"r{number % 97}"}
        case "word":
            return WORDS[number % len(WORDS)]
        case "none":
            return None
    return parts[0]


def tool_results(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answer tool calls, as a handler does."""
    return [
        {"tool_call_id": call["id"], "output": f"Sunny: {call['function']['arguments']}"}
        for call in calls
    ]


def case_of(seed: int) -> Case:
    """Return the random run of a seed."""
    rng = random.Random(seed)
    retry = rng.choice([0, 0, 1, 2])
    graph = _graph_of(rng, f"g{seed}", depth=0, default_retry=retry)
    trouble = rng.random()
    if trouble < 0.25:
        graph = _with_failures(rng, graph, rng.randint(1, 2))
    elif trouble < 0.45:
        graph = _with_flow_retry(rng, graph, retry)
    if rng.random() < 0.25:
        graph = _with_tools(graph)
    inputs: dict[str, Any] = {"where": "", "items": ["a", 2, {"b": [3]}, "d"][: rng.randint(0, 4)]}
    inputs["message"] = rng.choice(["Hello", "two words", {"score": 4}, [1, 2, 3], 7])
    if rng.random() < 0.5:
        inputs["tone"] = "of the run"
    return Case(seed, graph, retry, inputs)


def _graph_of(rng: random.Random, name: str, depth: int, default_retry: int) -> Graph:
    count = rng.randint(1, 14) if depth == 0 else rng.randint(1, 5)
    steps: list[Step] = []
    lists: list[str] = []
    for place in range(count):
        step = _step_of(rng, f"{name}-{place}", steps, lists, depth, default_retry)
        steps.append(step)
        if step.over or step.does in ("list", "words", "lines"):
            lists.append(step.id)
    return Graph(name, tuple(_connected(rng, steps)))


def _step_of(
    rng: random.Random,
    step_id: str,
    before: list[Step],
    lists: list[str],
    depth: int,
    default_retry: int,
) -> Step:
    kinds: list[Kind] = ["function", "condition", "transform", "agent", "flow"]
    weights = [50, 18, 10, 8, 14 if depth < DEEPEST else 0]
    kind = rng.choices(kinds, weights)[0]
    count = rng.choices([0, 1, 2, 3], [6, 60, 24, 10])[0] if before else 0
    parents = rng.sample(before[-6:], min(count, len(before[-6:])))
    over = None
    if kind != "condition" and rng.random() < 0.25:
        over = "items"
        if lists and rng.random() < 0.7:
            over = rng.choice(lists)
            parents = [step for step in before if step.id == over]
    needs = tuple((p.id, p.kind != "condition" or rng.random() < 0.6) for p in parents)
    by_id = {step.id: step for step in before}
    earlier = sorted(_ancestors(by_id, [parent for parent, _ in needs]))
    step = Step(
        id=step_id,
        kind=kind,
        needs=needs,
        reads=rng.choice(earlier) if earlier and rng.random() < 0.4 else None,
        over=over,
        concurrency=rng.choice([1, 2, 5]),
        is_async=rng.random() < 0.6,
        wait_ms=rng.choice([0, 0, 0, 1, 2]),
    )
    if kind == "flow":
        inner = _graph_of(rng, step_id, depth + 1, default_retry)
        return replace(step, inner=inner, retry=0)
    if kind == "transform":
        return replace(step, does=rng.choice(TRANSFORMS))
    if kind == "condition":
        return replace(step, does=rng.choice(TESTS))
    if kind == "function":
        retry = rng.choice([None, None, 0, 1, 3])
        allowed = default_retry if retry is None else retry
        fails = rng.randint(0, allowed) if rng.random() < 0.4 else 0
        at = rng.randint(0, 2)
        return replace(step, does=rng.choice(SHAPES), retry=retry, fails=fails, fails_at=at)
    return step


def _ancestors(by_id: dict[str, Step], ids: list[str]) -> set[str]:
    found: set[str] = set()
    for step_id in ids:
        found |= {step_id} | _ancestors(by_id, [parent for parent, _ in by_id[step_id].needs])
    return found


def _connected(rng: random.Random, steps: list[Step]) -> list[Step]:
    """Return the steps, with a parent for each that is connected to nothing if others are."""
    needed = {parent for step in steps for parent, _ in step.needs}
    for place, step in enumerate(steps):
        if place and not step.needs and step.id not in needed:
            parent = rng.choice(steps[:place])
            needed.add(parent.id)
            steps[place] = replace(step, needs=((parent.id, True),))
    if len(steps) > 1 and steps[0].id not in needed:
        last = steps[-1]
        if last.over not in (None, "items"):
            return steps[1:]
        steps[-1] = replace(last, needs=(*last.needs, (steps[0].id, True)))
    return steps


def _with_failures(rng: random.Random, graph: Graph, count: int) -> Graph:
    functions = [path for path, step in graph.all_steps() if step.kind == "function"]
    for path in rng.sample(functions, min(count, len(functions))):
        graph = _changed(graph, path.split("/"), fails=FOREVER)
    return graph


def _with_flow_retry(rng: random.Random, graph: Graph, default_retry: int) -> Graph:
    """Return the graph with one step that succeeds only because its sub-flow is repeated."""
    inside = [
        (path, step)
        for path, step in graph.all_steps()
        if step.kind == "function" and step.over is None and "/" in path
    ]
    if not inside:
        return graph
    path, step = rng.choice(inside)
    names = path.split("/")
    retry = default_retry if step.retry is None else step.retry
    graph = _changed(graph, names, fails=retry + 1 + rng.randint(0, retry))
    return _changed(graph, names[:-1], retry=rng.randint(1, 2))


def _with_tools(graph: Graph) -> Graph:
    """Return the graph with an agent at its end, which has tools and therefore runs alone."""
    needed = {parent for step in graph.steps for parent, _ in step.needs}
    last = tuple((step.id, True) for step in graph.steps if step.id not in needed)
    return replace(graph, steps=(*graph.steps, Step("tools", "tools", last)))


def _changed(graph: Graph, path: list[str], **changes: Any) -> Graph:
    steps = list(graph.steps)
    for place, step in enumerate(steps):
        if step.id == path[0]:
            if path[1:]:
                assert step.inner is not None
                changes = {"inner": _changed(step.inner, path[1:], **changes)}
            steps[place] = replace(step, **changes)
    return replace(graph, steps=tuple(steps))


def _mended(graph: Graph) -> Graph:
    steps = [
        replace(
            step,
            fails=0 if step.fails == FOREVER else step.fails,
            inner=_mended(step.inner) if step.inner else None,
        )
        for step in graph.steps
    ]
    return replace(graph, steps=tuple(steps))
