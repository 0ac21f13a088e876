"""Draw the calls of recorded functions for a terminal, among the calls of flows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.markup import escape

from ..boundaries.display import arguments_text, value_text
from ..boundaries.failures import error_text
from ..models.boundaries import Boundary
from ..replay.cassette_file import CassetteFile
from ..replay.recording import seconds_of
from ..replaying.controls import clean_lines
from .session_views import short

# In a table; --full has all.
MOST_LINES = 200
# A table and a line show the beginning of a value.
_WIDE = 10_000


def lines_in_time(
    rows: Sequence[dict[str, Any]], file: CassetteFile, most: int | None = None
) -> list[dict[str, Any]]:
    """Return the rows of the calls, and among them those of recorded functions, in time order.

    Times count from the first of them. Recorded functions have no numbers.

    Args:
        rows: The calls.
        file: Their session.
        most: Calls of recorded functions that are shown.
    """
    starts = [each.started_at for each in file.recordings if each.started_at is not None]
    began = [seconds_of(each.started_at) for each in file.boundaries]
    zero = min(starts, default=None)
    if zero is None:
        zero = min((each for each in began if each is not None), default=0.0)
    functions = [_row(boundary, zero) for boundary in file.boundaries[:most]]
    known = [row["startMs"] for row in [*rows, *functions] if row["startMs"] is not None]
    earliest = min(known, default=0.0)
    waiting = sorted(functions, key=lambda row: (row["startMs"] is None, row["startMs"] or 0.0))
    merged: list[dict[str, Any]] = []
    for row in rows:
        start = row["startMs"]
        while waiting and start is not None and _starts_by(waiting[0], start):
            merged.append(waiting.pop(0))
        merged.append(row)
    return [_shifted(row, earliest) for row in [*merged, *waiting]]


def boundary_details(row: dict[str, Any]) -> list[str]:
    """Return the lines that show a call of a recorded function with its whole values, as rich markup."""
    boundary: Boundary = row["boundary"]
    facts = ["recorded", _ms(row["durationMs"]), boundary.site or ""]
    facts += ["runs live in replays"] if boundary.live else []
    known = "  ".join(fact for fact in facts if fact)
    lines = [f"[bold]ƒ  {escape(short(boundary.name))}[/]  {escape(known)}"]
    parts: dict[str, Any] = {}
    if boundary.arguments not in (None, {}):
        parts["arguments"] = _arguments(boundary.arguments, 100)
    if boundary.items is not None:
        parts["yielded"] = value_text(boundary.items)
    elif row["error"] is None:
        parts["result"] = value_text(boundary.result)
    parts["error"] = row["error"]
    if boundary.error is not None and boundary.error.get("attributes"):
        parts["attributes"] = value_text(boundary.error["attributes"])
    for name, text in parts.items():
        if text is not None:
            lines += [f"[dim]{name}:[/]", escape(clean_lines(text))]
    return [*lines, ""]


def _row(boundary: Boundary, zero: float) -> dict[str, Any]:
    """Return a call of a recorded function as the rows of calls are."""
    start, end = seconds_of(boundary.started_at), seconds_of(boundary.completed_at)
    error = None
    if boundary.error is not None:
        error = error_text(boundary.error)
    elif boundary.unavailable is not None:
        error = f"not kept: {boundary.unavailable}"
    elif boundary.abandoned:
        error = "abandoned by its caller"
    elif boundary.completed_at is None:
        error = "the request ended before this call"
    output = boundary.result if boundary.items is None else boundary.items
    return {
        "number": "ƒ",
        "slug": boundary.name,
        "kind": "recorded",
        "input": _arguments(boundary.arguments, _WIDE),
        "output": None if error else value_text(output, _WIDE),
        "error": error,
        "tokens": None,
        "costUsd": None,
        "startMs": None if start is None else round((start - zero) * 1000, 1),
        "durationMs": None if start is None or end is None else round((end - start) * 1000, 1),
        "boundary": boundary,
    }


def _arguments(arguments: Any, width: int) -> str:
    if isinstance(arguments, dict) and "$type" not in arguments:
        return arguments_text(arguments, width)
    return "" if arguments is None else value_text(arguments, width)


def _starts_by(row: dict[str, Any], time: float) -> bool:
    return row["startMs"] is not None and row["startMs"] <= time


def _shifted(row: dict[str, Any], earliest: float) -> dict[str, Any]:
    start = row["startMs"]
    return {**row, "startMs": None if start is None else round(start - earliest, 1)}


def _ms(value: float | None) -> str:
    return "" if value is None else f"{value:,.1f} ms"
