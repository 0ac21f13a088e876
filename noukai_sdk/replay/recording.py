"""One recorded call, whatever it was read from."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from pydantic import BaseModel, ConfigDict

from ..models.sessions import RecordedError, ToolRound
from ..protocol.call import CallKind
from .fingerprint import fingerprint, message_fingerprint


class Recording(BaseModel):
    """A call and its answer, in the wire's own words.

    Attributes:
        slug: Bare; None for a flow that was deleted since.
        kind: None where the source does not say: then it answers calls of any kind.
        request: The body of the fresh call; None where the source does not hold it.
        message_only: ``request`` holds nothing but the message.
        started_at, completed_at: Seconds, on one clock for the whole cassette.
        result: The final answer of ``execute``, or the submission of a job.
        error: The error answer, for a call that failed.
        rounds: Pauses for tools, with the results that were sent back.
        events: Every event of a stream, as it came.
        closed: The stream was closed by the service, with no event that says so.
        chunks: When what came: ``(seconds since the call began, 0)`` for each request that went
            out; ``(seconds, number of events)`` for each network chunk that held any; and ``(seconds,
            1)`` for each whole answer and each error. Empty where that was not recorded.
        statuses: What each look at a job saw.
        look_errors: Looks that ended in an error: ``(number of statuses seen before, the error)``.
        given_up: The caller stopped waiting (a timeout, a cancelled task), at ``completed_at``.
        unavailable: Why the recording cannot be served, where it cannot.
    """

    # A service may answer NaN, which pydantic would write as null.
    model_config = ConfigDict(defer_build=True, ser_json_inf_nan="constants")

    slug: str | None
    kind: CallKind | None
    org: str | None = None
    project: str | None = None
    version: int | None = None
    execution_id: str | None = None
    flow_id: str | None = None
    request: dict[str, Any] | None = None
    message_only: bool = False
    started_at: float | None = None
    completed_at: float | None = None
    result: dict[str, Any] | None = None
    error: RecordedError | None = None
    rounds: tuple[ToolRound, ...] = ()
    events: tuple[dict[str, Any], ...] = ()
    closed: bool = False
    chunks: tuple[tuple[float, int], ...] = ()
    statuses: tuple[dict[str, Any], ...] = ()
    look_errors: tuple[tuple[int, RecordedError], ...] = ()
    truncated: bool = False
    abandoned: bool = False
    unavailable: str | None = None

    @cached_property
    def fingerprint(self) -> str | None:
        """What identifies the input, None where it was not recorded."""
        if self.request is None:
            return None
        if self.message_only:
            return message_fingerprint(self.request)
        return fingerprint(self.request, self.version)

    @property
    def output(self) -> Any:
        """What the call came to, whichever way it was made; None where it did not end well."""
        if self.result is not None and "result" in self.result:
            return self.result["result"]
        if self.statuses:
            return self.statuses[-1].get("result")
        ends = [event for event in self.events if event.get("eventType") == "flow_completed"]
        return ends[-1].get("result") if ends else None

    @property
    def seconds(self) -> float:
        """How long the call took; 0 where that is not known."""
        if self.started_at is None or self.completed_at is None:
            return 0.0
        return max(0.0, self.completed_at - self.started_at)

    def __str__(self) -> str:
        return (
            f"{self.slug or '(deleted flow)'} [{self.kind or 'any kind'}] {self.execution_id or ''}"
        )
