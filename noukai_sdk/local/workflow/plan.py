"""Plans, which are workflows ready to run, and flows, which are plans with an address."""

from __future__ import annotations

import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .fallbacks import stand_ins
from .kinds import Agent, Approval, Decision, SubFlow, classes_in
from .mermaid import mermaid
from .node import Node
from .templates import Reference

CaptureMode = Literal["full", "redacted", "metadata_only", "off"]

DEEPEST = 20
"""How deep workflows may be nested. Each level takes a part of Python's stack."""


class Names:
    """Find nodes by the name in ``{{node.name}}``, which is an id or else a display name."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self.by_id = {node.id: node for node in nodes}
        self._by_name = {node.name: node for node in reversed(nodes)} | self.by_id
        self._positions = {node_id: position for position, node_id in enumerate(self.by_id)}

    def get(self, name: str) -> Node | None:
        """Return the node with this id or name, None if there is none."""
        return self._by_name.get(name)

    def is_before(self, earlier: Node, node: Node) -> bool:
        """Return whether ``earlier`` is always done, or skipped, when ``node`` starts."""
        if earlier.id in node.needs:
            return True
        if self._ancestors is None:
            return earlier.id in self.before(node)
        return bool(self._ancestors[node.id] >> self._positions[earlier.id] & 1)

    def before(self, node: Node) -> Iterator[str]:
        """Yield the ids of all nodes that are done, or skipped, when ``node`` starts, nearest first."""
        waiting, seen = deque(node.needs), set(node.needs)
        while waiting:
            parent = self.by_id.get(waiting.popleft())
            if parent is not None:
                yield parent.id
                unseen = [need for need in parent.needs if need not in seen]
                waiting.extend(unseen)
                seen.update(unseen)

    @cached_property
    def _ancestors(self) -> dict[str, int] | None:
        """The nodes before each node, as a bit set over their positions; None if there is a cycle.

        With bit sets, checking the references of 10,000 nodes does not take quadratic time.
        """
        ancestors: dict[str, int] = {}
        try:
            for node_id in sorter(list(self.by_id.values())).static_order():
                node = self.by_id.get(node_id)
                ancestors[node_id] = 0
                for need in () if node is None else node.needs:
                    if need in self.by_id:
                        ancestors[node_id] |= ancestors[need] | 1 << self._positions[need]
        except CycleError:
            return None
        return ancestors


class OpenReference(NamedTuple):
    """A reference that may have no value in a run, depending on the call.

    Attributes:
        place: The node's place in the plan.
        node: The node.
        field: The setting of the node that has the reference.
        reference: The reference.
        problem: Why it has no value in any run; None if it depends on the call.
    """

    place: int
    node: Node
    field: str
    reference: Reference
    problem: str | None


class Plan:
    """Nodes in an order in which they can run one after the other.

    Args:
        nodes: Nodes without problems (see ``validation.py``).
        parameters: Defaults for ``{{parameters.x}}``; the values of a call override them.
    """

    def __init__(self, nodes: Sequence[Node], parameters: Mapping[str, Any] | None = None) -> None:
        self.nodes = in_order(nodes)
        self.parameters = dict(parameters or {})
        self.names = Names(self.nodes)
        self.index = {node.id: position for position, node in enumerate(self.nodes)}

    @cached_property
    def has_routes(self) -> bool:
        """Whether nodes can be skipped."""
        return any(isinstance(node.work, Decision) for node in self.nodes)

    @cached_property
    def sub_flows(self) -> list[tuple[Node, SubFlow]]:
        """The nodes that run other workflows, also as fallbacks, with their work."""
        return [
            (one, one.work)
            for node in self.nodes
            for one in (node, *(stand_in for _, stand_in in stand_ins(node)))
            if isinstance(one.work, SubFlow)
        ]

    @cached_property
    def depth(self) -> int:
        """How deep workflows are nested: 1 without a sub-flow."""
        return 1 + max((work.plan.depth for _, work in self.sub_flows), default=0)

    @cached_property
    def has_approvals(self) -> bool:
        """Whether a node, also one of a sub-flow, waits for the decision of a person."""
        return any(isinstance(node.work, Approval) for node in self.nodes) or any(
            work.plan.has_approvals for _, work in self.sub_flows
        )

    @cached_property
    def has_tools(self) -> bool:
        """Whether a node, also one of a sub-flow, may request the tools that come with a call."""
        return any(node.tools for node in self.nodes) or any(
            work.plan.has_tools for _, work in self.sub_flows
        )

    @cached_property
    def output_types(self) -> dict[str, type]:
        """The classes of which outputs of agents are instances, those of sub-flows included, by name."""
        found: dict[str, type] = {}
        for node in self.nodes:
            for _, one in [("", node), *stand_ins(node)]:
                if isinstance(one.work, SubFlow):
                    found |= one.work.plan.output_types
                elif isinstance(one.work, Agent):
                    found |= {kind.__qualname__: kind for kind in classes_in(one.work.output)}
        return found

    def with_model(self, model: str) -> Plan:
        """Return the plan with a model for the agents that name none."""
        return Plan([with_model(node, model) for node in self.nodes], self.parameters)

    @cached_property
    def shape(self) -> dict[str, Any]:
        """What its nodes do, to tell whether it was edited since a run began; see ``fingerprint.py``."""
        from .fingerprint import shape_of  # imports this module for types

        return shape_of(self)

    @cached_property
    def sinks(self) -> list[Node]:
        """The nodes that no other node needs. Their outputs are the result."""
        needed = {need for node in self.nodes for need in node.needs}
        return [node for node in self.nodes if node.id not in needed]

    @cached_property
    def open_references(self) -> list[OpenReference]:
        """The references to check before a run, in the order of the nodes. There are often none."""
        from .validation import bad_reference, references_of  # imports this module

        found: list[OpenReference] = []
        for place, node in enumerate(self.nodes):
            is_first = not node.needs and node.for_each is None
            roots = ("input", "parameters", "message") if is_first else ("parameters", "message")
            for field_name, reference in references_of(node):
                problem = bad_reference(reference, node, field_name, self.names)
                if problem is not None or reference.root in roots:
                    found.append(OpenReference(place, node, field_name, reference, problem))
        return found

    def sorter(self) -> TopologicalSorter[str]:
        """Return a new sorter, which says which nodes are ready as others get done."""
        return sorter(self.nodes)

    def runs_alone(self, node: Node) -> bool:
        """Return whether no other node can run at the same time as ``node``."""
        before = set(self.names.before(node))
        after = {node.id}
        for other in self.nodes:
            if not after.isdisjoint(other.needs):
                after.add(other.id)
        return len(before) + len(after) == len(self.nodes)


@dataclass(frozen=True)
class Flow:
    """A plan with an address: the form in which files are loaded and a service runs them.

    Attributes:
        org: The organization.
        project: The project within the organization.
        slug: The flow's name within the project.
        steps: The nodes, in an order in which they can run.
        version: The published version, None for the working copy.
        capture_mode: How much of a run is stored.
        parameters: Defaults for ``{{parameters.x}}``; the values of a call override them.
        description: What the flow is for.
        sources: Other files that the flow was made from.
        files: The text of the flow file and of those that it names; None if the flow is made in Python.
        model: The model of steps that name none.
        content_hash: SHA-256 of files and model; None if the flow was built in code.
    """

    org: str
    project: str
    slug: str
    steps: list[Node]
    version: int | None = None
    capture_mode: CaptureMode = "full"
    parameters: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    sources: tuple[Path, ...] = ()
    files: Mapping[str, str] | None = field(default=None, repr=False)
    model: str | None = None
    content_hash: str | None = None

    def __str__(self) -> str:
        return f"{self.org}/{self.project}/{self.slug}"

    @cached_property
    def flow_id(self) -> str:
        """A UUID made from the address: equal for all versions and in all processes."""
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"noukai:{self}"))

    @cached_property
    def plan(self) -> Plan:
        """The steps, ready to run."""
        return Plan(self.steps, self.parameters)

    def to_mermaid(self) -> str:
        """Return the flow as the text of a Mermaid flowchart."""
        return mermaid(self.steps)


def with_model(node: Node, model: str) -> Node:
    """Return the node with a model, if it asks one and names none; for a sub-flow, its nodes."""
    work = node.work
    if node.fallback:
        inner = (with_model(one, model) if isinstance(one, Node) else one for one in node.fallback)
        node = replace(node, fallback=tuple(inner))
    if isinstance(work, Agent) and work.model is None:
        return replace(node, work=replace(work, model=model))
    if isinstance(work, SubFlow):
        return replace(node, work=replace(work, plan=work.plan.with_model(model)))
    return node


def in_order(nodes: Sequence[Node]) -> list[Node]:
    """Return the nodes in an order in which they can run, which is the given one if it will do.

    Raises:
        graphlib.CycleError: Some nodes wait for each other.
    """
    seen: set[str] = set()
    for node in nodes:
        if not seen.issuperset(node.needs):
            break
        seen.add(node.id)
    else:
        return list(nodes)
    by_id = {node.id: node for node in nodes}
    return [by_id[node_id] for node_id in sorter(nodes).static_order()]


def sorter(nodes: Sequence[Node]) -> TopologicalSorter[str]:
    """Return a sorter over the ids of the nodes."""
    return TopologicalSorter({node.id: node.needs for node in nodes})
