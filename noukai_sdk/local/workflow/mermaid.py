"""Workflows as the text of a Mermaid flowchart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from .node import Condition, Node

_SHAPES = {
    "agent": '["{}"]',
    "function": '[["{}"]]',
    "transform": '[/"{}"/]',
    "condition": '{{"{}"}}',
}


def mermaid(nodes: Sequence[Node]) -> str:
    """The flowchart, from the top down; conditions are rhombs whose arrows say yes or no."""
    return "\n".join(["flowchart TD", *(f"    {line}" for line in _lines(nodes))])


def _lines(nodes: Sequence[Node]) -> Iterator[str]:
    # Ids of users may be words of Mermaid's own, such as ``end``.
    names = {node.id: f"n{place}" for place, node in enumerate(nodes)}
    kinds = {node.id: node.work for node in nodes}
    for node in nodes:
        label = _escaped(node.name + (" (each)" if node.for_each else ""))
        yield names[node.id] + _SHAPES[node.kind].format(label)
    for node in nodes:
        for need in node.needs:
            answer = "no" if need in node.unless else "yes"
            arrow = f"-->|{answer}|" if isinstance(kinds.get(need), Condition) else "-->"
            yield f"{names.get(need, _escaped(need))} {arrow} {names[node.id]}"


def _escaped(text: str) -> str:
    return "".join(c if c.isalnum() or c in " _-.,()?!" else f"#{ord(c)};" for c in text)
