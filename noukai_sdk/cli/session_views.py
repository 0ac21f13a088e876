"""Draw recordings for a terminal: a table, a waterfall of the times, and a table of differences."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

from rich.bar import Bar
from rich.console import Console, JustifyMethod, RenderableType
from rich.markup import escape
from rich.table import Table

from ..replay.diff import Difference
from ..replay.recording import Recording

BAR_WIDTH = 40
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
# Characters by which a recorded text could control the terminal.
CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def open_console() -> Console:
    """Return a console that prints ``?`` for characters that the output's encoding lacks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def call_rows(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """Return one row of plain values for each call. Times count from the start of the first call."""
    first = min((r.started_at for r in recordings if r.started_at is not None), default=0.0)
    rows: list[dict[str, Any]] = []
    for recording in recordings:
        error = recording.error.message if recording.error else recording.unavailable
        if recording.abandoned and recording.error is None:
            error = "abandoned by its caller"
        tokens, cost = _usage(recording)
        row = {
            "slug": recording.slug,
            "kind": recording.kind,
            "executionId": recording.execution_id,
            "input": (recording.request or {}).get("message"),
            "output": recording.output,
            "error": error,
            "tokens": tokens,
            "costUsd": cost,
            "startMs": _milliseconds(first, recording.started_at),
            "durationMs": _milliseconds(recording.started_at, recording.completed_at),
        }
        rows.append(row)
    return rows


def call_views(title: str, recordings: Sequence[Recording]) -> list[RenderableType]:
    """Return the calls of a session as a table, and their times as a waterfall."""
    rows = call_rows(recordings)
    table = Table(title=escape(title), title_justify="left", expand=True)
    for name, justify in _COLUMNS:
        ratio = 1 if name in _WIDE_COLUMNS else None
        table.add_column(name, justify=justify, no_wrap=True, ratio=ratio)
    waterfall = Table.grid(padding=(0, 1))
    end = max(map(_end_ms, rows), default=0.0) or 1.0
    for number, row in enumerate(rows, start=1):
        output = escape(_short(row["output"]))
        table.add_row(
            str(number),
            escape(_short(row["slug"] or "(deleted)")),
            row["kind"] or "?",
            escape(_short(row["input"])),
            f"[red]{escape(_short(row['error']))}[/]" if row["error"] else output,
            _as_text(row["tokens"]),
            _as_text(row["costUsd"]),
            _as_text(row["durationMs"]),
        )
        if row["startMs"] is not None:
            bar = Bar(end, row["startMs"], _end_ms(row), width=BAR_WIDTH)
            start = f"{row['startMs']:g} ms"
            waterfall.add_row(str(number), escape(_short(row["slug"])), bar, start)
    return [table, waterfall]


def difference_table(differences: Sequence[Difference]) -> Table:
    """Return the differences of two sessions as a table."""
    table = Table("flow", "kind", "call", "what", "A", "B")
    for each in differences:
        name, number = escape(_short(each.slug or "(deleted)")), str(each.position + 1)
        a, b = escape(_short(each.a, 60)), escape(_short(each.b, 60))
        table.add_row(name, each.kind or "?", number, each.what, a, b)
    return table


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


def _milliseconds(start: float | None, end: float | None) -> float | None:
    return None if start is None or end is None else round((end - start) * 1000, 1)


def _short(value: Any, length: int = 120) -> str:
    text = CONTROLS.sub(" ", _as_text(value))
    return text if len(text) <= length else text[: length - 1] + "…"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
