"""Workflows built in code: nodes, and the connections between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..runtime import checks
from .kinds import Branch, Decision
from .mermaid import mermaid
from .node import Node
from .plan import CaptureMode, Flow, Plan
from .validation import Problem, WorkflowError, problems_of, unknown_models

__all__ = ["Workflow", "WorkflowError"]


@dataclass(frozen=True)
class _Edge:
    source: str
    target: str
    when: tuple[Branch, ...] | None


class Workflow:
    """A directed graph of nodes without cycles.

    Args:
        name: The name that people see.
        parameters: Defaults for ``{{parameters.x}}``; the inputs of a call override them.
        description: What the workflow is for.

    Raises:
        TypeError: An argument is of the wrong type.

    Example:
        >>> workflow = Workflow("Shout")
        >>> workflow.add_node(Node.transform("Loud", "uppercase"))
        'Loud'
        >>> workflow.validate()
    """

    def __init__(
        self, name: str, *, parameters: Mapping[str, Any] | None = None, description: str = ""
    ) -> None:
        checks.text("the name of a workflow", name)
        if parameters is not None:
            checks.mapping("parameters", parameters)
        checks.text("description", description)
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
        """The nodes in the order in which they were added, with their connections in ``needs``."""
        incoming: dict[str, list[_Edge]] = {}
        for edge in self._edges:
            incoming.setdefault(self._id_of(edge.target), []).append(edge)
        nodes = list(self._nodes)
        for place, node in enumerate(nodes):
            edges = incoming.get(node.id)
            if edges:
                needs = dict.fromkeys(self._id_of(edge.source) for edge in edges)
                when = self._branches(edges)
                nodes[place] = replace(
                    node, needs=(*node.needs, *needs), when={**node.when, **when}
                )
        return nodes

    def _branches(self, edges: Sequence[_Edge]) -> dict[str, tuple[Branch, ...]]:
        """Return the branches of each source that lead to the node that all the edges lead to."""
        if all(edge.when is None for edge in edges):
            return {}
        works = {node.id: node.work for node in self._nodes}
        branches: dict[str, tuple[Branch, ...]] = {}
        anyway: set[str] = set()
        for edge in edges:
            source = self._id_of(edge.source)
            when = edge.when
            if when is None:
                work = works.get(source)
                when = work.unsaid if isinstance(work, Decision) else None
            if when is None:
                anyway.add(source)
            else:
                branches[source] = (*branches.get(source, ()), *when)
        return {source: each for source, each in branches.items() if source not in anyway}

    def add_node(self, node: Node) -> str:
        """Add a node.

        Returns:
            The node's id, for :meth:`connect`.

        Raises:
            TypeError: ``node`` is not a Node.
            ValueError: The workflow has a node with this id already.
        """
        checks.of_type("node", node, Node, "a Node, as in Node.agent('Draft')")
        if node.id in self._ids:
            raise ValueError(f"there is a node {node.id!r} already: give this one another id")
        self._ids.add(node.id)
        self._id_by_name.setdefault(node.name, node.id)
        self._nodes.append(node)
        self._plan = None
        return node.id

    def connect(
        self, from_id: str, to_id: str, *, when: Branch | Sequence[Branch] | None = None
    ) -> None:
        """Start ``to_id`` when ``from_id`` is done, with its output as input.

        A node with several parents receives their outputs in the order of these calls. Either node
        may be added later; :meth:`validate` reports the ones that are missing.

        Args:
            from_id: A node's id or name.
            to_id: A node's id or name.
            when: The branch, or branches, of the condition or route ``from_id`` on which ``to_id`` runs.
                By default, True for a condition, and any branch for a route.

        Raises:
            TypeError: A node is not named by a str, or a branch is not a text, a number, True or False.
        """
        name = "the id or name of a node, as a str, which add_node returns"
        checks.of_type("from_id", from_id, str, name)
        checks.of_type("to_id", to_id, str, name)
        if isinstance(when, str | int | float):
            when = [when]
        if when is not None:
            branch = "a str, a number, True or False"
            checks.of_type("when", when, list | tuple | set, f"{branch}, or a list of them")
            for value in when:
                checks.of_type("when", value, str | int | float, branch)
        self._edges[_Edge(from_id, to_id, None if when is None else tuple(when))] = None
        self._plan = None

    def problems(self) -> list[Problem]:
        """Return everything that is wrong with the workflow; empty if it can run."""
        return self._problems(self.nodes)

    def validate(self) -> None:
        """Check the whole workflow.

        Raises:
            WorkflowError: It cannot run. ``.problems`` lists everything that is wrong with it: cycles,
                unknown names, unreachable nodes, references without a value, no nodes.
        """
        self.plan  # noqa: B018 - the property checks before it returns

    @property
    def plan(self) -> Plan:
        """The workflow, ready to run. It is made once and kept until the workflow changes.

        Raises:
            WorkflowError: As for :meth:`validate`.
        """
        if self._plan is None:
            nodes = self.nodes
            problems = self._problems(nodes)
            if problems:
                lines = "".join(f"\n- {problem}" for problem in problems)
                raise WorkflowError(f"workflow {self.name!r} cannot run:{lines}", problems)
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
        """Return the workflow as a flow with an address, for a service.

        Args:
            org: The organization.
            project: The project within the organization.
            slug: The name within the project.
            version: The published version, None for the working copy.
            capture_mode: How much of a run is stored.
            model: The model of agents that name none.

        Raises:
            WorkflowError: As for :meth:`validate`.
        """
        plan = self.plan if model is None else self.plan.with_model(model)
        return Flow(
            org=org,
            project=project,
            slug=slug,
            steps=plan.nodes,
            version=version,
            capture_mode=capture_mode,
            parameters=self.parameters,
            description=self.description or self.name,
        )

    def to_mermaid(self) -> str:
        """Return the workflow as the text of a Mermaid flowchart.

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

    def _problems(self, nodes: list[Node]) -> list[Problem]:
        problems = []
        connected = {name for node in self._nodes if node.needs for name in (node.id, *node.needs)}
        for edge in self._edges:
            source, target = self._id_of(edge.source), self._id_of(edge.target)
            connected |= {source, target}
            # An unknown source is reported as a need of the target.
            if target not in self._ids:
                message = f"there is no node {edge.target!r} to connect to"
                problems.append(Problem(None, None, "connect", message))
        for place, node in enumerate(self._nodes):
            # A workflow without any edge is a set of nodes that all run at once.
            if connected and node.id not in connected:
                message = "it is unreachable: connect it to the others"
                problems.append(Problem(place, node.id, "connect", message))
        return [*problems, *problems_of(nodes), *unknown_models(nodes)]
