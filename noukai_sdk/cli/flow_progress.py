"""Show the progress of a flow run on a terminal: one line for each step, and text as it arrives."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from ..local.engine.step_context import StepCompleted
from ..local.workflow.plan import Flow
from ..local.workflow.templates import as_text
from ..models.events import StepFailed, StepOutput, StepStarted, StreamEvent, TokenBreakdown

_REFRESHES_PER_SECOND = 10
_MAX_CHARS = 400
_MARKS = {"waiting": "·", "done": "[green]✓[/]", "skipped": "[dim]-[/]", "failed": "[red]✗[/]"}


@dataclass
class StepProgress:
    """The progress of one step. ``text`` is its output so far."""

    name: str
    state: str = "waiting"
    started_at: float = 0.0
    duration_ms: float | None = None
    tokens: TokenBreakdown | None = None
    cost_usd: str | None = None
    text: str = ""
    error: str = ""

    @property
    def duration(self) -> str:
        """The duration in seconds, of a running step up to now."""
        if self.state in ("waiting", "skipped"):
            return ""
        duration_ms = self.duration_ms
        if duration_ms is None:
            duration_ms = (time.monotonic() - self.started_at) * 1000
        return f"{duration_ms / 1000:.2f} s"

    @property
    def usage(self) -> str:
        """Tokens and cost, as far as they are known."""
        total = self.tokens.total if self.tokens else None
        parts = [f"{total} tokens" if total else "", f"${self.cost_usd}" if self.cost_usd else ""]
        return "  ".join(part for part in parts if part)


@dataclass
class RunProgress:
    """The progress of a run, by step id. Rich can draw it at any time."""

    steps: dict[str, StepProgress]
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def update(self, event: StreamEvent) -> None:
        """Apply an event of the run."""
        step = self.steps.get(getattr(event, "step_id", None) or "")
        if step is None:
            return
        if isinstance(event, StepStarted):
            step.state, step.started_at, step.text = "running", time.monotonic(), ""
        elif isinstance(event, StepOutput):
            step.text += as_text(event.output_data)
        elif isinstance(event, StepCompleted):
            step.state = "skipped" if event.skipped else "done"
            step.duration_ms, step.tokens = event.duration_ms, event.tokens
            step.cost_usd, step.text = event.cost_usd, as_text(event.output)
        elif isinstance(event, StepFailed):
            step.state = "failed"
            step.error = (event.error and event.error.message) or "failed"

    def __rich__(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        texts: list[Text] = []
        for step in self.steps.values():
            mark = self._spinner if step.state == "running" else _MARKS[step.state]
            table.add_row(mark, escape(step.name), step.duration, step.usage)
            if step.error:
                table.add_row("", Text(step.error, style="red"))
            if step.state == "running" and step.text:
                cut = len(step.text) > _MAX_CHARS
                text = "..." + step.text[-_MAX_CHARS:] if cut else step.text
                texts.append(Text(text, style="dim"))
        return Group(table, *texts)


def show_progress(flow: Flow, events: Iterable[StreamEvent], console: Console) -> None:
    """Show a run of ``flow`` until its events end; without a terminal, show only its end."""
    progress = RunProgress({step.id: StepProgress(step.name) for step in flow.steps})
    if not console.is_terminal:
        for event in events:
            progress.update(event)
        console.print(progress)
        return
    with Live(progress, console=console, refresh_per_second=_REFRESHES_PER_SECOND):
        for event in events:
            progress.update(event)
