"""What one run did: its events as they go over the wire, and its steps, attempt by attempt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..models.events import (
    StepCompleted,
    StepFailed,
    StepInput,
    StepOutput,
    StepStarted,
    StreamEvent,
    ToolCallsRequired,
)
from .capture import Event

# What is said even where it is null: the rest of an event's fields are left out then.
_ALWAYS = {"inputData", "outputData", "output", "result"}
Place = tuple[str, "int | None"]
"""A step's id and, in a loop, the item's place."""

OfAStep = StepInput | StepOutput | StepCompleted | StepFailed | ToolCallsRequired


def wire(event: StreamEvent) -> Event:
    """The event as it goes over the wire; ``eventType`` comes first."""
    fields = event.model_dump(by_alias=True)
    return {name: v for name, v in fields.items() if v is not None or name in _ALWAYS}


@dataclass
class StepRecord:
    """One attempt of one step, or of one item of a step that loops. Times are microseconds since 1970.

    Attributes:
        loop_index: The item's place in the list; None for the step as a whole.
        waits: The step is paused for tools; the same attempt goes on with what they find.
        first_chunk: The number of the event with the first piece of the output that is growing.
    """

    number: int
    step_id: str
    attempt: int
    started_at: int
    status: str = "running"
    loop_index: int | None = None
    completed_at: int | None = None
    duration_ms: float | None = None
    model_used: str | None = None
    tokens: dict[str, Any] | None = None
    cost_usd: str | None = None
    input: Any = None
    output: Any = None
    error: dict[str, Any] | None = None
    waits: bool = False
    first_chunk: int | None = None


@dataclass
class RunLog:
    """The events and steps of a run, and which of them are not stored yet.

    ``events`` and ``steps`` hold those that were not taken away yet; the numbers count from the
    start of the run, whichever process it began in.
    """

    next_event: int = 0
    next_step: int = 0
    open_steps: dict[Place, StepRecord] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)

    def note(self, event: StreamEvent, now: int) -> Event:
        """Take in what has happened; gives the event in wire form."""
        noted = wire(event)
        number = self.next_event
        self.events.append(noted)
        self.next_event += 1
        if isinstance(event, StepStarted):
            self._start(event.step_id, now)
        elif isinstance(event, OfAStep):
            step = self._step_of(event, now)
            self._continue(step, event, noted, now)
            step.first_chunk = _first_chunk(step, event, number)
        return noted

    def _step_of(self, event: OfAStep, now: int) -> StepRecord:
        # A step that was left out completes without having started.
        step = self.open_steps.get((event.step_id, None)) or self._start(event.step_id, now)
        index = getattr(event, "loop_index", None)
        if index is None:
            return step
        item = self.open_steps.get((event.step_id, index))
        return item or self._open(event.step_id, index, step.attempt, now)

    def _start(self, step_id: str, now: int) -> StepRecord:
        before = self.open_steps.get((step_id, None))
        if before is not None and before.waits:
            before.waits = False
            return before
        if before is not None:
            self._close(before, "failed", now)
        return self._open(step_id, None, 1 if before is None else before.attempt + 1, now)

    def _open(self, step_id: str, index: int | None, attempt: int, now: int) -> StepRecord:
        step = StepRecord(self.next_step, step_id, attempt, now, loop_index=index)
        self.open_steps[step_id, index] = step
        self.next_step += 1
        return step

    def _continue(self, step: StepRecord, event: StreamEvent, noted: Event, now: int) -> None:
        if isinstance(event, StepInput):
            step.input = noted["inputData"]
            if isinstance(step.input, dict):
                step.model_used = step.input.get("model")
        elif isinstance(event, StepCompleted):
            step.output = noted["output"]
            step.tokens = noted.get("tokens")
            step.cost_usd = event.cost_usd
            self._close(step, "skipped" if noted.get("skipped") else "completed", now)
        elif isinstance(event, StepFailed):
            step.error = noted.get("error")
            self._close(step, "failed", now)
        elif isinstance(event, ToolCallsRequired):
            step.waits = True

    def _close(self, step: StepRecord, status: str, now: int) -> None:
        """The attempt is over, and so are those of its items."""
        for item in [s for s in self.open_steps.values() if s.step_id == step.step_id]:
            if item.loop_index is not None and status == "completed":
                item.output = step.output[item.loop_index]
            item.status = status
            item.completed_at = now
            item.duration_ms = (now - item.started_at) / 1000
            item.error = step.error
            self.steps.append(item)
            del self.open_steps[item.step_id, item.loop_index]

    def interrupt(self, error: dict[str, Any], now: int, *, waiting: bool = False) -> str | None:
        """No step is in progress any more, but those that wait for tools: the others have failed.

        Args:
            error: What they fail with.
            now: Microseconds since 1970.
            waiting: Those that wait for tools have failed too.

        Returns:
            The id of the first of them, None where there was none.
        """
        running = [step for step in self.open_steps.values() if waiting or not step.waits]
        cut_off = [step for step in running if step.loop_index is None]
        for step in cut_off:
            step.error = error
            self._close(step, "failed", now)
        return cut_off[0].step_id if cut_off else None

    def take(self) -> tuple[int, list[Event], list[StepRecord]]:
        """Hand over what can be stored: the first event's number, the events, the closed steps.

        Events from the first piece of a growing output on stay: its pieces are masked as one text.
        """
        growing = [s.first_chunk for s in self.open_steps.values() if s.first_chunk is not None]
        first = self.next_event - len(self.events)
        ready = min(growing, default=self.next_event) - first
        events, self.events = self.events[:ready], self.events[ready:]
        steps, self.steps = self.steps, []
        return first, events, steps

    def waiting(self) -> list[tuple[int, Event]]:
        """The events that are still to be taken, with their numbers."""
        return list(enumerate(self.events, start=self.next_event - len(self.events)))

    def position(self) -> dict[str, Any]:
        """What another process needs to go on with this log: values that JSON has words for."""
        return {
            "nextEvent": self.next_event,
            "nextStep": self.next_step,
            "openSteps": [vars(step) for step in self.open_steps.values()],
        }

    @classmethod
    def at(cls, position: dict[str, Any]) -> RunLog:
        """The log that goes on from :meth:`position`."""
        steps = [StepRecord(**step) for step in position["openSteps"]]
        places = {(step.step_id, step.loop_index): step for step in steps}
        return cls(position["nextEvent"], position["nextStep"], places)


def _first_chunk(step: StepRecord, event: StreamEvent, number: int) -> int | None:
    if not isinstance(event, StepOutput):
        return None
    return number if step.first_chunk is None else step.first_chunk
