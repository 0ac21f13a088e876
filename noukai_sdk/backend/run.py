"""One run of a flow: its request, its state, and the log of its events and steps. No I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from ..models.events import (
    FlowCompleted,
    StepCompleted,
    StepFailed,
    StepInput,
    StepOutput,
    StepPaused,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)
from .capture import Event
from .run_usage import run_usage, step_usage
from .store.tables import ENDED

__all__ = ["ENDED", "Run", "RunLog", "Status", "StepRecord", "Trigger", "to_wire"]

Trigger = Literal["execute", "step", "job"]
Status = Literal["pending", "running", "paused", "completed", "failed", "cancelled"]

_STOPPED = {"code": "CANCELLED", "message": "the run stopped before this step had ended"}
# These fields are sent even if they are null; any other null field is left out.
_REQUIRED = {"inputData", "outputData", "output", "result"}


def to_wire(event: StreamEvent, run_id: str) -> Event:
    """Return the event in wire form: ``eventType`` first, then the id of the run under both names.

    An input that is not an object is wrapped: strict clients accept objects only.
    """
    fields = event.model_dump(by_alias=True)
    wire_event = {"eventType": fields["eventType"], "runId": run_id, "executionId": run_id}
    for name, value in fields.items():
        if name not in wire_event and (value is not None or name in _REQUIRED):
            wire_event[name] = value
    if "inputData" in wire_event and not isinstance(wire_event["inputData"], dict):
        wire_event["inputData"] = {"input": wire_event["inputData"]}
    if wire_event.get("tokens"):
        wire_event["tokens"] = _all_counts(wire_event["tokens"])
    return wire_event


def _all_counts(tokens: dict[str, int | None]) -> dict[str, int]:
    """Return the three counts; some models do not report all of them."""
    prompt, completion = tokens["prompt"] or 0, tokens["completion"] or 0
    total = tokens["total"]
    return {
        "prompt": prompt,
        "completion": completion,
        "total": prompt + completion if total is None else total,
    }


@dataclass
class StepRecord:
    """One attempt of a step, or of one item of a step that loops. Times are microseconds since 1970.

    Attributes:
        loop_index: The index of the item or round; None for the step as a whole.
        is_round: It is a round of a step that repeats.
        waits: The step is paused for tools; the same attempt continues with their results.
        first_chunk: The number of the event with the first chunk of an output that is still growing.
    """

    number: int
    step_id: str
    attempt: int
    started_at: int
    status: str = "running"
    loop_index: int | None = None
    completed_at: int | None = None
    duration_ms: int | None = None
    model_used: str | None = None
    tokens: dict[str, Any] | None = None
    cost_usd: str | None = None
    input: Any = None
    output: Any = None
    error: dict[str, Any] | None = None
    waits: bool = False
    first_chunk: int | None = None
    is_round: bool = False


@dataclass
class RunLog:
    """The events and steps of a run, and which of them are not stored yet.

    ``events`` and ``steps`` hold those that :meth:`take` has not returned yet. The numbers count from
    the start of the run, in whichever process it began. ``open_steps`` is keyed by the step's id and,
    for an item of a loop, its index. ``usage`` has what each finished step took, with its number.
    """

    next_event: int = 0
    next_step: int = 0
    open_steps: dict[tuple[str, int | None], StepRecord] = field(default_factory=dict)
    usage: list[tuple[int, dict[str, Any]]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def record(self, event: StreamEvent, wire_event: Event, now: int) -> None:
        """Append an event, and update the step it belongs to."""
        number = self.next_event
        self.events.append(wire_event)
        self.next_event += 1
        if isinstance(event, StepStarted):
            self._start_step(event.step_id, now)
            return
        if not isinstance(
            event, StepInput | StepOutput | StepCompleted | StepFailed | ToolCallsRequired
        ):
            return
        step = self._find_step(event.step_id, getattr(event, "loop_index", None), now)
        if isinstance(event, StepOutput):
            if step.first_chunk is None:
                step.first_chunk = number
            return
        step.first_chunk = None
        if isinstance(event, StepInput):
            step.input = wire_event["inputData"]
            step.model_used = getattr(event, "model", None)
            step.is_round = getattr(event, "is_round", False)
            before = self.open_steps.get((step.step_id, (step.loop_index or 0) - 1))
            if step.is_round and before is not None:
                before.output = step.input["message"]
                self._close(before, "completed", now)
        elif isinstance(event, StepCompleted):
            step.output = wire_event["output"]
            step.tokens = wire_event.get("tokens")
            step.cost_usd = event.cost_usd
            self._close_step(step, "skipped" if wire_event.get("skipped") else "completed", now)
        elif isinstance(event, StepFailed):
            step.error = wire_event.get("error")
            self._close_step(step, "failed", now)
        else:
            step.waits = True

    def _start_step(self, step_id: str, now: int) -> StepRecord:
        before = self.open_steps.get((step_id, None))
        if before is not None and before.waits:
            before.waits = False
            return before
        if before is not None:
            self._close_step(before, "failed", now)
        return self._open_step(step_id, None, 1 if before is None else before.attempt + 1, now)

    def _find_step(self, step_id: str, loop_index: int | None, now: int) -> StepRecord:
        # A skipped step completes without having started.
        step = self.open_steps.get((step_id, None)) or self._start_step(step_id, now)
        if loop_index is None:
            return step
        item = self.open_steps.get((step_id, loop_index))
        return item or self._open_step(step_id, loop_index, step.attempt, now)

    def _open_step(
        self, step_id: str, loop_index: int | None, attempt: int, now: int
    ) -> StepRecord:
        step = StepRecord(self.next_step, step_id, attempt, now, loop_index=loop_index)
        self.open_steps[step_id, loop_index] = step
        self.next_step += 1
        return step

    def _close_step(self, step: StepRecord, status: str, now: int) -> None:
        """Close the attempt and those of its items."""
        for item in [s for s in self.open_steps.values() if s.step_id == step.step_id]:
            if item.loop_index is not None and status == "completed":
                # The output of the last round is that of the step.
                item.output = step.output if item.is_round else step.output[item.loop_index]
            item.error = step.error
            self._close(item, status, now)

    def _close(self, step: StepRecord, status: str, now: int) -> None:
        step.status = status
        step.completed_at = now
        step.duration_ms = round((now - step.started_at) / 1000)
        self.steps.append(step)
        if step.loop_index is None and status == "completed":
            taken = step_usage(step.step_id, step.duration_ms, step.tokens, step.cost_usd)
            self.usage.append((step.number, taken))
        del self.open_steps[step.step_id, step.loop_index]

    def interrupt(self, error: dict[str, Any], now: int, *, waiting: bool = False) -> str | None:
        """Fail the steps in progress, except those that wait for tools.

        Args:
            error: The error of the failed steps.
            now: Microseconds since 1970.
            waiting: Fail the steps that wait for tools, too.

        Returns:
            The id of the first failed step, None if no step was in progress.
        """
        running = [step for step in self.open_steps.values() if waiting or not step.waits]
        interrupted = [step for step in running if step.loop_index is None]
        for step in interrupted:
            step.error = error
            self._close_step(step, "failed", now)
        return interrupted[0].step_id if interrupted else None

    def complete(self, outputs: Mapping[str, Any], now: int) -> None:
        """Close the steps in progress that have an output: it is stored, its event was not."""
        for step in [step for step in self.open_steps.values() if step.loop_index is None]:
            if step.step_id in outputs:
                step.output = outputs[step.step_id]
                self._close_step(step, "completed", now)

    def take(self, *, whole_outputs: bool = True) -> tuple[int, list[Event], list[StepRecord]]:
        """Return what can be stored, once: the first event's number, the events, the closed steps.

        Args:
            whole_outputs: Leave the events from the first chunk of a growing output on, because its
                chunks are masked as one text.
        """
        steps = self.open_steps.values() if whole_outputs else ()
        growing = [step.first_chunk for step in steps if step.first_chunk is not None]
        first = self.next_event - len(self.events)
        ready = min(growing, default=self.next_event) - first
        events, self.events = self.events[:ready], self.events[ready:]
        closed, self.steps = self.steps, []
        return first, events, closed

    def pending(self) -> list[tuple[int, Event]]:
        """Return the events that :meth:`take` has not returned yet, with their numbers."""
        return list(enumerate(self.events, start=self.next_event - len(self.events)))

    def position(self) -> dict[str, Any]:
        """Return the state from which another process can continue this log, as JSON values."""
        return {
            "nextEvent": self.next_event,
            "nextStep": self.next_step,
            "openSteps": [vars(step) for step in self.open_steps.values()],
            "usage": self.usage,
        }

    @classmethod
    def at(cls, position: dict[str, Any]) -> RunLog:
        """Return the log that continues from :meth:`position`."""
        steps = [StepRecord(**step) for step in position["openSteps"]]
        open_steps = {(step.step_id, step.loop_index): step for step in steps}
        # A run that was stored by an earlier version has none.
        usage = [(number, taken) for number, taken in position.get("usage", ())]
        return cls(position["nextEvent"], position["nextStep"], open_steps, usage)


@dataclass
class Run:
    """A run, from its first call through every pause to its end.

    Attributes:
        version: The version that the call asked for; None for the draft.
        request: The body of the first call, without null fields and cursor.
        started_at, completed_at: Microseconds since 1970.
        status: ``"paused"`` is internal: the run waits for tool results or for the next step call.
        pause: The event of the tool pause that the run waits in; None outside of one.
        tool_rounds: Each tool pause with the results that followed it.
        cost_micros: What its steps have cost so far, in millionths of a US dollar.
        keeps_result: The result is stored in every capture mode, because the same call may come again.
        content_hash: SHA-256 of the flow as it was when the run began.
        owner: The process that drives the run; None while none does.
        epoch: Counts the owners: the store refuses what an earlier owner writes.
        strikes: How many processes died in the step that the run is at.
        traceparent: The trace that its spans belong to.
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
    content_hash: str | None = None
    log: RunLog = field(default_factory=RunLog)
    cost_micros: int = 0
    keeps_result: bool = False
    owner: str | None = None
    epoch: int = 0
    strikes: int = 0
    traceparent: str | None = None

    @cached_property
    def flow_id(self) -> str:
        """Return the flow's id."""
        return self.flow.flow_id

    @property
    def has_ended(self) -> bool:
        """Return True if the run has completed, failed or been cancelled."""
        return self.status in ENDED

    def record(self, event: StreamEvent, now: int) -> Event:
        """Update the run by an event, and return the event in wire form."""
        wire_event = to_wire(event, self.id)
        self.log.record(event, wire_event, now)
        if isinstance(event, StepCompleted) and event.cost_usd is not None:
            # Rounded up: what costs something is never free.
            self.cost_micros += math.ceil(Decimal(event.cost_usd) * 1_000_000)
        if isinstance(event, FlowCompleted):
            self.result = wire_event["result"]
            self._end("completed", now)
        elif isinstance(event, StepFailed):
            self.error = wire_event.get("error", {})
            self.error_at_step = event.step_id
            self.log.interrupt(_STOPPED, now)
            self._end("failed", now)
        elif isinstance(event, ToolCallsRequired):
            self.status, self.pause = "paused", wire_event
            self.log.interrupt(_STOPPED, now)
            self.tool_rounds.append({"paused": self.paused_body(), "toolResults": None})
        elif isinstance(event, StepPaused):
            self.status = "paused"
        return wire_event

    def resume(self, results: list[dict[str, Any]] | None) -> None:
        """Leave a pause, with the tool results if the run waited for some."""
        self.status = "running"
        if self.pause is not None and results is not None:
            self.tool_rounds[-1]["toolResults"] = results
            self.state.tool_messages = [*self.pause["toolCallMessages"], *results]
        self.pause = None

    def stop(self, status: Literal["failed", "cancelled"], message: str, now: int) -> None:
        """End the run from outside, in the middle of its steps."""
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

    def completed_body(self) -> dict[str, Any]:
        """Return the response of ``POST execute`` for a completed run, as docs/wire.md defines it."""
        steps = [taken for _, taken in sorted(self.log.usage, key=lambda each: each[0])]
        return {
            "status": "completed",
            "result": self.result,
            "flowId": self.flow_id,
            "blockCount": len(self.flow.steps),
            "executionId": self.id,
            **run_usage(self.started_at, self.completed_at, steps, mode=self.flow.capture_mode),
        }

    def paused_body(self) -> dict[str, Any]:
        """Return the response of ``POST execute`` for a tool pause, as docs/wire.md defines it."""
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
