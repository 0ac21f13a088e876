"""The state of a run: the call's input, and what the steps have produced so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class RunState:
    """One run of a flow. The engine updates the fields from ``outputs`` on; a copy can be resumed.

    Attributes:
        message: The input of the flow; None if ``messages`` is given.
        messages: Chat turns instead of ``message``. The last user turn is the message; every step
            that refers to it gets the others around it.
        parameters: Values for ``{{parameters.x}}``; they win over the flow's defaults.
        attachments: ``{"url", "mime_type"}`` each, sent along with the message.
        block_overrides: Step id to settings that replace the step's own: model, prompt, system,
            temperature, max_tokens, timeout, retry.
        input_overrides: Step id to the input of that step, instead of the message or its parents'
            outputs.
        step_outputs: Step id to the output of a step that is not to run.
        tools: Offered to the steps that allow tools, in OpenAI's form.
        tool_choice: Sent along with ``tools``.
        outputs: Step id to output, for completed steps; None for a skipped step.
        step_index: The number of completed steps, which is the index of the next one.
        iterations_used: How often the step at ``step_index`` has asked for tools.
        tool_messages: To resume after a tool pause: the messages of the pause and the tool results.
        stored_bytes: What the run has emitted so far, see :class:`~.sizes.Budget`.
        usages: What each step has used so far, by its id; of steps that have not ended, and of those that
            have ended when the run last stopped. See :attr:`~.stats.Usage.as_dict`.
        inner: What is finished inside of steps that are not: outputs by the path of a loop or sub-flow
            (see :class:`~.step_context.StepContext`), then by an item's index or a node's id.
        approvals: Decisions of people, by the path of the node that waits for them: ``approved``,
            ``comment``, and ``value`` if the person has edited it.
        failed_items: The indexes of failed items that loops have kept, by the path of the loop.
    """

    execution_id: str
    message: Any = None
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    block_overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    input_overrides: dict[str, Any] = field(default_factory=dict)
    step_outputs: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    step_index: int = 0
    iterations_used: int = 0
    tool_messages: list[dict[str, Any]] | None = None
    stored_bytes: int = 0
    usages: dict[str, dict[str, Any]] = field(default_factory=dict)
    inner: dict[str, dict[str, Any]] = field(default_factory=dict)
    failed_items: dict[str, list[int]] = field(default_factory=dict)
    approvals: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def stored(cls, values: Mapping[str, Any]) -> RunState:
        """Return the state with these values, which another version of this package may have stored."""
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})
