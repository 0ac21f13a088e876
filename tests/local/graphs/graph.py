"""Random graphs as data: what the engine and the reference interpreter both run."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

Kind = Literal["function", "transform", "condition", "route", "agent", "tools", "flow", "repeat"]
"""``"tools"`` is an agent that waits for tool results from the caller."""

FOREVER = 1_000_000
TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]
WEATHER = "How is the weather in Paris and Rome?"

TRANSFORMS = ["uppercase", "lowercase", "trim", "text", "words", "lines", "<{{input}}>"]
TESTS = ["function", "function", "truth", "length", "compare"]
SHAPES = ["number", "text", "text", "list", "list", "record", "word", "none", "echo"]
WORDS = ["yes", "No.", "False", "0", " none ", "Maybe", "off", ""]
BRANCHES: dict[str, list[Any]] = {"function": ["Yes", "no", "MAYBE", "0"], "length": [0, 1, 2]}
UNTIL = ["round >= 2", "round >= 3", "len(str(output)) % 2 == 0", "function"]
DEEPEST = 3


@dataclass(frozen=True)
class Step:
    """One node.

    Attributes:
        needs: The parents, in the order of their outputs, each with the branches of a condition or route on
            which the step runs; None for any.
        does: The shape of a function's output, the name of a transform, or what a condition, a route or the
            end of a repetition depends on.
        reads: Another node that it refers to, None for none.
        over: The parent whose list it loops over, or ``"items"``, an input; None for no loop.
        keeps_errors: Whether its loop goes on if an item fails.
        fails: How many of its first attempts fail; in a loop, at the item ``fails_at``.
        wait_ms: How long a call of its function takes.
        inner: The graph of a sub-flow or repetition.
        at_most: The most rounds of a repetition.
        has_default: Whether a route has a branch for other values, or a repetition keeps its last output.
    """

    id: str
    kind: Kind
    needs: tuple[tuple[str, tuple[Any, ...] | None], ...] = ()
    does: str = ""
    reads: str | None = None
    over: str | None = None
    keeps_errors: bool = False
    concurrency: int = 1
    retry: int | None = None
    fails: int = 0
    fails_at: int = 0
    is_async: bool = True
    wait_ms: float = 0.0
    inner: Graph | None = None
    at_most: int = 1
    has_default: bool = True


@dataclass(frozen=True)
class Graph:
    """Steps in an order in which they can run. The name is the default of ``{{parameters.tone}}``."""

    name: str
    steps: tuple[Step, ...]

    def all_steps(self) -> Iterator[tuple[str, Step]]:
        """Yield each step and those of its sub-flows, with their paths."""
        for step in self.steps:
            yield step.id, step
            for path, inner in step.inner.all_steps() if step.inner else ():
                yield f"{step.id}/{path}", inner

    @property
    def last(self) -> list[str]:
        """The ids of the steps that no other one needs."""
        needed = {parent for step in self.steps for parent, _ in step.needs}
        return [step.id for step in self.steps if step.id not in needed]

    def changed(self, change: Callable[[Step], dict[str, Any]]) -> Graph:
        """Return the graph with these changes to each step, those of sub-flows included."""
        steps = [
            replace(step, **change(step), inner=step.inner and step.inner.changed(change))
            for step in self.steps
        ]
        return replace(self, steps=tuple(steps))


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

    def mended(self) -> Case:
        """Return the case without the failures that no retry mends, and without errors to keep."""

        def mend(step: Step) -> dict[str, Any]:
            fails = 0 if step.fails == FOREVER else step.fails
            return {"fails": fails, "keeps_errors": False, "has_default": True}

        return replace(self, graph=self.graph.changed(mend))


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
    graph = _Generator(rng, retry).graph(f"g{seed}", depth=0)
    trouble = rng.random()
    if trouble < 0.3:
        graph = _with_failures(rng, graph)
    elif trouble < 0.5:
        graph = _with_flow_retry(rng, graph, retry)
    if rng.random() < 0.25:
        # It is the only last step, because a step that waits for tools must run alone.
        last = tuple((step.id, _any_branch(step)) for step in graph.steps if step.id in graph.last)
        graph = replace(graph, steps=(*graph.steps, Step("tools", "tools", last)))
    inputs: dict[str, Any] = {"where": "", "round": 0}
    inputs["items"] = ["a", 2, {"b": [3]}, "d"][: rng.randint(0, 4)]
    inputs["message"] = rng.choice(["Hello", "two words", {"score": 4}, [1, 2, 3], 7])
    if rng.random() < 0.5:
        inputs["tone"] = "of the run"
    return Case(seed, graph, retry, inputs)


class _Generator:
    def __init__(self, rng: random.Random, default_retry: int) -> None:
        self._rng = rng
        self._default_retry = default_retry

    def graph(self, name: str, depth: int) -> Graph:
        count = self._rng.randint(1, 14) if depth == 0 else self._rng.randint(1, 5)
        steps: list[Step] = []
        for place in range(count):
            steps.append(self._step(f"{name}-{place}", steps, depth))
        return Graph(name, tuple(self._connected(steps)))

    def _step(self, step_id: str, before: list[Step], depth: int) -> Step:
        rng = self._rng
        kinds: list[Kind] = ["function", "condition", "route", "transform", "agent"]
        kinds += ["flow", "repeat"] if depth < DEEPEST else []
        kind = rng.choices(kinds, [50, 12, 6, 10, 8, 11, 4][: len(kinds)])[0]
        count = rng.choices([0, 1, 2, 3], [6, 60, 24, 10])[0] if before else 0
        parents = rng.sample(before[-6:], min(count, len(before[-6:])))
        over = None
        if kind not in ("condition", "route") and rng.random() < 0.25:
            over = "items"
            lists = [s.id for s in before if s.over or s.does in ("list", "words", "lines")]
            if lists and rng.random() < 0.7:
                over = rng.choice(lists)
                parents = [step for step in before if step.id == over]
        earlier = sorted(_ancestors({s.id: s for s in before}, [p.id for p in parents]))
        step = Step(
            id=step_id,
            kind=kind,
            needs=tuple((parent.id, self._branches(parent)) for parent in parents),
            reads=rng.choice(earlier) if earlier and rng.random() < 0.4 else None,
            over=over,
            keeps_errors=over is not None and rng.random() < 0.4,
            concurrency=rng.choice([1, 2, 5]),
            is_async=rng.random() < 0.6,
            wait_ms=rng.choice([0, 0, 0, 1, 2]),
            has_default=rng.random() < 0.9,
        )
        return replace(step, **self._work(step, depth))

    def _branches(self, parent: Step) -> tuple[Any, ...] | None:
        rng = self._rng
        if parent.kind == "condition":
            return (True,) if rng.random() < 0.6 else (False,)
        if parent.kind == "route" and rng.random() < 0.8:
            branches = BRANCHES[parent.does]
            return tuple(rng.sample(branches, rng.randint(1, 2)))
        return None

    def _work(self, step: Step, depth: int) -> dict[str, Any]:
        rng = self._rng
        match step.kind:
            case "flow":
                return {"inner": self.graph(step.id, depth + 1), "retry": 0}
            case "repeat":
                inner = self.graph(step.id, depth + 1)
                rounds = {"does": rng.choice(UNTIL), "at_most": rng.randint(1, 4)}
                return {"inner": inner, "retry": 0, **rounds}
            case "transform":
                return {"does": rng.choice(TRANSFORMS)}
            case "condition":
                return {"does": rng.choice(TESTS)}
            case "route":
                return {"does": rng.choice([*BRANCHES])}
            case "function":
                retry = rng.choice([None, None, 0, 1, 3])
                allowed = self._default_retry if retry is None else retry
                fails = rng.randint(0, allowed) if rng.random() < 0.4 else 0
                at = {"fails_at": rng.randint(0, 2)}
                return {"does": rng.choice(SHAPES), "retry": retry, "fails": fails, **at}
        return {}

    def _connected(self, steps: list[Step]) -> list[Step]:
        """Return the steps, each connected to others, because a workflow must not fall apart."""
        needed = {parent for step in steps for parent, _ in step.needs}
        for place, step in enumerate(steps):
            if place and not step.needs and step.id not in needed:
                parent = self._rng.choice(steps[:place])
                needed.add(parent.id)
                steps[place] = replace(step, needs=((parent.id, self._branches(parent)),))
        if len(steps) > 1 and steps[0].id not in needed:
            last = steps[-1]
            if last.over not in (None, "items"):
                return steps[1:]
            need = (steps[0].id, self._branches(steps[0]))
            steps[-1] = replace(last, needs=(*last.needs, need))
        return steps


def _ancestors(by_id: dict[str, Step], ids: list[str]) -> set[str]:
    found: set[str] = set()
    for step_id in ids:
        found |= {step_id} | _ancestors(by_id, [parent for parent, _ in by_id[step_id].needs])
    return found


def _any_branch(step: Step) -> tuple[bool, ...] | None:
    return (True, False) if step.kind == "condition" else None


def _with_failures(rng: random.Random, graph: Graph) -> Graph:
    functions = [step.id for _, step in graph.all_steps() if step.kind == "function"]
    failing = rng.sample(functions, min(rng.randint(1, 2), len(functions)))
    return graph.changed(lambda step: {"fails": FOREVER} if step.id in failing else {})


def _with_flow_retry(rng: random.Random, graph: Graph, default_retry: int) -> Graph:
    """Return the graph with a step that succeeds only because its sub-flow is retried."""
    inside = [
        (path.split("/")[-2], step)
        for path, step in graph.all_steps()
        if step.kind == "function" and "/" in path
    ]
    if not inside:
        return graph
    flow, step = rng.choice(inside)
    is_once = any(other.id == flow and other.kind == "flow" for _, other in graph.all_steps())
    retry = default_retry if step.retry is None else step.retry
    fails = retry + 1 + rng.randint(0, retry)
    # A repetition of at most four rounds, each of which fails once, needs four.
    changes = {flow: {"retry": rng.choice([1, 2]) if is_once else 4}, step.id: {"fails": fails}}
    return graph.changed(lambda step: changes.get(step.id, {}))
