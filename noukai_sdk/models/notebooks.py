"""Results, traces and reports as small HTML tables, for notebooks. Loaded when one is shown."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from pydantic import BaseModel

from .reports import ReplayReport, ReportEntry
from .results import ExecuteResult, JobStatus, PausedResult
from .traces import Trace
from .usage import TokenBreakdown

MOST = 2_000  # characters of a value
MOST_ROWS = 100


def result_html(result: ExecuteResult[Any] | PausedResult[Any] | JobStatus[Any]) -> str:
    """Show a result: its ids and figures, its output, its steps."""
    names = ("status", "execution_id", "session_id", "duration_ms", "tokens", "cost_usd", "error")
    rows = [(name, getattr(result, name, None)) for name in names]
    if isinstance(result, PausedResult):
        calls = [call.get("function", call) for call in result.tool_calls]
        rows.append(("tool_calls", calls))
    else:
        rows.append(("result", result.result))
    html = _facts(rows)
    steps = getattr(result, "steps", None)
    if steps:
        columns = ("step_id", "duration_ms", "tokens", "cost_usd")
        html += _table(columns, ([getattr(step, name) for name in columns] for step in steps))
    return html


def trace_html(trace: Trace) -> str:
    """Show a trace: the run, and a row for each step."""
    names = ("id", "status", "started_at", "duration_ms", "error")
    columns = ("step_id", "status", "duration_ms", "model_used", "tokens", "cost_usd")
    steps = ([getattr(step, name) for name in columns] for step in trace.steps)
    return _facts([(name, getattr(trace.flow_run, name)) for name in names]) + _table(
        columns, steps
    )


def report_html(report: ReplayReport) -> str:
    """Show a report: its summary, and a row for each thing that is not a hit."""
    kinds = ("misses", "drift", "leftovers", "live", "lost", "unread", "unordered")
    entries: list[tuple[str, ReportEntry]] = []
    for kind in kinds:
        entries += [(kind, entry) for entry in getattr(report, kind)]
    columns = ("", "flow", "call", "detail", "at")
    rows = (
        [kind, entry.slug, entry.position + 1, entry.detail, str(entry.call_site or "")]
        for kind, entry in entries
    )
    facts = [("replay", report.summary()), ("findings", report.explanation or None)]
    return _facts(facts) + (_table(columns, rows) if entries else "")


def _facts(rows: Iterable[tuple[str, Any]]) -> str:
    cells = [
        f"<tr><th style='text-align:left'>{escape(name)}</th>"
        f"<td style='text-align:left'>{_shown(value)}</td></tr>"
        for name, value in rows
        if value is not None
    ]
    return f"<table>{''.join(cells)}</table>"


def _table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(column)}</th>" for column in columns)
    lines = [f"<tr>{''.join(f'<td>{_shown(cell)}</td>' for cell in row)}</tr>" for row in rows]
    more = len(lines) - MOST_ROWS
    note = f"<p>and {more} more</p>" if more > 0 else ""
    return f"<table><tr>{head}</tr>{''.join(lines[:MOST_ROWS])}</table>{note}"


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, TokenBreakdown):
        value = value.total
    text = value if isinstance(value, str) else _json(value)
    cut = text if len(text) <= MOST else f"{text[:MOST]}... ({len(text)} characters)"
    cut = escape(cut.encode("utf-8", "backslashreplace").decode())
    return f"<pre style='margin:0;white-space:pre-wrap'>{cut}</pre>" if "\n" in cut else cut


def _json(value: Any) -> str:
    def plain(each: Any) -> Any:
        return each.model_dump(exclude_none=True) if isinstance(each, BaseModel) else str(each)

    return json.dumps(value, indent=2, ensure_ascii=False, default=plain)
