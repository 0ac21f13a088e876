"""What can be told to be wrong with a workflow before it runs: every problem, not the first alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from ...errors import NoukaiError
from . import expressions, templates
from .node import Agent, Condition, Function, Node, Transform
from .plan import Names
from .references import references_of
from .templates import Reference
from .transforms import TRANSFORMS


@dataclass(frozen=True)
class Problem:
    """One fault.

    Attributes:
        place: The node's position in the workflow, None where the workflow as a whole is meant.
        node: The node's id, where one is meant.
        field: The setting that is wrong, as a flow file calls it.
    """

    place: int | None
    node: str | None
    field: str | None
    message: str

    def __str__(self) -> str:
        where = None if self.node is None else f"node {self.node!r}"
        return ": ".join(part for part in (where, self.field, self.message) if part)


class WorkflowError(NoukaiError, ValueError):
    """A workflow that cannot run; ``problems`` lists everything that is wrong with it."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(message, code="INVALID_TREE")
        self.problems = list(problems)


def problems_of(nodes: Sequence[Node]) -> list[Problem]:
    """Everything that is wrong with ``nodes``; empty where they can run."""
    if not nodes:
        return [Problem(None, None, "steps", "there are no nodes: give at least one")]
    names = Names(nodes)
    # Nodes of one id hide each other: what looks like a cycle then may be none.
    found = [*_cycles(nodes)] if len(names.by_id) == len(nodes) else []
    for place, node in enumerate(nodes):
        for field, message in _faults(node, names):
            found.append(Problem(place, node.id, field, message))
    return [*_repeated(nodes), *found, *_unreachable(nodes)]


def _repeated(nodes: Sequence[Node]) -> Iterator[Problem]:
    # Names too: a result gives the outputs by name.
    for field in ("id", "name"):
        counts = Counter(getattr(node, field) for node in nodes)
        seen: set[str] = set()
        for place, node in enumerate(nodes):
            value = getattr(node, field)
            if counts[value] > 1 and value in seen:
                message = f"an earlier node has the {field} {value!r} too"
                yield Problem(place, node.id, field, message)
            seen.add(value)


def _cycles(nodes: Sequence[Node]) -> Iterator[Problem]:
    """One problem for each cycle that has no node in common with one before."""
    left = {node.id: set(node.needs) for node in nodes}
    while cycle := _cycle(left):
        message = f"these nodes wait for each other: {' -> '.join(cycle)}"
        yield Problem(None, None, "needs", message)
        left = {name: needs.difference(cycle) for name, needs in left.items() if name not in cycle}


def _cycle(needs: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _unreachable(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Nodes that wait for a cycle without being a part of it."""
    needs = {node.id: set(node.needs) for node in nodes}
    while cycle := _cycle(needs):
        stuck = set(cycle)
        for place, node in enumerate(nodes):
            if node.id not in stuck and not stuck.isdisjoint(node.needs):
                stuck.add(node.id)
                message = "it can never run: it waits for nodes that wait for each other"
                yield Problem(place, node.id, "needs", message)
        needs = {name: rest - stuck for name, rest in needs.items() if name not in stuck}


Fault = tuple[str, str]
"""``(field, message)``."""


def _faults(node: Node, names: Names) -> Iterator[Fault]:
    yield from _bad_needs(node, names)
    yield from _bad_work(node)
    if node.for_each is not None and templates.parse(node.for_each).alone is None:
        yield "for_each", f"not one reference to a list, as in '{{{{input}}}}': {node.for_each!r}"
    for field, reference in references_of(node):
        message = bad_reference(reference, node, field, names)
        if message:
            yield field, message


def _bad_needs(node: Node, names: Names) -> Iterator[Fault]:
    for need, times in Counter(node.needs).items():
        if need not in names.by_id:
            yield "needs", f"there is no node {need!r}; there are {', '.join(sorted(names.by_id))}"
        elif times > 1:
            yield "needs", f"{need!r} is needed twice; a node that needs both ways can never run"
    for need in sorted(node.unless):
        needed = names.by_id.get(need)
        if needed is not None and not isinstance(needed.work, Condition):
            yield "needs", f"{need!r} is no condition: it cannot come out false"


def _bad_work(node: Node) -> Iterator[Fault]:
    work = node.work
    if isinstance(work, Condition) and isinstance(work.test, str):
        try:
            expressions.parse(work.test)
        except expressions.ExpressionError as error:
            yield "condition", str(error)
    elif isinstance(work, Transform):
        has_references = bool(templates.parse(work.transformation).references)
        if work.transformation not in TRANSFORMS and not has_references:
            known = ", ".join(sorted(TRANSFORMS))
            yield "transform", f"{work.transformation!r} is none of {known}, nor has it references"
    elif isinstance(work, Function) and work.arguments is None and work.takes is None:
        yield "function", "it needs more than one argument: name them in arguments"


def bad_reference(reference: Reference, node: Node, field: str, names: Names) -> str | None:
    """Why this reference cannot be resolved when ``node`` runs, None where nothing is known."""
    if reference.problem:
        return reference.problem
    if reference.root in ("item", "index") and (node.for_each is None or field == "for_each"):
        return f"{reference} stands for something only in a node with for_each"
    if reference.root != "node":
        return None
    target = names.get(reference.path[0])
    if target is None:
        return f"{reference}: there is no node of that name"
    if not names.is_before(target, node):
        return f"{reference}: that node may not have run by then; add it to needs"
    if len(reference.path) > 1 and _has_no_fields(target):
        return f"{reference}: that node's output has no fields"
    return None


def _has_no_fields(node: Node) -> bool:
    if node.for_each is not None:
        return False
    is_text = isinstance(node.work, Agent) and node.work.output == "text"
    return is_text or isinstance(node.work, Condition)
