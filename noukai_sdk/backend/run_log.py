"""What one run did: its events as they go over the wire, and its steps, attempt by attempt."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
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


def wire(event: StreamEvent) -> Event:
    """The event as it goes over the wire; ``eventType`` comes first."""
    fields = event.model_dump(by_alias=True)
    return {name: v for name, v in fields.items() if v is not None or name in _ALWAYS}


@dataclass
class StepRecord:
    """One attempt of one step. Times are microseconds since 1970."""

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

    def close(self, status: str, now: int) -> None:
        """The attempt is over."""
        self.status = status
        self.completed_at = now
        self.duration_ms = (now - self.started_at) / 1000


@dataclass
class RunLog:
    """The events and steps of a run, and which of them are not stored yet.

    ``events`` and ``steps`` hold those of this process that are not taken away yet; the numbers
    count from the start of the run, whichever process it began in.
    """

    next_event: int = 0
    next_step: int = 0
    open_step: StepRecord | None = None
    waits_for_tools: bool = False
    events: list[Event] = field(default_factory=list)
    steps: list[StepRecord] = field(default_factory=list)
    _open_chunks: int = 0

    def note(self, event: StreamEvent, now: int) -> Event:
        """Take in what has happened; gives the event in wire form."""
        noted = wire(event)
        self.events.append(noted)
        self.next_event += 1
        self._open_chunks = self._open_chunks + 1 if isinstance(event, StepOutput) else 0
        if isinstance(event, StepStarted):
            self._start(event, now)
        elif self.open_step is not None:
            self._continue(self.open_step, event, noted, now)
        return noted

    def _start(self, event: StepStarted, now: int) -> None:
        attempt = 1
        if self.open_step is not None:
            if self.waits_for_tools:
                # The same attempt goes on with what the tools found.
                self.waits_for_tools = False
                return
            attempt = self.open_step.attempt + 1
            self._close("failed", now)
        self.open_step = StepRecord(self.next_step, event.step_id, attempt, now)
        self.next_step += 1

    def _continue(self, step: StepRecord, event: StreamEvent, noted: Event, now: int) -> None:
        if isinstance(event, StepInput):
            step.input = noted["inputData"]
            if isinstance(step.input, dict):
                step.model_used = step.input.get("model")
        elif isinstance(event, StepCompleted):
            step.output = noted["output"]
            step.tokens = noted.get("tokens")
            step.cost_usd = event.cost_usd
            self._close("completed", now)
        elif isinstance(event, StepFailed):
            step.error = noted.get("error")
            self._close("failed", now)
        elif isinstance(event, ToolCallsRequired):
            self.waits_for_tools = True

    def _close(self, status: str, now: int) -> None:
        assert self.open_step is not None  # the callers have seen it
        self.open_step.close(status, now)
        self.steps.append(self.open_step)
        self.open_step = None

    def give_up(self, error: dict[str, Any], now: int) -> str | None:
        """The run ends in the middle of a step: it has failed. Gives the step's id."""
        if self.open_step is None:
            return None
        step_id = self.open_step.step_id
        self.open_step.error = error
        self._close("failed", now)
        return step_id

    def take(self) -> tuple[int, list[Event], list[StepRecord]]:
        """Hand over what can be stored: the first event's number, the events, the closed steps.

        Chunks of an output that is still growing stay: they are masked as one text.
        """
        ready = len(self.events) - self._open_chunks
        first = self.next_event - len(self.events)
        events, self.events = self.events[:ready], self.events[ready:]
        steps, self.steps = self.steps, []
        return first, events, steps

    def waiting(self) -> list[tuple[int, Event]]:
        """The events that are still to be taken, with their numbers."""
        return list(enumerate(self.events, start=self.next_event - len(self.events)))

    def position(self) -> dict[str, Any]:
        """What another process needs to go on with this log, as JSON values."""
        return {
            "next_event": self.next_event,
            "next_step": self.next_step,
            "open_step": asdict(self.open_step) if self.open_step else None,
            "waits_for_tools": self.waits_for_tools,
        }

    @classmethod
    def at(cls, position: dict[str, Any]) -> RunLog:
        """The log that goes on from :meth:`position`."""
        step = position["open_step"]
        return cls(**{**position, "open_step": StepRecord(**step) if step else None})
