"""Draw recordings for a terminal: a table, a waterfall of the times, and a table of differences."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import click
from rich.bar import Bar
from rich.console import Console, JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table

from ..boundaries.display import arguments_text, value_text
from ..models.sessions import ForkParent
from ..replay.cassette_file import CassetteFile
from ..replay.diff import Difference
from ..replay.recording import Recording
from ..replaying.controls import CONTROLS, clean_lines
from .page_links import linked
from .shared_options import count

_COLUMNS: tuple[tuple[str, JustifyMethod], ...] = (
    ("#", "right"),
    ("flow", "left"),
    ("kind", "left"),
    ("input", "left"),
    ("output", "left"),
    ("tokens", "right"),
    ("cost $", "right"),
    ("ms", "right"),
)
# These two columns share the width that the others leave.
_WIDE_COLUMNS = ("input", "output")
# A longer name of a flow is cut in the waterfall, to leave room for the bars.
_LONGEST_NAME = 24


def open_console(*, without_terminal: int | None = None) -> Console:
    """Return a console that prints ``?`` for characters that the output's encoding lacks.

    Args:
        without_terminal: The width if the output is not a terminal; None for 80.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    is_terminal = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, width=None if is_terminal else without_terminal)


def print_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, ensure_ascii=False, default=str))


def request_lines(
    file: CassetteFile, parent: ForkParent | None, page: str | None = None
) -> list[str]:
    """Return the lines on the request and the origin of a session, as rich markup; there may be none.

    Args:
        file: The session.
        parent: The session that it was forked from.
        page: The address of the service's page, for links.
    """
    lines, first = [], []
    if parent is not None:
        name = linked(f"session {escape(short(parent.session_id, 128))}", page, parent.session_id)
        first.append(f"fork of {name}, which served {count(len(parent.served), 'call')}")
    if file.exchange is not None:
        request, response = file.exchange.request, file.exchange.response
        status = "no response" if response.status is None else str(response.status)
        part = response.body is not None and not response.body.complete
        end = ", left by its client before the end" if part else ""
        lines.append(f"{request.method} {request.target} -> {status}{end}")
        if request.redacted:
            lines.append(f"removed or masked at capture: {', '.join(request.redacted)}")
    return [*first, *(escape(short(line, 2_000)) for line in lines)]


