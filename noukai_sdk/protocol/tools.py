"""Tool rounds: run the handler, put its results into the wire's form, count."""

from __future__ import annotations

import warnings
from typing import Any, Protocol

from ..errors import ToolCallLimitError
from ..models.results import ToolCall
from ..models.tool_results import tool_turns
from .call import FlowCall
from .program import CallTools, Program, ToolHandler
from .requests import encode

# From this many messages on, a conversation nears the service's MESSAGES_TOO_LARGE.
MANY_MESSAGES = 200


class Pause(Protocol):
    """What PausedResult and ToolCallsRequired share."""

    execution_id: str
    tool_call_messages: list[dict[str, Any]]
    tool_calls: list[ToolCall]


class ToolRounds:
    """The tool rounds of one run."""

    def __init__(self, call: FlowCall) -> None:
        self._limit = call.max_tool_rounds
        self._used = 0

    def answer(self, handler: ToolHandler, pause: Pause) -> Program[list[dict[str, Any]]]:
        """Run ``handler`` on the pending calls; gives their results in the wire's form."""
        if self._used >= self._limit:
            raise ToolCallLimitError(
                f"the flow still asks for tools after max_tool_rounds={self._limit} rounds",
                execution_id=pause.execution_id,
            )
        self._used += 1
        results = yield CallTools(handler, pause.tool_calls)
        return wire_results(results)


def wire_results(results: Any) -> list[dict[str, Any]]:
    """Tool results in any accepted form as ``{"role": "tool", "tool_call_id", "content"}``."""
    return tool_turns(results, lambda content: encode(content).decode())


def continued(pause: Pause, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The conversation of a pause with the tools' results at its end."""
    messages = [*pause.tool_call_messages, *results]
    if len(messages) > MANY_MESSAGES:
        warnings.warn(
            f"this run carries {len(messages)} tool messages; the service may refuse it as "
            "MESSAGES_TOO_LARGE: let tools return less, or split the flow",
            UserWarning,
            stacklevel=2,
        )
    return messages
