"""The progress of a run: its steps with what they have written so far, and how it ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...models.flow_lists import FlowDescription, FlowStep
from ...models.sessions import ToolRound
from ...models.traces import Trace
from .texts import count
from .times import duration

MOST_SHOWN = 20_000
"""Characters of an output that the page shows; the session has all of it."""

Event = Mapping[str, Any]

_ENDED = ("completed", "failed", "cancelled")


@dataclass
class StepProgress:
    """One step of a run.

    Attributes:
        number: Its place among the steps, from 1.
        state: ``waiting``, ``running``, ``completed``, ``skipped`` or ``failed``.
        items: How many items of a list a loop has begun; None if the step is not a loop.
        item_name: What they are: ``round`` if the step repeats itself.
        text: Its output so far.
    """

    number: int
    id: str
    name: str
    kind: str = ""
    model: str | None = None
    state: str = "waiting"
    duration_ms: float | None = None
    tokens: int | None = None
    cost_usd: str | None = None
    items: int | None = None
    item_name: str = "item"
    text: str = ""
    error: str = ""

    @property
    def summary(self) -> str:
        """What is known of it besides its state, in a few words."""
        parts = [self.kind, self.model or "", duration(self.duration_ms)]
        if self.items is not None:
            parts.append(count(self.items, self.item_name))
        if self.tokens:
            parts.append(count(self.tokens, "token"))
        if self.cost_usd is not None:
            parts.append(f"${self.cost_usd}")
        return " · ".join(part for part in parts if part)

    @property
    def shown_text(self) -> str:
        """The output, as far as it is shown: its end while it grows, else its beginning."""
        if len(self.text) <= MOST_SHOWN:
            return self.text
        return self.text[-MOST_SHOWN:] if self.state == "running" else self.text[:MOST_SHOWN]

    @property
    def is_cut(self) -> bool:
        """Whether a part of the output is not shown."""
        return len(self.text) > MOST_SHOWN


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model asks for. ``arguments`` is JSON, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True)
class ToolPause:
    """The run waits for the results of these calls, at the step with this index."""

    step_index: int
    calls: Sequence[ToolCall]


@dataclass
class RunProgress:
    """The progress of a run, made from its trace and its events.

    Attributes:
        status: ``pending``, ``running``, ``completed``, ``failed`` or ``cancelled``.
        steps: By id, in the order of the flow.
        pause: What the run waits for, None if it does not wait for tools.
        result: The output as text; None before the end, and if it is not kept.
        error: Why the run failed.
        has_changed: The ids of steps that have changed since :meth:`take_changes`.
    """

    steps: dict[str, StepProgress]
    status: str = "running"
    pause: ToolPause | None = None
    result: str | None = None
    error: str = ""
    has_changed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, steps: Iterable[FlowStep]) -> RunProgress:
        """Return the progress of a run that has not begun."""
        progress = {}
        for number, step in enumerate(steps, 1):
            # A loop of repetitions shows its items.
            item_name = "round" if step.kind == "repeat" and step.for_each is None else "item"
            progress[step.id] = StepProgress(
                number, step.id, step.name, step.kind, step.model, item_name=item_name
            )
        return cls(progress, status="pending")

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self.status in _ENDED

    @property
    def done(self) -> int:
        """How many steps are done."""
        return sum(step.state in ("completed", "skipped") for step in self.steps.values())

    @property
    def shown_result(self) -> str:
        """The result, as far as it is shown."""
        return (self.result or "")[:MOST_SHOWN]

    @property
    def is_cut(self) -> bool:
        """Whether a part of the result is not shown."""
        return len(self.result or "") > MOST_SHOWN

    def read_trace(self, trace: Trace) -> None:
        """Take over the state of a run, and of the steps that are done or failed."""
        self.status = trace.flow_run.status
        if self.has_ended:
            self.pause = None
        for traced in trace.steps:
            step = self._step(traced.step_id)
            self.has_changed.add(step.id)
            if traced.loop_index is not None:
                step.items = max(step.items or 0, traced.loop_index + 1)
                continue
            step.state = traced.status
            step.duration_ms = traced.duration_ms
            step.model = traced.model_used or step.model
            step.tokens = traced.tokens.total if traced.tokens else None
            step.cost_usd = traced.cost_usd
            if traced.status == "completed":
                step.text = as_text(_unwrapped(traced.output_context))
            step.error = _message(traced.error_context)
        if trace.flow_run.error is not None:
            self.error = _message(vars(trace.flow_run.error))

    def read_rounds(self, rounds: Sequence[ToolRound]) -> None:
        """Take over what the run waits for, of its rounds of tool calls."""
        if not rounds or rounds[-1].tool_results is not None:
            return
        paused = rounds[-1].paused
        step = self._step(str(paused.get("pausedAtStep")))
        calls = [_tool_call(call) for call in paused.get("toolCalls") or ()]
        self.pause = ToolPause(step.number - 1, calls)

    def update(self, event: Event) -> None:
        """Apply an event in wire form."""
        kind = event.get("eventType")
        self.pause = None
        if kind == "run_started":
            self.status = "running"
        elif kind == "flow_completed":
            self.status, self.result = "completed", as_text(event.get("result"))
        elif isinstance(event.get("stepId"), str):
            self._update_step(self._step(event["stepId"]), str(kind), event)

    def take_changes(self) -> list[StepProgress]:
        """Return the steps that have changed since the last call, in order."""
        changed = [step for step in self.steps.values() if step.id in self.has_changed]
        self.has_changed.clear()
        return changed

    def _step(self, step_id: str) -> StepProgress:
        # A flow that has changed meanwhile can lack a step of the run.
        if step_id not in self.steps:
            self.steps[step_id] = StepProgress(len(self.steps) + 1, step_id, step_id)
        return self.steps[step_id]

    def _update_step(self, step: StepProgress, kind: str, event: Event) -> None:
        self.has_changed.add(step.id)
        if kind == "step_started":
            self.status = "running"
            if step.state != "running":
                step.items = None
            step.state, step.text, step.error = "running", "", ""
        elif event.get("loopIndex") is not None:
            step.items = max(step.items or 0, event["loopIndex"] + 1)
        elif kind == "step_output":
            step.text += as_text(event.get("outputData"))
        elif kind == "step_completed":
            step.state = "skipped" if event.get("skipped") else "completed"
            step.text = "" if event.get("skipped") else as_text(event.get("output"))
            step.duration_ms = event.get("durationMs")
            step.tokens = (event.get("tokens") or {}).get("total")
            step.cost_usd = event.get("costUsd")
        elif kind == "step_error":
            step.state, step.error = "failed", _message(event.get("error"))
            self.status, self.error = "failed", step.error
        elif kind == "step_paused_for_tool_calls":
            calls = [_tool_call(call) for call in event.get("toolCalls") or ()]
            self.pause = ToolPause(event.get("stepIndex") or 0, calls)


@dataclass(frozen=True)
class RunView:
    """The page of a run: its progress, and where it belongs.

    Attributes:
        address: The flow's organisation, project and slug.
        capture_mode: How much of it is kept; None if the flow does not exist any more.
    """

    address: str
    execution_id: str
    progress: RunProgress
    capture_mode: str | None = None
    session_id: str | None = None
    version: int | None = None
    started_at: str | None = None
    trigger: str | None = None

    @classmethod
    def of(cls, address: str, trace: Trace, flow: FlowDescription | None) -> RunView:
        """Return the view of a run as its trace says."""
        progress = RunProgress.of(() if flow is None else flow.steps)
        progress.read_trace(trace)
        run = trace.flow_run
        return cls(
            address=address,
            execution_id=run.id,
            progress=progress,
            capture_mode=None if flow is None else flow.trace_capture_mode,
            session_id=run.session_id,
            version=run.version,
            started_at=run.started_at,
            trigger=run.trigger_type,
        )

    @property
    def is_job(self) -> bool:
        """Whether it runs in the background."""
        return self.trigger == "job"

    @property
    def takes_results(self) -> bool:
        """Whether the page can continue it; a caller of ``execute`` waits for the response itself."""
        return self.trigger == "step"

    @property
    def keeps_events(self) -> bool:
        """Whether the events of the run can be followed."""
        return self.capture_mode not in ("metadata_only", "off")

    @property
    def flow_url(self) -> str:
        """The page of the flow."""
        return f"/flows/{self.address}"

    @property
    def url(self) -> str:
        """The page of this run."""
        return f"{self.flow_url}/runs/{self.execution_id}"


def as_text(value: Any) -> str:
    """Return a value as a page shows it: a text as it is, anything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)


def _unwrapped(context: Any) -> Any:
    """Return an output of a trace, which wraps what is not an object."""
    if isinstance(context, dict) and list(context) == ["output"]:
        return context["output"]
    return context


def _message(error: Any) -> str:
    if not isinstance(error, Mapping):
        return ""
    return ": ".join(str(error[name]) for name in ("code", "message") if error.get(name))


def _tool_call(call: Mapping[str, Any]) -> ToolCall:
    function = call.get("function") or {}
    return ToolCall(
        str(call.get("id")), str(function.get("name")), as_text(function.get("arguments"))
    )
