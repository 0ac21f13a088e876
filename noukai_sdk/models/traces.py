"""Run traces (docs/wire.md, "Run traces")."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from .base import DecimalText, WireModel
from .events import StepFailure
from .usage import TokenBreakdown

StepStatus = Literal["running", "completed", "failed", "skipped"]


class RunSummary(WireModel):
    """The run as a whole. Times are ISO 8601 strings, durations milliseconds.

    Only our backend sends ``version``, ``session_id`` and ``error``.
    """

    id: str
    flow_id: str | None = None
    status: str
    trigger_type: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | float | None = None
    step_count: int | None = None
    version: int | None = None
    session_id: str | None = None
    error: StepFailure | None = None


class StepTrace(WireModel):
    """One attempt of one step. ``cost_usd`` is a decimal string; sizes are bytes."""

    step_id: str
    attempt: int = 1
    loop_index: int | None = None
    status: StepStatus
    started_at: str | None = None
    completed_at: str | None = None
    duration_ms: int | float | None = None
    model_used: str | None = None
    tokens: TokenBreakdown | None = None
    cost_usd: DecimalText | None = None
    input_context: Any = None
    output_context: Any = None
    error_context: Any = None
    input_size_bytes: int | None = None
    output_size_bytes: int | None = None
    truncated: bool = False


class StepAttempts(WireModel):
    """All attempts of one step, oldest first."""

    step_id: str
    attempts: list[StepTrace] = Field(default_factory=list)


class Trace(WireModel):
    """A whole run: its summary and one attempt of each step."""

    flow_run: RunSummary
    steps: list[StepTrace] = Field(default_factory=list)

    @property
    def summary(self) -> RunSummary:
        """The same as ``flow_run``."""
        return self.flow_run

    def _repr_html_(self) -> str:
        from .notebooks import trace_html

        return trace_html(self)
