"""Show ``noukai sessions replay`` on a terminal: its progress, and a table of causes."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from typing_extensions import Self

from ..batch.causes import CauseGroup, SessionResult, grouped
from ..batch.state_file import BatchHeader
from .batch_files import BatchRun, counts_of
from .page_links import linked
from .session_views import open_console
from .shared_options import count

_COLORS = {"equal": "green", "skipped": "dim", "error": "magenta"}
_MOST_GROUPS = 15
_MOST_IDS = 3
_LENGTH_OF_ID = 37
_BEFORE_IDS = 22
MOST_IN_FULL = 3
_WITHOUT_TERMINAL = 160
# Seconds between two lines of progress if there is no terminal.
_BETWEEN_LINES = 10.0


class ProgressView:
    """The progress of a run, on standard error: a bar on a terminal, else a line now and then.

    Args:
        total: The number of sessions.
        known: The results that are there already.
    """

    def __init__(self, total: int, known: Sequence[SessionResult]) -> None:
        self._results = {each.source: each for each in known}
        self._total = total
        self._printed = time.monotonic()
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("replaying"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.fields[counts]}"),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task("", total=total, completed=len(known), counts="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def add(self, result: SessionResult) -> None:
        """Show one more result."""
        self._results[result.source] = result
        done = len(self._results)
        if self._bar is not None:
            counts = _counted([*self._results.values()], color=True)
            self._bar.update(self._task, completed=done, counts=counts)
        elif time.monotonic() - self._printed >= _BETWEEN_LINES and done < self._total:
            self._printed = time.monotonic()
            counts = _counted([*self._results.values()], color=False)
            click.echo(f"{done} of {self._total} sessions: {counts}", err=True)


def _counted(results: Sequence[SessionResult], *, color: bool) -> str:
    parts = []
    for status, number in counts_of(results).items():
        if number:
            text = f"{number} {status}"
            parts.append(f"[{_COLORS.get(status, 'red')}]{text}[/]" if color else text)
    return ", ".join(parts)


def print_batch(run: BatchRun, header: BatchHeader, page: str | None) -> None:
    """Print the counts, the causes and what to do next; few sessions in full."""
    console = open_console(without_terminal=_WITHOUT_TERMINAL)
    results = run.results
    replayed = [each for each in results if each.status != "skipped"]
    rate = f"{count(len(replayed), 'session')} in {run.seconds:.1f} s"
    console.print(f"{rate}: {_counted(results, color=True)}", soft_wrap=True)
    groups = grouped(results)
    if groups:
        console.print()
        ids = max(1, min(_MOST_IDS, (console.width - _BEFORE_IDS) // _LENGTH_OF_ID))
        console.print(_causes(groups, page, ids))
    if len(groups) > _MOST_GROUPS:
        console.print(f"and {count(len(groups) - _MOST_GROUPS, 'more cause')}: --json has all")
    failed = [each for each in replayed if each.status != "equal"]
    if not failed:
        return
    masked = sorted({name for each in failed for name in each.masked})
    if masked:
        note = f"removed or masked at capture: {', '.join(masked)} (-H adds a header)"
        console.print(f"\n{note}", markup=False, soft_wrap=True)
    if len(results) <= MOST_IN_FULL:
        for each in failed:
            console.print(f"\n{escape(f'{each.request} {each.name}'.strip())}", soft_wrap=True)
            for line in each.lines or (each.headline,):
                console.print(f"  {line}", markup=False, soft_wrap=True)
    _print_next(console, failed, header)


def _causes(groups: Sequence[CauseGroup], page: str | None, most_ids: int) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("count", justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("cause", overflow="fold", ratio=1)
    # What is skipped is no fault of the code.
    ordered = sorted(groups, key=lambda group: group.cause.status == "skipped")
    for group in ordered[:_MOST_GROUPS]:
        status = group.cause.status
        lines = [escape(str(group))]
        if group.cause.example:
            lines.append(f"[dim]{escape(group.cause.example)}[/]")
        ids = [linked(escape(name), page, name) for name in group.sessions[:most_ids]]
        lines.append(f"[dim]e.g.[/] {' '.join(ids)}" if len(group.sessions) > 1 else ids[0])
        color = _COLORS.get(status, "red")
        table.add_row(str(len(group.sessions)), f"[{color}]{status}[/]", "\n".join(lines))
    return table


def _print_next(console: Console, failed: Sequence[SessionResult], header: BatchHeader) -> None:
    """Print the commands for one session, the one with the most frequent cause."""
    example = shlex.quote(next(iter(grouped(failed))).sessions[0])
    if header.app is not None:
        target = f"--app {shlex.quote(header.app)}"
    else:
        target = f"--against {shlex.quote(header.server or '')}"
    freeze = " --freeze" if header.freeze else ""
    lines = [("noukai session show", example, "its calls")]
    if len(failed) > 1 or len(header.sources) > MOST_IN_FULL:
        lines.append(
            ("noukai session replay", f"{example} {target}{freeze}", "what differs, in full")
        )
    if header.app is not None:
        written = f"{example} {target} -o tests/test_replayed.py"
        lines.append(("noukai session test", written, "a test of it"))
    lines.append(("noukai sessions replay --only-failed", "", "after an edit"))
    console.print("\nNext:")
    for command, rest, purpose in lines:
        console.print(
            f"  {command} {rest}".rstrip() + f"  # {purpose}", markup=False, soft_wrap=True
        )
