"""Checks of a workflow before it runs. They report every problem, not only the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ...errors import NoukaiError
from ..llm.config import LlmConfig
from ..llm.errors import LlmConfigError
from ..runtime.hidden_keys import hide_keys, shown
from . import expressions, templates
from .fallbacks import stand_ins
from .kinds import (
    Agent,
    Approval,
    Branch,
    Condition,
    Decision,
    Function,
    Repeat,
    Route,
    SubFlow,
    Tool,
    Transform,
    Work,
    branch_text,
)
from .node import Node
from .plan import DEEPEST, Names
from .templates import Reference
from .transforms import TRANSFORMS


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a workflow.

    Attributes:
        place: The node's position in the workflow, None if the workflow as a whole is meant.
        node: The node's id, None if the workflow as a whole is meant.
        field: The setting that is wrong, by its name in flow files.
        message: What is wrong.
    """

    place: int | None
    node: str | None
    field: str | None
    message: str

    def __str__(self) -> str:
        where = None if self.node is None else f"node {self.node!r}"
        return hide_keys(": ".join(part for part in (where, self.field, self.message) if part))


class WorkflowError(NoukaiError, ValueError):
    """A workflow cannot run; ``problems`` lists everything that is wrong with it."""

    def __init__(self, message: str, problems: Sequence[Problem]) -> None:
        super().__init__(hide_keys(message), code="INVALID_TREE")
        self.problems = [replace(at, message=hide_keys(at.message)) for at in problems]


def problems_of(nodes: Sequence[Node]) -> list[Problem]:
    """Return everything that is wrong with ``nodes``; empty if they can run."""
    if not nodes:
        return [Problem(None, None, "steps", "there are no nodes: add at least one")]
    names = Names(nodes)
    problems = [*_repeated(nodes)]
    # Nodes with one id hide each other: the graph could have cycles that the workflow has not.
    if len(names.by_id) == len(nodes):
        problems += _cycles(nodes)
    for place, node in enumerate(nodes):
        for field, message in _faults(node, names):
            problems.append(Problem(place, node.id, field, message))
    return [*problems, *_stuck(nodes)]


