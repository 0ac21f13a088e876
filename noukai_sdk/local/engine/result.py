"""The result of a workflow's run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...models.events import TokenBreakdown, ToolCallsRequired
from .approval import ApprovalRequest
from .failures import NodeError
from .state import RunState
from .stats import Usage

State = Literal["completed", "failed", "paused"]


class Outputs(dict[str, Any]):
    """Outputs by the names of their nodes; ``[]``, ``in`` and ``get`` take an id too.

    Args:
        outputs: Each output by the node's name.
        names: Each node's name by its id.
    """

    def __init__(self, outputs: Mapping[str, Any], names: Mapping[str, str]) -> None:
        super().__init__(outputs)
        self._names = names

    def __missing__(self, node_id: str) -> Any:
        name = self._names.get(node_id, node_id)
        if not super().__contains__(name):
            known = ", ".join(map(repr, self)) or "none"
            raise KeyError(f"there is no output of a node {node_id!r}; there are {known}")
        return super().__getitem__(name)

    def __contains__(self, name: object) -> bool:
        return super().__contains__(name) or super().__contains__(self._names.get(str(name)))

    def get(self, name: str, default: Any = None) -> Any:
        """Return the output of the node with this name or id, else ``default``."""
        try:
            return self[name]
        except KeyError:
            return default


@dataclass(frozen=True)
class WorkflowResult:
    """The outcome of a run. Values keep their Python types.

    Attributes:
        result: The output of the last node; if several nodes are last, their outputs by id.
        inputs: The inputs of the run.
        outputs: Each node's output by the node's name, without skipped nodes. Lookups take an id too.
        skipped: Names of the nodes that a condition skipped.
        errors: Why the run failed; empty if it did not.
        pause: The tool calls that the run waits for; pass their results to ``executor.resume``.
        approvals: The decisions that it waits for; pass them to ``executor.resume``.
        tokens: The tokens of all models together, those before a pause and of failed nodes included;
            None if no model counted any.
        cost_usd: Estimated cost in US dollars as a decimal string, as far as prices are known.
        usages: What each agent and sub-flow has used, by the node's id.
    """

    result: Any
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    took_ms: float
    names: Mapping[str, str] = field(repr=False)
    run_state: RunState = field(repr=False)
    skipped: Sequence[str] = ()
    errors: Sequence[NodeError] = ()
    pause: ToolCallsRequired | None = None
    approvals: Sequence[ApprovalRequest] = ()
    tokens: TokenBreakdown | None = None
    cost_usd: str | None = None
    usages: Mapping[str, Usage] = field(default_factory=dict, repr=False)

    @property
    def run_id(self) -> str:
        """The id of the run, for ``executor.resume(workflow, run_id)`` of an executor with a store."""
        return self.run_state.execution_id

    def is_success(self) -> bool:
        """Return True if every node completed or was skipped."""
        return self.state() == "completed"

    def is_failed(self) -> bool:
        """Return True if a node failed; ``errors`` says which and why."""
        return self.state() == "failed"

    def is_paused(self) -> bool:
        """Return True if the run waits for tool results or approvals."""
        return self.state() == "paused"

    def state(self) -> State:
        """Return ``"completed"``, ``"failed"`` or ``"paused"``."""
        if self.errors:
            return "failed"
        return "paused" if self.pause is not None or self.approvals else "completed"

    def execution_time_ms(self) -> float:
        """Return how long the run took, in milliseconds."""
        return self.took_ms

    def get_variable(self, key: str, default: Any = None) -> Any:
        """Return a node's output by the node's name or id, or an input; else ``default``."""
        return self.outputs[key] if key in self.outputs else self.inputs.get(key, default)

    def get_all_variables(self) -> dict[str, Any]:
        """Return inputs and outputs by name; a node's output hides an input of the same name."""
        return {**self.inputs, **self.outputs}

    def variables(self) -> list[tuple[str, Any]]:
        """Return :meth:`get_all_variables` as pairs."""
        return list(self.get_all_variables().items())

    def get_node_output(self, name: str) -> Any:
        """Return the output of the node with this name or id; None if it has none."""
        return self.outputs.get(self.names.get(name, name))

    def get_node_response_metadata(self, name: str) -> dict[str, Any] | None:
        """Return what the agent or sub-flow with this name or id has used, over all its attempts.

        Returns:
            ``model``, ``tokens``, ``cost_usd``, ``latency_ms`` and ``fallbacks``, the names of the
            models and nodes used as fallbacks; None for any other node.
        """
        ids = {node_name: node_id for node_id, node_name in self.names.items()}
        usage = self.usages.get(ids.get(name, name))
        if usage is None:
            return None
        return {
            "model": usage.model,
            "tokens": usage.tokens,
            "cost_usd": usage.cost_usd,
            "latency_ms": usage.took_ms,
            "fallbacks": list(usage.fallbacks),
        }

    def get_all_node_outputs(self) -> dict[str, Any]:
        """Return each node's output by the node's name."""
        return dict(self.outputs)

    @property
    def failed_items(self) -> dict[str, list[int]]:
        """The indexes of the failed items, by the name of each loop with ``on_error="keep"`` that has some.

        A loop in a sub-flow goes by its path, such as ``"Review/Each"``.
        """
        failed = self.run_state.failed_items
        return {self.names.get(path, path): sorted(indexes) for path, indexes in failed.items()}

    def raise_for_failure(self) -> None:
        """Raise the first failed node's error; do nothing if the run did not fail.

        Raises:
            Exception: The node's own exception.
        """
        if self.errors:
            raise self.errors[0].error
