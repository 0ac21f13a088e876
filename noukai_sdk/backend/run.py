"""One run of a flow: what it was asked, where it stands and how it ended. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from ..models.events import FlowCompleted, StepFailed, StepPaused, StreamEvent, ToolCallsRequired
from .capture import Event
from .run_log import RunLog

Trigger = Literal["execute", "step", "job"]
Status = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]

ENDED = frozenset({"completed", "failed", "cancelled"})

_CUT_OFF = {"code": "CANCELLED", "message": "the run stopped before this step had ended"}


@dataclass
class Run:
    """A run, from its first call to its end, through every pause.

    Attributes:
        version: As the call asked for it; None for the draft.
        request: The body of the first call, without null fields and cursor.
        started_at, completed_at: Microseconds since 1970.
        status: ``"paused"`` is ours: it waits for tool results or for the next step call.
        pause: The event of the tool pause that it waits in, None outside of one.
        tool_rounds: Each tool pause with the results that came back.
    """

    id: str
    flow: Flow
    version: int | None
    session_id: str | None
    trigger: Trigger
    started_at: int
    request: dict[str, Any]
    state: RunState
    status: Status = "running"
    completed_at: int | None = None
    result: Any = None
    error: dict[str, Any] | None = None
    error_at_step: str | None = None
    pause: Event | None = None
    tool_rounds: list[dict[str, Any]] = field(default_factory=list)
    log: RunLog = field(default_factory=RunLog)

    @cached_property
    def flow_id(self) -> str:
        """The flow's id."""
        return self.flow.flow_id

    @property
    def has_ended(self) -> bool:
        """True once nothing more can happen."""
        return self.status in ENDED

    def note(self, event: StreamEvent, now: int) -> Event:
        """Take in what has happened; gives the event in wire form."""
        noted = self.log.note(event, now)
        if isinstance(event, FlowCompleted):
            self.result = noted["result"]
            self._end("completed", now)
        elif isinstance(event, StepFailed):
            self.error = noted.get("error", {})
            self.error_at_step = event.step_id
            self.log.interrupt(_CUT_OFF, now)
            self._end("failed", now)
        elif isinstance(event, ToolCallsRequired):
            self.status, self.pause = "paused", noted
            self.log.interrupt(_CUT_OFF, now)
            self.tool_rounds.append({"paused": self.paused_body(), "toolResults": None})
        elif isinstance(event, StepPaused):
            self.status = "paused"
        return noted

    def go_on(self, results: list[dict[str, Any]] | None) -> None:
        """Leave a pause, with the tools' results where it waited for some."""
        self.status = "running"
        if self.pause is not None and results is not None:
            self.tool_rounds[-1]["toolResults"] = results
            self.state.tool_messages = [*self.pause["toolCallMessages"], *results]
        self.pause = None

    def stop(self, status: Literal["failed", "cancelled"], message: str, now: int) -> None:
        """End the run from outside, in the middle of whatever it does."""
        error = {
            "code": "INTERNAL_ERROR" if status == "failed" else "CANCELLED",
            "message": message,
        }
        self.error = error
        self.error_at_step = self.log.interrupt(error, now)
        self._end(status, now)

    def _end(self, status: Status, now: int) -> None:
        self.status = status
        self.completed_at = now
        self.pause = None

    def paused_body(self) -> dict[str, Any]:
        """The answer of ``POST execute`` for a tool pause, as docs/wire.md has it."""
        pause = self.pause or {}
        return {
            "status": "tool_calls_required",
            "executionId": self.id,
            "pausedAtStep": pause["stepId"],
            "iterationsUsed": pause["iterationsUsed"],
            "toolCallMessages": pause["toolCallMessages"],
            "toolCalls": pause["toolCalls"],
            "accumulatedOutputs": pause["accumulatedOutputs"],
            "flowId": self.flow_id,
            "blockCount": len(self.flow.steps),
        }
