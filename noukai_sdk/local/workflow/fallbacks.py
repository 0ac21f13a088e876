"""The fallbacks of a node, as nodes that stand in for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .kinds import Agent
from .node import Node


def stand_ins(node: Node) -> Iterator[tuple[str, Node]]:
    """Yield the name and the node of each fallback, with the id, the place and the loop of ``node``.

    Example:
        >>> node = Node.agent("Draft", fallback=["offline", Node.function("None", str)])
        >>> [(name, fallback.kind) for name, fallback in stand_ins(node)]
        [('offline', 'agent'), ('None', 'function')]
    """
    for fallback in node.fallback:
        if isinstance(fallback, Node):
            stand_in = replace(
                fallback,
                id=node.id,
                name=node.name,
                needs=node.needs,
                when=node.when,
                for_each=node.for_each,
            )
            yield fallback.name, stand_in
            yield from stand_ins(stand_in)
        elif isinstance(node.work, Agent):
            name = fallback if isinstance(fallback, str) else fallback.name
            yield name, replace(node, work=replace(node.work, model=fallback), fallback=())
