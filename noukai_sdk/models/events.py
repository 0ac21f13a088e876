"""The typed events of a step stream and of a live trace (docs/wire.md, "POST step").

Branch on ``event.type`` or on the class. ``event_type`` is the type on the wire, which differs from
``type`` for ``flow_started`` and ``step_paused_for_tool_calls``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, PrivateAttr

from .base import DecimalText, WireModel
from .results import ToolCalls, ToolResult
from .usage import TokenBreakdown as TokenBreakdown


class StepFailure(WireModel):
    """Why a step failed."""

    code: str | None = None
    message: str | None = None


def _as_failure(value: Any) -> Any:
    return {"message": value} if isinstance(value, str) else value


class RunStarted(WireModel):
    """The run has begun. ``step_count`` is the number of steps of the whole flow."""

    type: ClassVar[Literal["run_started"]] = "run_started"
    event_type: str = "run_started"
    run_id: str | None = None
    execution_id: str | None = None
    flow_id: str | None = None
    step_count: int | None = None


class StepStarted(WireModel):
    """A step has begun. ``step_index`` counts from the start of the whole flow."""

    type: ClassVar[Literal["step_started"]] = "step_started"
    event_type: str = "step_started"
    step_id: str
    name: str | None = None
    step_index: int | None = None


class StepInput(WireModel):
    """The input of a step."""

    type: ClassVar[Literal["step_input"]] = "step_input"
    event_type: str = "step_input"
    step_id: str
    input_data: Any = None


class StepOutput(WireModel):
    """One chunk of a step's output, in order."""

    type: ClassVar[Literal["step_output"]] = "step_output"
    event_type: str = "step_output"
    step_id: str
    output_data: Any


class StepCompleted(WireModel):
    """A step has finished.

    Attributes:
        output: The whole output, of any JSON type.
        duration_ms: How long the step took, in milliseconds.
        cost_usd: Estimated cost in US dollars, a decimal string such as ``"0.001234"``.
    """

    type: ClassVar[Literal["step_completed"]] = "step_completed"
    event_type: str = "step_completed"
    step_id: str
    name: str | None = None
    output: Any
    duration_ms: int | float | None = None
    tokens: TokenBreakdown | None = None
    cost_usd: DecimalText | None = None
    step_index: int | None = None


class StepFailed(WireModel):
    """A step has failed; the stream ends here. If the service sends a text, it is ``error.message``."""

    type: ClassVar[Literal["step_error"]] = "step_error"
    event_type: str = "step_error"
    step_id: str
    name: str | None = None
    error: Annotated[StepFailure, BeforeValidator(_as_failure)] | None = None


class StepPaused(WireModel):
    """The service waits between two steps. The client requests the next one by itself."""

    type: ClassVar[Literal["step_paused"]] = "step_paused"
    event_type: str = "step_paused"
    step_id: str | None = None
    step_index: int | None = None
    execution_id: str | None = None


class ToolCallsRequired(WireModel):
    """The flow waits for tool results: call ``await event.resume(tool_results=...)`` inside the loop."""

    type: ClassVar[Literal["tool_calls_required"]] = "tool_calls_required"
    event_type: str = "step_paused_for_tool_calls"
    run_id: str | None = None
    execution_id: str = ""
    step_id: str
    step_index: int | None = None
    iterations_used: int = 0
    tool_call_messages: list[dict[str, Any]] = Field(default_factory=list)
    tool_calls: ToolCalls = Field(default_factory=list)
    accumulated_outputs: dict[str, Any] = Field(default_factory=dict)

    # Set by the program: takes the results, which the program sends when it continues.
    _stage: Callable[[Sequence[ToolResult]], None] | None = PrivateAttr(None)

    async def resume(self, *, tool_results: Sequence[ToolResult]) -> None:
        """Stage the results of the tools; the stream sends them when it continues. Async clients only.

        Args:
            tool_results: One result for each tool call, in any form that ``PausedResult.resume`` takes.

        Raises:
            TypeError: The event is not from an async client's stream, or the stream has gone on
                without the results.

        Example:
            >>> async for event in flow.events(message="...", tools=tools):  # doctest: +SKIP
            ...     if event.type == "tool_calls_required":
            ...         await event.resume(tool_results=run(event.tool_calls))
        """
        if self._stage is None:
            raise TypeError("resume() belongs to an async stream: pass tool_handler= elsewhere")
        self._stage(tool_results)


class FlowCompleted(WireModel):
    """The flow has finished; the stream ends here."""

    type: ClassVar[Literal["flow_completed"]] = "flow_completed"
    event_type: str = "flow_completed"
    run_id: str | None = None
    execution_id: str | None = None
    result: Any = None
    summary: Any = None


StreamEvent = (
    RunStarted
    | StepStarted
    | StepInput
    | StepOutput
    | StepCompleted
    | StepFailed
    | StepPaused
    | ToolCallsRequired
    | FlowCompleted
)

EVENT_CLASSES: dict[str, type[StreamEvent]] = {
    "run_started": RunStarted,
    "flow_started": RunStarted,
    "step_started": StepStarted,
    "step_input": StepInput,
    "step_output": StepOutput,
    "step_completed": StepCompleted,
    "step_error": StepFailed,
    "step_paused": StepPaused,
    "step_paused_for_tool_calls": ToolCallsRequired,
    "flow_completed": FlowCompleted,
}
"""The class of each event type on the wire."""
