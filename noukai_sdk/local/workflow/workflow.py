"""A workflow built in code: nodes, and what goes from which to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .flow import CaptureMode, Flow
from .mermaid import mermaid
from .node import Agent, Node
from .plan import Plan
from .validation import Problem, WorkflowError, problems_of

__all__ = ["Workflow", "WorkflowError"]


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    when: bool


class Workflow:
    """A directed graph of nodes without cycles.

    Args:
        name: What people see.
        parameters: Defaults for ``{{parameters.x}}``; a call's own inputs win.
        description: What it is for.

    Example:
        >>> workflow = Workflow("Shout")
        >>> workflow.add_node(Node.transform("Loud", "uppercase"))
        'Loud'
        >>> workflow.validate()
    """

    def __init__(
        self, name: str, *, parameters: Mapping[str, Any] | None = None, description: str = ""
    ) -> None:
        self.name = name
        self.parameters = dict(parameters or {})
        self.description = description
        self._nodes: list[Node] = []
        self._ids: set[str] = set()
        self._id_by_name: dict[str, str] = {}
        self._edges: dict[_Edge, None] = {}
        self._plan: Plan | None = None

    @property
    def nodes(self) -> list[Node]:
        """The nodes in the order in which they were added, with what they need."""
        incoming: dict[str, list[_Edge]] = {}
        for edge in self._edges:
            incoming.setdefault(self._id_of(edge.target), []).append(edge)
        return [self._connected(node, incoming.get(node.id, [])) for node in self._nodes]

    def add_node(self, node: Node) -> str:
        """Add a node.

        Returns:
            The node's id, for :meth:`connect`.

        Raises:
            ValueError: A node of this id is there already.
        """
        if node.id in self._ids:
            raise ValueError(f"there is a node {node.id!r} already: give this one another id")
        self._ids.add(node.id)
        self._id_by_name.setdefault(node.name, node.id)
        self._nodes.append(node)
        self._plan = None
        return node.id

    def connect(self, from_id: str, to_id: str, *, when: bool = True) -> None:
        """Let ``to_id`` start when ``from_id`` is done, with its output.

        Where a node has several parents, their outputs reach it in the order of these calls. Names
        that are not known yet may be added later; :meth:`validate` reports those that never were.

        Args:
            from_id: A node's id or name.
            to_id: A node's id or name.
            when: What the condition ``from_id`` must come out as for ``to_id`` to run.
        """
        self._edges[_Edge(from_id, to_id, when)] = None
        self._plan = None

    def problems(self) -> list[Problem]:
        """Everything that is wrong with the workflow; empty where it can run."""
        return self._problems(self.nodes)

    def _problems(self, nodes: Sequence[Node]) -> list[Problem]:
        return [*self._bad_edges(), *self._forgotten(), *problems_of(nodes)]

    def validate(self) -> None:
        """Check the whole workflow.

        Raises:
            WorkflowError: It cannot run. ``.problems`` lists everything that is wrong with it: cycles,
                unknown names, unreachable nodes, references to nothing, no nodes.
        """
        self.plan  # noqa: B018 - made for its checks

    @property
    def plan(self) -> Plan:
        """The workflow, ready to run; made once and kept until it is changed.

        Raises:
            WorkflowError: As for :meth:`validate`.
        """
        if self._plan is None:
            nodes = self.nodes
            problems = self._problems(nodes)
            if problems:
                told = "".join(f"\n- {problem}" for problem in problems)
                raise WorkflowError(f"workflow {self.name!r} cannot run:{told}", problems)
            self._plan = Plan(nodes, self.parameters)
        return self._plan

    def as_flow(
        self,
        org: str,
        project: str,
        slug: str,
        *,
        version: int | None = None,
        capture_mode: CaptureMode = "full",
        model: str | None = None,
    ) -> Flow:
        """The workflow under an address, for a service.

        Args:
            org: The organisation.
            project: The project.
            slug: The name in the project.
            version: A published version, None for the working copy.
            capture_mode: How much of a run is stored.
            model: For agents that name no model.

        Raises:
            WorkflowError: As for :meth:`validate`.
        """
        return Flow(
            org=org,
            project=project,
            slug=slug,
            steps=[_with_model(node, model) for node in self.plan.nodes],
            version=version,
            capture_mode=capture_mode,
            parameters=self.parameters,
            description=self.description or self.name,
        )

    def to_mermaid(self) -> str:
        """A picture of the workflow, as the text of a Mermaid flowchart.

        Example:
            >>> workflow = Workflow("One")
            >>> _ = workflow.add_node(Node.agent("Answer"))
            >>> print(workflow.to_mermaid())
            flowchart TD
                n0["Answer"]
        """
        return mermaid(self.nodes)

    def _id_of(self, name: str) -> str:
        return name if name in self._ids else self._id_by_name.get(name, name)

    def _connected(self, node: Node, edges: Sequence[_Edge]) -> Node:
        if not edges:
            return node
        needs = tuple(self._id_of(edge.source) for edge in edges)
        unless = frozenset(self._id_of(edge.source) for edge in edges if not edge.when)
        return replace(node, needs=node.needs + needs, unless=node.unless | unless)

    def _bad_edges(self) -> list[Problem]:
        # Unknown sources are found in the node that needs them; an unknown target is nobody's need.
        unknown = [edge for edge in self._edges if self._id_of(edge.target) not in self._ids]
        return [
            Problem(None, None, "connect", f"there is no node {edge.target!r} to connect to")
            for edge in unknown
        ]

    def _forgotten(self) -> list[Problem]:
        """Nodes without any edge in a workflow that has some: nothing ever reaches them."""
        used = {self._id_of(name) for edge in self._edges for name in (edge.source, edge.target)}
        used |= {name for node in self._nodes if node.needs for name in (node.id, *node.needs)}
        message = "it is unreachable: connect it to the others"
        return [
            Problem(place, node.id, "connect", message)
            for place, node in enumerate(self._nodes)
            if used and node.id not in used
        ]


def _with_model(node: Node, model: str | None) -> Node:
    if isinstance(node.work, Agent) and node.work.model is None:
        return replace(node, work=replace(node.work, model=model))
    return node
