"""Tool pauses: call the handler, and put its results into the form of the wire."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from ..errors import ToolCallLimitError
from ..models.results import ToolCall, tool_turns
from .call import FlowCall
from .program import CallTools, Program
from .requests import encode

# With more messages than this, a conversation nears the service's MESSAGES_TOO_LARGE.
MANY_MESSAGES = 200


class Pause(Protocol):
    """The fields that PausedResult and ToolCallsRequired share."""

    execution_id: str
    tool_call_messages: list[dict[str, Any]]
    tool_calls: list[ToolCall]


def call_handler(call: FlowCall, pause: Pause, rounds: int) -> Program[list[dict[str, Any]]]:
    """Call the ``tool_handler`` of ``call``, and return its results in the form of the wire.

    ``rounds`` is how many pauses of this run the handler has resumed before.
    """
    if rounds >= call.max_tool_rounds:
        raise ToolCallLimitError(
            f"the flow still asks for tools after max_tool_rounds={call.max_tool_rounds} rounds",
            execution_id=pause.execution_id,
        )
    assert call.tool_handler is not None  # callers have checked
    results = yield CallTools(call.tool_handler, pause.tool_calls)
    return wire_results(results)


def wire_results(results: Any) -> list[dict[str, Any]]:
    """Convert tool results to ``{"role": "tool", "tool_call_id", "content"}``."""
    return tool_turns(results, lambda content: encode(content).decode())


def with_results(pause: Pause, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the conversation of a pause with the results of the tools at its end."""
    messages = [*pause.tool_call_messages, *results]
    if len(messages) > MANY_MESSAGES:
        warnings.warn(
            f"this run carries {len(messages)} tool messages; the service may refuse it as "
            "MESSAGES_TOO_LARGE: let tools return less, or split the flow",
            UserWarning,
            stacklevel=2,
        )
    return messages
