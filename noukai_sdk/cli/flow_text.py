"""A flow as text for a terminal: its steps, what each does, and after which others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.text import Text
from rich.tree import Tree

from ..local.workflow.fallbacks import stand_ins
from ..local.workflow.kinds import Agent, Approval, Function, Repeat, Route, SubFlow, Transform
from ..local.workflow.mermaid import branch_label, until_label
from ..local.workflow.node import Node
from ..local.workflow.output_types import output_type
from ..local.workflow.plan import Flow

_LONGEST = 60


def flow_text(flow: Flow) -> Tree:
    """Return the steps of a flow as a tree. What a flow within the flow does is a branch of the tree."""
    title = Text.assemble((str(flow), "bold"), f"  {flow.description}" if flow.description else "")
    tree = Tree(title, guide_style="dim")
    _add_steps(tree, flow.steps)
    return tree


def _add_steps(tree: Tree, nodes: Sequence[Node]) -> None:
    by_id = {node.id: node for node in nodes}
    for before, node in zip([None, *nodes], nodes, strict=False):
        parts = [node.kind, *what_it_does(node)]
        # The order of the lines says that a step comes after the one above.
        if tuple(node.needs) != (() if before is None else (before.id,)) or node.when:
            parts.append(_after(node, by_id))
        branch = tree.add(
            Text.assemble((node.id, "bold"), "  ", ("  ".join(filter(None, parts)), ""))
        )
        if isinstance(node.work, SubFlow):
            _add_steps(branch, node.work.plan.nodes)


def what_it_does(node: Node) -> list[str]:
    """Return what a step does, in a few short texts.

    Example:
        >>> what_it_does(Node.route("kind", "input", ["bug", 3], default="other"))
        ['input', 'to bug, 3 or other', 'by default other']
    """
    work = node.work
    parts: list[str] = []
    if isinstance(work, Agent):
        output = work.output if isinstance(work.output, str) else output_type(work.output).name
        parts = [node.model or "", "may ask for tools" if node.tools else ""]
        parts.append(
            "" if output == "text" else f"returns {'JSON' if output == 'json' else output}"
        )
    elif isinstance(work, Route):
        parts = [_code(work.by)]
        if node.kind == "route":
            *others, last = (branch_label([branch]) for branch in work.branches)
            parts.append(f"to {', '.join(others)}{' or ' if others else ''}{last}")
        if work.default is not None:
            parts.append(f"by default {branch_label([work.default])}")
    elif isinstance(work, Approval):
        parts = [_code(work.prompt)]
    elif isinstance(work, Repeat):
        parts = [until_label(work)]
    elif isinstance(work, Function):
        parts = [_code(work.call)]
    elif isinstance(work, Transform):
        parts = [_code(work.transformation)]
    if node.for_each:
        at_once = f", {node.concurrency} at once" if node.concurrency > 1 else ""
        parts.append(f"for each of {node.for_each}{at_once}")
    parts += [f"else {name}" for name, _ in stand_ins(node)]
    return parts


def _after(node: Node, by_id: Mapping[str, Node]) -> str:
    """Return when a step runs: after which others, and on which branches."""
    texts: list[str] = []
    others: list[str] = []
    for need in node.needs:
        parent = by_id[need]
        branches = node.branches_after(parent)
        if branches is None:
            others.append(need)
        elif parent.kind == "condition":
            texts.append(f"if {need} is {branch_label(branches)}")
        else:
            texts.append(f"on {need}: {branch_label(branches)}")
    if others:
        texts.insert(0, f"after {' and '.join(others)}")
    return ", ".join(texts) or "at the start"


def _code(code: str | Callable[..., Any]) -> str:
    text = code if isinstance(code, str) else str(getattr(code, "__qualname__", "function"))
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
