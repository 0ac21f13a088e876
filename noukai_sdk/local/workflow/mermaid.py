"""Draw workflows as Mermaid flowcharts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .fallbacks import stand_ins
from .kinds import Branch, Repeat, SubFlow
from .node import Node
from .templates import as_text

_SHAPES = {
    "agent": '["{}"]',
    "function": '[["{}"]]',
    "transform": '[/"{}"/]',
    "condition": '{{"{}"}}',
    "route": '{{"{}"}}',
    "approval": '{{{{"{}"}}}}',
}
_LONGEST_LABEL = 60


def mermaid(nodes: Sequence[Node]) -> str:
    """Return a top-down Mermaid flowchart.

    The arrows of branches are labelled. Workflows in workflows are boxes around their nodes; the nodes of a
    repetition have an arrow back. Dotted arrows lead to fallbacks.
    """
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(nodes, "n"))])


def branch_label(branches: Sequence[Branch]) -> str:
    """Return how people read branches: yes and no for True and False.

    Example:
        >>> branch_label([True]), branch_label(["bug", 3])
        ('yes', 'bug or 3')
    """
    words = {True: "yes", False: "no"}
    return " or ".join(words[b] if isinstance(b, bool) else as_text(b) for b in branches)


def until_label(work: Repeat) -> str:
    """Return when a repetition ends, in words."""
    until = work.until if isinstance(work.until, str) else getattr(work.until, "__name__", "done")
    return f"until {until}, at most {work.at_most}"


def _lines(nodes: Sequence[Node], prefix: str) -> Iterator[str]:
    # Not the ids: a word such as "end" has a meaning in Mermaid.
    names = {node.id: f"{prefix}{position}" for position, node in enumerate(nodes)}
    by_id = {node.id: node for node in nodes}
    for node in nodes:
        name = names[node.id]
        label = _escape(node.name + (" (each)" if node.for_each else ""))
        if isinstance(node.work, SubFlow):
            yield f'subgraph {name}["{label}"]'
            for line in _lines(node.work.plan.nodes, f"{name}_"):
                yield f"    {line}"
            if isinstance(node.work, Repeat):
                yield f"    {_arrow_back(node.work, f'{name}_')}"
            yield "end"
        else:
            yield name + _SHAPES[node.kind].format(label)
        for place, (fallback, stand_in) in enumerate(stand_ins(node)):
            box = _SHAPES.get(stand_in.kind, _SHAPES["function"]).format(_escape(fallback))
            yield f'{name}{f"_f{place - 1}" if place else ""} -.->|"else"| {name}_f{place}{box}'
    for node in nodes:
        for need in node.needs:
            parent = by_id.get(need)
            branches = None if parent is None else node.branches_after(parent)
            label = f'|"{_escape(branch_label(branches))}"|' if branches else ""
            yield f"{names.get(need, _escape(need))} -->{label} {names[node.id]}"


def _arrow_back(work: Repeat, prefix: str) -> str:
    """Return the arrow of a repetition. It is between nodes: a box cannot have an arrow to itself."""
    nodes = work.plan.nodes
    first = next(place for place, node in enumerate(nodes) if not node.needs)
    last = work.plan.index[work.plan.sinks[-1].id]
    label = until_label(work)
    if len(label) > _LONGEST_LABEL:
        label = f"{label[: _LONGEST_LABEL - 3]}..."
    return f'{prefix}{last} -->|"{_escape(label)}"| {prefix}{first}'


def _escape(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _-.,()?!" else f"#{ord(c)};" for c in text)