def unknown_models(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Yield a problem for each agent whose model is not known. A service may have models of its own."""
    for place, node in enumerate(nodes):
        for field, one in [("model", node), *(("fallback", one) for _, one in stand_ins(node))]:
            if isinstance(one.work, Agent) and isinstance(one.work.model, str):
                try:
                    LlmConfig.from_spec(one.work.model)
                except LlmConfigError as error:
                    yield Problem(place, node.id, field, error.message)


def references_of(node: Node) -> Iterator[tuple[str, Reference]]:
    """Yield ``(field, reference)`` for each reference in a node, none for an invalid condition."""
    for _, stand_in in stand_ins(node):
        for _, reference in references_of(replace(stand_in, for_each=None, fallback=())):
            yield "fallback", reference
    for field, text in _texts_of(node):
        for reference in templates.parse(text).references:
            yield field, reference
    for field, expression in _expressions_of(node.work):
        if expressions.problem_of(expression) is None:
            for reference in expressions.parse(expression).references:
                if field != "until" or reference.root not in templates.OF_ROUNDS:
                    yield field, reference


def bad_reference(reference: Reference, node: Node, field: str, names: Names) -> str | None:
    """Return why this reference can have no value when ``node`` runs, None if nothing is wrong."""
    if reference.problem:
        return reference.problem
    if reference.root in ("output", "round"):
        return f"{reference} has a value only in the `until` of a node that repeats"
    if reference.root in ("item", "index") and (node.for_each is None or field == "for_each"):
        return f"{reference} has a value only in a node with for_each"
    if reference.root != "node":
        return None
    target = names.get(reference.path[0])
    if target is None:
        return f"{reference}: there is no node of that name"
    if not names.is_before(target, node):
        return f"{reference}: that node may not have run by then; add it to needs"
    if len(reference.path) > 1 and target.for_each is None:
        is_text = isinstance(target.work, Agent) and target.work.output == "text"
        if is_text or isinstance(target.work, Route):
            return f"{reference}: that node's output has no fields"
    return None


def _texts_of(node: Node) -> Iterator[tuple[str, str]]:
    if node.for_each is not None:
        yield "for_each", node.for_each
    work = node.work
    if isinstance(work, Agent):
        yield "prompt", work.prompt
        yield "system", work.system or ""
    elif isinstance(work, Approval):
        yield "approval", work.prompt
    elif isinstance(work, Transform):
        yield "transform", work.transformation
    elif isinstance(work, Function):
        for text in _strings(work.arguments):
            yield "arguments", text
    elif isinstance(work, SubFlow):
        for text in _strings(work.inputs):
            yield "inputs", text


def _expressions_of(work: Work) -> Iterator[tuple[str, str]]:
    for field, code in _code_of(work):
        if isinstance(code, str):
            yield field, code


def _code_of(work: Work) -> Iterator[tuple[str, str | Callable[[Any], Any]]]:
    """Yield the expressions of a node, and the functions used instead of expressions."""
    if isinstance(work, Route):
        yield "condition" if isinstance(work, Condition) else "route", work.by
    elif isinstance(work, Repeat):
        yield "until", work.until


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _strings(item)


def _faults(node: Node, names: Names) -> Iterator[tuple[str, str]]:
    """Yield ``(field, message)`` for each thing that is wrong with one node."""
    for need, times in Counter(node.needs).items():
        if need not in names.by_id:
            yield "needs", f"there is no node {need!r}; there are {', '.join(sorted(names.by_id))}"
        elif times > 1:
            yield "needs", f"{need!r} is needed twice"
    for need, branches in node.when.items():
        if need in names.by_id:
            for fault in _branch_faults(names.by_id[need], branches):
                yield "needs", fault
    yield from _work_faults(node)
    if isinstance(node.work, SubFlow) and node.work.plan.depth > DEEPEST:
        yield node.kind, f"flows within flows are nested more than {DEEPEST} deep"
    for name, stand_in in stand_ins(node):
        for _, fault in _work_faults(stand_in):
            yield "fallback", f"{name}: {fault}"
    if node.for_each is not None and templates.parse(node.for_each).alone is None:
        yield (
            "for_each",
            f"not one reference to a list, as in '{{{{input}}}}': {shown(node.for_each)}",
        )
    for field, reference in references_of(node):
        message = bad_reference(reference, node, field, names)
        if message:
            yield field, message


def _branch_faults(parent: Node, branches: Sequence[Branch]) -> Iterator[str]:
    if not isinstance(parent.work, Decision):
        # True is what connect() is often told for every edge.
        if tuple(branches) != (True,):
            yield f"{parent.id!r} does not decide: it has no branches"
        return
    known = {branch_text(branch) for branch in parent.work.branches}
    for branch in branches:
        if branch_text(branch) not in known:
            listed = ", ".join(map(repr, parent.work.branches))
            yield f"{parent.id!r} has no branch {shown(branch)}; there are {listed}"
    if not branches:
        yield f"it is on no branch of {parent.id!r}, and can never run"


def _work_faults(node: Node) -> Iterator[tuple[str, str]]:
    work = node.work
    for field, text in _expressions_of(work):
        message = expressions.problem_of(text)
        if message:
            yield field, message
    if isinstance(work, Transform):
        text = work.transformation
        is_text = len(text.split()) > 1 or bool(templates.parse(text).references)
        if text not in TRANSFORMS and not is_text:  # one word is a name that is misspelt
            known = ", ".join(sorted(TRANSFORMS))
            message = f"{shown(text)} is not one of {known}, and no text with spaces or references"
            yield "transform", message
    elif isinstance(work, Agent):
        if isinstance(work.output, str) and work.output not in ("text", "json"):
            yield "output", f"{shown(work.output)} is not one of 'text', 'json'"
        yield from _tool_faults(work.tools)
    elif isinstance(work, Function) and work.arguments is None and work.takes is None:
        yield "function", "it needs more than one argument: name them in arguments"
    for field, code in _code_of(work):
        if callable(code) and Function(code).takes is None:
            yield field, "the function needs more than one argument"


def _tool_faults(tools: bool | tuple[Tool, ...]) -> Iterator[tuple[str, str]]:
    if isinstance(tools, bool):
        return
    from .tool_functions import name_of, schema_of  # pydantic, for workflows with tools alone

    names: set[str] = set()
    for tool in tools:
        try:
            schema_of(tool)
        except ValueError as error:
            yield "tools", str(error)
        if name_of(tool) in names:
            yield "tools", f"two tools have the name {name_of(tool)!r}"
        names.add(name_of(tool))


def _repeated(nodes: Sequence[Node]) -> Iterator[Problem]:
    # Names must be unique too, because a result returns the outputs by name.
    for field in ("id", "name"):
        seen: set[str] = set()
        for place, node in enumerate(nodes):
            value = getattr(node, field)
            if value in seen:
                message = f"an earlier node has the {field} {value!r} too"
                yield Problem(place, node.id, field, message)
            seen.add(value)


def _cycles(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Yield one problem for each cycle that shares no node with an earlier one."""
    needs = {node.id: set(node.needs) for node in nodes}
    while cycle := _find_cycle(needs):
        message = f"these nodes wait for each other: {' -> '.join(cycle)}"
        yield Problem(None, None, "needs", message)
        needs = {name: rest.difference(cycle) for name, rest in needs.items() if name not in cycle}


def _stuck(nodes: Sequence[Node]) -> Iterator[Problem]:
    """Yield a problem for each node that waits for a cycle without being a part of it."""
    needs = {node.id: set(node.needs) for node in nodes}
    while cycle := _find_cycle(needs):
        stuck = set(cycle)
        for place, node in enumerate(nodes):
            if node.id not in stuck and not stuck.isdisjoint(node.needs):
                stuck.add(node.id)
                message = "it can never run: it waits for nodes that wait for each other"
                yield Problem(place, node.id, "needs", message)
        needs = {name: rest - stuck for name, rest in needs.items() if name not in stuck}


def _find_cycle(needs: dict[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []
