"""Recordings as a person reads them: a table with a waterfall, and differences."""

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
# What a recorded text could tell a terminal to do.
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def console() -> Console:
    """Where tables go. What the output's encoding has no character for is shown as ``?``."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")
    return Console(highlight=False)


def rows(recordings: Sequence[Recording]) -> list[dict[str, Any]]:
    """One row a call, as plain values. Times are milliseconds from the first call's start."""
    first = min((r.started_at for r in recordings if r.started_at is not None), default=0.0)
    return [_row(recording, first) for recording in recordings]


def _row(recording: Recording, first: float) -> dict[str, Any]:
    tokens, cost = _usage(recording)
    return {
        "slug": recording.slug,
        "kind": recording.kind,
        "executionId": recording.execution_id,
        "input": (recording.request or {}).get("message"),
        "output": recording.output,
        "error": _trouble(recording),
        "tokens": tokens,
        "costUsd": cost,
        "startMs": _ms(recording.started_at, first),
        "durationMs": _ms(recording.completed_at, recording.started_at),
    }


def _trouble(recording: Recording) -> str | None:
    if recording.error is not None:
        return recording.error.message
    return "given up by its caller" if recording.abandoned else recording.unavailable


def views(title: str, recordings: Sequence[Recording]) -> list[RenderableType]:
    """The calls of a session as a table, and their times as a waterfall."""
    listed = rows(recordings)
    shown = Table(title=escape(title), title_justify="left", expand=True)
    for name, justify in _COLUMNS:
        # The two texts share what the other columns leave.
        shown.add_column(name, justify=justify, no_wrap=True, ratio=1 if name in _TEXTS else None)
    for number, row in enumerate(listed, start=1):
        shown.add_row(*_cells(number, row))
    return [shown, _waterfall(listed)]


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


_TEXTS = ("input", "output")


def _cells(number: int, row: dict[str, Any]) -> list[str]:
    failed = f"[red]{escape(_short(row['error']))}[/]" if row["error"] else ""
    return [
        str(number),
        escape(_short(row["slug"] or "(deleted)")),
        row["kind"] or "?",
        escape(_short(row["input"])),
        failed or escape(_short(row["output"])),
        _text(row["tokens"]),
        _text(row["costUsd"]),
        _text(row["durationMs"]),
    ]


def _waterfall(listed: Sequence[dict[str, Any]]) -> Table:
    end = max((_end(row) for row in listed), default=0.0)
    grid = Table.grid(padding=(0, 1))
    for number, row in enumerate(listed, start=1):
        if row["startMs"] is not None:
            bar = Bar(end or 1.0, row["startMs"], _end(row), width=BAR_WIDTH)
            grid.add_row(str(number), escape(_short(row["slug"])), bar, f"{row['startMs']:g} ms")
    return grid


def difference_table(differences: Sequence[Difference]) -> Table:
    """Which calls differ, and how."""
    shown = Table("flow", "kind", "call", "what", "A", "B")
    for each in differences:
        name, number = escape(_short(each.slug or "(deleted)")), str(each.position + 1)
        sides = (escape(_short(side, 60)) for side in (each.a, each.b))
        shown.add_row(name, each.kind or "?", number, each.what, *sides)
    return shown


def _usage(recording: Recording) -> tuple[int | None, str | None]:
    """Tokens and cost, as far as the recording's events tell them."""
    done = [event for event in recording.events if event.get("eventType") == "step_completed"]
    tokens = [(event.get("tokens") or {}).get("total") for event in done]
    counted = [count for count in tokens if isinstance(count, int)]
    costs = [cost for event in done if (cost := _decimal(event.get("costUsd"))) is not None]
    return (
        sum(counted) if counted else None,
        format(sum(costs, Decimal(0)), "f") if costs else None,
    )


def _decimal(text: Any) -> Decimal | None:
    try:
        return None if text is None else Decimal(str(text))
    except InvalidOperation:
        return None


def _end(row: dict[str, Any]) -> float:
    return float(row["startMs"] or 0) + float(row["durationMs"] or 0)


def _ms(time: float | None, since: float | None) -> float | None:
    return None if time is None or since is None else round((time - since) * 1000, 1)


def _short(value: Any, length: int = 120) -> str:
    text = _CONTROLS.sub(" ", _text(value))
    return text if len(text) <= length else text[: length - 1] + "…"


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)
