"""A workflow that is ready to run: checked, in order, and looked up by name."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import Any

from .node import Condition, Node


class Names:
    """The nodes by what ``{{node.name}}`` calls them: by id, else by name."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.by_id = {node.id: node for node in nodes}
        self._by_name = {node.name: node for node in reversed(nodes)} | self.by_id

    def get(self, name: str) -> Node | None:
        """The node that is meant, None where there is none."""
        return self._by_name.get(name)

    def is_before(self, earlier: Node, node: Node) -> bool:
        """Whether ``earlier`` is done, or skipped, whenever ``node`` starts."""
        if earlier.id in node.needs:
            return True
        if self._reached is None:
            return earlier.id in self.before(node)
        return bool(self._reached[node.id] >> self._place[earlier.id] & 1)

    def before(self, node: Node) -> Iterator[str]:
        """The ids of the nodes that are done, or skipped, whenever ``node`` starts; nearest first."""
        waiting, seen = deque(node.needs), set(node.needs)
        while waiting:
            known = self.by_id.get(waiting.popleft())
            if known is not None:
                yield known.id
                new = [need for need in known.needs if need not in seen]
                waiting.extend(new)
                seen.update(new)

    @cached_property
    def _place(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.by_id)}

    @cached_property
    def _reached(self) -> dict[str, int] | None:
        """For each node, those before it as bits at their places; None where there is a cycle.

        So that references across ten thousand nodes do not take the square of that.
        """
        reached: dict[str, int] = {}
        try:
            for name in sorter(list(self.by_id.values())).static_order():
                node = self.by_id.get(name)
                known = [] if node is None else [need for need in node.needs if need in self.by_id]
                reached[name] = 0
                for need in known:
                    reached[name] |= reached[need] | 1 << self._place[need]
        except CycleError:
            return None
        return reached


class Plan:
    """Nodes in an order in which they can run one after the other.

    Args:
        nodes: Free of problems (``checks.py``).
        parameters: Defaults for ``{{parameters.x}}``; a call's own values win.
    """

    def __init__(self, nodes: Sequence[Node], parameters: Mapping[str, Any] | None = None) -> None:
        self.nodes = in_order(nodes)
        self.parameters = dict(parameters or {})
        self.names = Names(self.nodes)
        self.index = {node.id: place for place, node in enumerate(self.nodes)}

    @cached_property
    def has_conditions(self) -> bool:
        """Whether nodes can be skipped."""
        return any(isinstance(node.work, Condition) for node in self.nodes)

    @cached_property
    def sinks(self) -> list[Node]:
        """The nodes that no other node needs: their outputs are the result."""
        needed = {need for node in self.nodes for need in node.needs}
        return [node for node in self.nodes if node.id not in needed]

    def sorter(self) -> TopologicalSorter[str]:
        """A fresh sorter, which tells what is ready as nodes get done."""
        return sorter(self.nodes)

    def runs_alone(self, node: Node) -> bool:
        """Whether every other node is done before ``node`` starts or waits until it is done."""
        before = set(self.names.before(node))
        after = {node.id}
        for other in self.nodes:
            if not after.isdisjoint(other.needs):
                after.add(other.id)
        return len(before) + len(after) == len(self.nodes)


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """The nodes in an order in which they can run: as given where that is one.

    Raises:
        graphlib.CycleError: There is none.
    """
    seen: set[str] = set()
    for node in nodes:
        if not seen.issuperset(node.needs):
            break
        seen.add(node.id)
    else:
        return list(nodes)
    by_id = {node.id: node for node in nodes}
    return [by_id[name] for name in sorter(nodes).static_order()]


def sorter(nodes: Sequence[Node]) -> TopologicalSorter[str]:
    """A sorter over the nodes' ids."""
    return TopologicalSorter({node.id: node.needs for node in nodes})
