"""A flow's run as it goes on, for people: one line a step, the text as it comes."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..local.engine.step_context import StepCompleted
from ..local.workflow.plan import Flow
from ..local.workflow.templates import as_text
from ..models.events import StepFailed, StepOutput, StepStarted, StreamEvent, Tokens

_REFRESHES_A_SECOND = 10
_LAST_CHARS = 400


@dataclass
class StepView:
    """One step, as far as it has come."""

    name: str
    state: str = "waiting"
    started_at: float = 0.0
    took_ms: float | None = None
    tokens: Tokens | None = None
    cost_usd: str | None = None
    text: str = ""
    error: str = ""

    @property
    def seconds(self) -> str:
        """How long it took, or takes so far."""
        if self.state in ("waiting", "skipped"):
            return ""
        so_far = (time.monotonic() - self.started_at) * 1000
        return f"{(so_far if self.took_ms is None else self.took_ms) / 1000:.2f} s"


@dataclass
class Progress:
    """Takes the events of a run, and can be drawn at any time."""

    steps: dict[str, StepView] = field(default_factory=dict)
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    @classmethod
    def of(cls, flow: Flow) -> Progress:
        """Of a flow that has not begun."""
        return cls({step.id: StepView(step.name) for step in flow.steps})

    def take(self, event: StreamEvent) -> None:
        """Take in what has happened."""
        step = self.steps.get(getattr(event, "step_id", None) or "")
        if step is None:
            return
        if isinstance(event, StepStarted):
            step.state, step.started_at, step.text = "running", time.monotonic(), ""
        elif isinstance(event, StepOutput):
            step.text += as_text(event.output_data)
        elif isinstance(event, StepCompleted):
            step.state = "skipped" if event.skipped else "done"
            step.took_ms, step.tokens = event.duration_ms, event.tokens
            step.cost_usd, step.text = event.cost_usd, as_text(event.output)
        elif isinstance(event, StepFailed):
            step.state = "failed"
            step.error = (event.error and event.error.message) or "failed"

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for step in self.steps.values():
            table.add_row(self._mark(step.state), escape(step.name), step.seconds, _used(step))
            if step.error:
                table.add_row("", Text(step.error, style="red"))
        running = [Text(_end_of(s.text), style="dim") for s in self.steps.values() if _is_live(s)]
        return Group(table, *running)

    def _mark(self, state: str) -> RenderableType:
        marks = {
            "waiting": "·",
            "done": "[green]✓[/]",
            "skipped": "[dim]-[/]",
            "failed": "[red]✗[/]",
        }
        return self._spinner if state == "running" else marks[state]


def follow(flow: Flow, events: Iterable[StreamEvent], console: Console) -> list[StreamEvent]:
    """Show the run until it ends; gives the events."""
    progress = Progress.of(flow)
    seen: list[StreamEvent] = []
    with Live(progress, console=console, refresh_per_second=_REFRESHES_A_SECOND):
        for event in events:
            progress.take(event)
            seen.append(event)
    return seen


def _is_live(step: StepView) -> bool:
    return step.state == "running" and bool(step.text)


def _used(step: StepView) -> str:
    total: Any = step.tokens.total if step.tokens else None
    parts = [f"{total} tokens" if total else "", f"${step.cost_usd}" if step.cost_usd else ""]
    return "  ".join(part for part in parts if part)


def _end_of(text: str) -> str:
    return text if len(text) <= _LAST_CHARS else "..." + text[-_LAST_CHARS:]
