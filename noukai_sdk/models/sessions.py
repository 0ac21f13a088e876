"""A recorded session, as ``GET /seq/sessions/{id}`` returns it (docs/wire.md, "Sessions").

The hosted service sends the plain fields. Our local backend adds ``call``, ``result``, ``error``,
``events`` and ``tool_rounds`` to each execution, so that a replay of a local session is faithful to
the last event; a client works without them.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from .base import WireModel


class StepSnapshot(WireModel):
    """The input and output of one attempt of one step."""

    step_id: str
    attempt: int = 1
    loop_index: int | None = None
    status: str = "completed"
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | float | None = None
    input_snapshot: Any = None
    output_snapshot: Any = None
    error_snapshot: Any = None
    truncated: bool = False


class RecordedCall(WireModel):
    """The request of a call: its flow, and the body of the fresh call as it went over the wire."""

    org: str | None = None
    project: str | None = None
    slug: str | None = None
    version: int | None = None
    request: dict[str, Any] = Field(default_factory=dict)


class RecordedError(WireModel):
    """The error of a failed call.

    A service sends status, code and message. A recorder keeps the whole exception: the name of its class
    in ``type`` and its attributes in ``details``.
    """

    status_code: int | None = None
    code: str | None = None
    message: str = ""
    type: str | None = None
    details: dict[str, Any] = Field(default_factory=dict)


class ToolRound(WireModel):
    """One pause for tools: the pause as it went over the wire, and the results that were sent back."""

    paused: dict[str, Any]
    tool_results: list[dict[str, Any]] | None = None


class SessionExecution(WireModel):
    """One call of the session. ``slug`` is bare, and None when the flow was deleted since."""

    execution_id: str
    flow_id: str | None = None
    slug: str | None = None
    trigger_type: str | None = None
    status: str
    started_at: str | None = None
    completed_at: str | None = None
    trace_capture_mode: str | None = None
    snapshots_available: bool = True
    error_at_step: str | None = None
    steps: list[StepSnapshot] = Field(default_factory=list)
    # Additions of our local backend:
    call: RecordedCall | None = None
    result: Any = None
    error: RecordedError | None = None
    events: list[dict[str, Any]] | None = None
    tool_rounds: list[ToolRound] | None = None


class Session(WireModel):
    """All calls of one session, ordered by the time they began."""

    session_id: str
    executions: list[SessionExecution] = Field(default_factory=list)
