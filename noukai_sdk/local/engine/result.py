"""What a workflow's run came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from ...models.events import Tokens, ToolCallsRequired
from .failures import NodeError
from .state import RunState

State = Literal["completed", "failed", "paused"]


@dataclass(frozen=True)
class WorkflowResult:
    """The outcome of a run. Values keep their Python types.

    Attributes:
        result: The output of the last node; where several are last, all of theirs by id.
        inputs: What the run was given.
        outputs: Each node's output by the node's name; not those that were skipped.
        skipped: Names of the nodes that a condition left out.
        errors: Why the run failed; empty where it did not.
        pause: What the run waits for: answer its ``tool_calls`` with ``executor.resume``.
        tokens: What all models together have counted, None where none has.
        cost_usd: Estimated cost in US dollars as a decimal string, as far as prices are known.
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
    tokens: Tokens | None = None
    cost_usd: str | None = None

    def is_success(self) -> bool:
        """True where every node has done its work or was skipped."""
        return self.state() == "completed"

    def is_failed(self) -> bool:
        """True where a node has failed; ``errors`` says which and why."""
        return self.state() == "failed"

    def is_paused(self) -> bool:
        """True where the run waits for tool results."""
        return self.state() == "paused"

    def state(self) -> State:
        """``"completed"``, ``"failed"`` or ``"paused"``."""
        if self.errors:
            return "failed"
        return "completed" if self.pause is None else "paused"

    def execution_time_ms(self) -> float:
        """How long the run took, in milliseconds."""
        return self.took_ms

    def get_variable(self, key: str, default: Any = None) -> Any:
        """A node's output by the node's name, or an input; ``default`` where there is neither."""
        return self.get_all_variables().get(key, default)

    def get_all_variables(self) -> dict[str, Any]:
        """The inputs and all outputs by name; a node's output hides an input of the same name."""
        return {**self.inputs, **self.outputs}

    def variables(self) -> list[tuple[str, Any]]:
        """As :meth:`get_all_variables`, as pairs."""
        return list(self.get_all_variables().items())

    def get_node_output(self, name: str) -> Any:
        """The output of the node of this name or id; None where it has none."""
        return self.outputs.get(self.names.get(name, name))

    def get_all_node_outputs(self) -> dict[str, Any]:
        """Each node's output by the node's name."""
        return dict(self.outputs)

    def raise_for_failure(self) -> None:
        """Raise what made the run fail; nothing where it did not.

        Raises:
            Exception: The first failed node's own error.
        """
        if self.errors:
            raise self.errors[0].error
