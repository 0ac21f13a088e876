"""Where a run stands: the call's own input, and what the steps made of it so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class RunState:
    """One run of a flow. The engine changes the fields from ``outputs`` on; a copy can be resumed.

    Attributes:
        message: What the flow is asked; None where ``messages`` is given.
        messages: Chat turns in place of ``message``; the last user turn is the message, and the
            others stand around it in every step that refers to it.
        parameters: For ``{{parameters.x}}``; values here win over the flow's defaults.
        attachments: ``{"url", "mime_type"}`` each; they go with the message.
        block_overrides: Step id to settings that replace the step's own: model, prompt, system,
            temperature, max_tokens, timeout, retry.
        input_overrides: Step id to the value that it takes for its input, in place of the message
            or of its parents' outputs.
        tools, tool_choice: Offered to the steps that allow tools, in OpenAI's form.
        outputs: Step id to output, for the steps that are done; None for one that was skipped.
        step_index: How many steps are done, which is the index of the next one.
        iterations_used: How often the step at ``step_index`` has asked for tools.
        tool_messages: To go on after a tool pause: the pause's messages, then the tool results.
        step_tokens: What the paused step has used so far: ``prompt``, ``completion``, ``total``.
    """

    execution_id: str
    message: Any = None
    messages: list[dict[str, Any]] | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    attachments: list[dict[str, Any]] = field(default_factory=list)
    block_overrides: dict[str, dict[str, Any]] = field(default_factory=dict)
    input_overrides: dict[str, Any] = field(default_factory=dict)
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    outputs: dict[str, Any] = field(default_factory=dict)
    step_index: int = 0
    iterations_used: int = 0
    tool_messages: list[dict[str, Any]] | None = None
    step_tokens: dict[str, int] | None = None