def call_rows(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Return one row of plain values for each call. Times count from the start of the first call."""
    first = min((r.started_at for r in recordings if r.started_at is not None), default=0.0)
    rows: list[dict[str, Any]] = []
    for number, recording in enumerate(recordings, start=1):
        error = recording.error.message if recording.error else recording.unavailable
        if recording.abandoned and recording.error is None:
            error = "abandoned by its caller"
        tokens, cost = _usage(recording)
        row = {
            "number": number,
            "slug": recording.slug,
            "kind": recording.kind,
            "executionId": recording.execution_id,
            "input": (recording.request or {}).get("message"),
            "request": recording.request,
            "output": recording.output,
            "error": error,
            "tokens": tokens,
            "costUsd": cost,
            "startMs": _milliseconds(first, recording.started_at),
            "durationMs": _milliseconds(recording.started_at, recording.completed_at),
        }
        rows.append(row)
    return rows


def call_views(title: str, rows: Sequence[dict[str, Any]]) -> list[RenderableType]:
    """Return the calls of a session as a table, and their times as a waterfall.

    Args:
        title: The title of the table, as rich markup.
        rows: The calls.
    """
    table = Table(title=title, title_justify="left", expand=True)
    for name, justify in _COLUMNS:
        ratio = 1 if name in _WIDE_COLUMNS else None
        table.add_column(name, justify=justify, no_wrap=True, ratio=ratio)
    waterfall = Table(box=None, padding=(0, 1, 0, 0), expand=True)
    waterfall.add_column("#", justify="right")
    waterfall.add_column("flow", no_wrap=True, max_width=_LONGEST_NAME)
    waterfall.add_column("", ratio=1)
    waterfall.add_column("start", justify="right", no_wrap=True)
    waterfall.add_column("duration", justify="right", no_wrap=True)
    end = max(map(_end_ms, rows), default=0.0) or 1.0
    for row in rows:
        output = escape(short(row["output"]))
        number = str(row["number"])
        # Names of functions are long, and their ends tell the most.
        longest = 28 if "boundary" in row else 120
        name = escape(short(row["slug"] or "(deleted)", longest))
        table.add_row(
            number,
            name,
            row["kind"] or "?",
            escape(short(row["input"])),
            f"[red]{escape(short(row['error']))}[/]" if row["error"] else output,
            _as_text(row["tokens"]),
            _as_text(row["costUsd"]),
            _as_text(row["durationMs"]),
        )
        if row["startMs"] is not None:
            # Recorded functions have bars of their own colour.
            color = "green" if "boundary" in row else "default"
            bar = Bar(end, row["startMs"], _end_ms(row), color=color)
            waterfall.add_row(number, name, bar, _ms(row["startMs"]), _ms(row["durationMs"]))
    return [table, waterfall]


def call_details(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines that show each call with its whole input and output, as rich markup."""
    views: list[str] = []
    for row in rows:
        cost = f"${row['costUsd']}" if row["costUsd"] else ""
        tokens = f"{row['tokens']} tokens" if row["tokens"] else ""
        facts = (row["kind"] or "?", _ms(row["durationMs"]), tokens, cost, row["executionId"])
        name = escape(short(row["slug"] or "(deleted)"))
        known = "  ".join(fact for fact in facts if fact)
        views.append(f"[bold]{row['number']}  {name}[/]  {escape(known)}")
        parts = dict(row["request"] or {})
        parts = {"input": parts.pop("message", None), **parts}
        parts |= {"output": row["output"], "error": row["error"]}
        for part, value in parts.items():
            if value is not None:
                text = value if isinstance(value, str) else _pretty(value)
                clean = clean_lines(text)
                views += [f"[dim]{escape(short(part))}:[/]", escape(clean)]
        views.append("")
    return views[:-1]


def difference_table(differences: Sequence[Difference]) -> Table:
    """Return the differences of two sessions as a table."""
    table = Table("flow", "kind", "call", "what", "A", "B")
    for each in differences:
        name, number = escape(short(each.slug or "(deleted)")), str(each.position + 1)
        a, b = (escape(short(_readable(each, side), 60)) for side in (each.a, each.b))
        table.add_row(name, each.kind or "?", number, each.what, a, b)
    return table


def _readable(difference: Difference, value: Any) -> Any:
    """Return a value of a recorded function as Python text."""
    if difference.kind != "recorded" or value is None or isinstance(value, (str, int)):
        return value
    if difference.what == "input.arguments" and isinstance(value, dict) and "$type" not in value:
        return arguments_text(value, 1_000)
    return value_text(value, 1_000)


def _usage(recording: Recording) -> tuple[int | None, str | None]:
    """Return tokens and cost, as far as the recorded events contain them."""
    tokens: list[int] = []
    costs: list[Decimal] = []
    for event in recording.events:
        if event.get("eventType") != "step_completed":
            continue
        total = (event.get("tokens") or {}).get("total")
        if isinstance(total, int):
            tokens.append(total)
        try:
            costs.append(Decimal(str(event["costUsd"])))
        except (KeyError, InvalidOperation):  # not recorded, or None
            continue
    return (
        sum(tokens) if tokens else None,
        format(sum(costs, Decimal(0)), "f") if costs else None,
    )


def _end_ms(row: dict[str, Any]) -> float:
    return float(row["startMs"] or 0) + float(row["durationMs"] or 0)


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms"


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 1)


def short(value: Any, length: int = 120) -> str:
    """Return a value in one line that cannot control the terminal."""
    text = CONTROLS.sub(" ", _as_text(value))
    return text if len(text) <= length else text[: length - 1] + "…"


def _pretty(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, default=str)


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
