"""The calls of a session without their payloads: a row for each run, however large the run is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy import and_, func, or_, select, true
from sqlalchemy.ext.asyncio import AsyncConnection

from ..encoding import from_column
from .tables import belongs_to, executions, steps

Row = dict[str, Any]

# Characters of a stored payload that are read for its preview, and of the preview.
_READ, _SHOWN = 600, 160
_COLUMNS = (
    "id",
    "org",
    "project",
    "slug",
    "version",
    "flow_id",
    "trigger",
    "status",
    "capture_mode",
    "started_at",
    "completed_at",
    "error_at_step",
    "error",
    "block_count",
)
# A string of a JSON text that may be cut, without an escape that is cut.
_STRING = r'"([^"\\]*(?:\\(?:u[0-9a-fA-F]{4}|[^u])[^"\\]*)*)'
_MESSAGE = re.compile(rf'"(?:message|content)":{_STRING}')
_TEXT = re.compile(_STRING)


@dataclass
class Usage:
    """What the steps of a run, or of all runs of a session, have used."""

    steps: int = 0
    models: tuple[str, ...] = ()
    tokens: int | None = None
    cost: Decimal | None = None

    def add(self, model: str | None, tokens: int | None, cost: Decimal | None) -> None:
        """Add a step."""
        self.steps += 1
        if model is not None and model not in self.models:
            self.models += (model,)
        if tokens is not None:
            self.tokens = (self.tokens or 0) + tokens
        if cost is not None:
            self.cost = (self.cost or Decimal(0)) + cost


@dataclass
class SessionCalls:
    """Calls of a session, and the sums over all of its calls.

    Attributes:
        rows: The runs, with ``input`` and ``output``: the beginnings of the texts as a line, or None.
        usage: By the id of the run.
        counts: The number of runs with each status.
        total: What all runs have used.
        started_at, completed_at: The first start and the last end.
    """

    rows: list[Row]
    usage: dict[str, Usage]
    counts: dict[str, int]
    total: Usage
    started_at: int | None
    completed_at: int | None


async def read_calls(
    connection: AsyncConnection,
    session_id: str,
    org: str | None,
    *,
    statuses: tuple[str, ...] | None,
    offset: int,
    limit: int,
) -> SessionCalls:
    """Return the runs of a session in the order in which they began, from number ``offset`` on."""
    mine = and_(executions.c.session_id == session_id, belongs_to(executions, org))
    mode = executions.c.capture_mode
    # The stored result of a job is what its poll returns, in every capture mode.
    shown = or_(mode == "full", and_(mode == "redacted", executions.c.trigger != "job"))
    number = func.row_number().over(order_by=executions.c.started_at).label("number")
    numbered = select(executions.c.id, number).where(mine).subquery()
    chosen = (
        select(
            numbered.c.number,
            *(executions.c[name] for name in _COLUMNS),
            func.substr(executions.c.request, 1, _READ).label("request"),
            func.substr(executions.c.result, 1, _READ).label("result"),
            shown.label("is_result_shown"),
        )
        .join(numbered, numbered.c.id == executions.c.id)
        .where(mine, true() if statuses is None else executions.c.status.in_(statuses))
        .order_by(executions.c.started_at)
        .offset(offset)
        .limit(limit)
    )
    rows = [_row(dict(row)) for row in (await connection.execute(chosen)).mappings()]
    calls = SessionCalls(rows, {row["id"]: Usage() for row in rows}, {}, Usage(), None, None)
    start, end = func.min(executions.c.started_at), func.max(executions.c.completed_at)
    counted = select(executions.c.status, func.count(), start, end).where(mine)
    for name, count, first, last in await connection.execute(counted.group_by(executions.c.status)):
        calls.counts[name] = count
        calls.started_at = min(filter(None, (calls.started_at, first)), default=None)
        calls.completed_at = max(filter(None, (calls.completed_at, last)), default=None)
    used = (
        select(steps.c.execution_id, steps.c.model_used, steps.c.tokens, steps.c.cost_usd)
        .join(executions, executions.c.id == steps.c.execution_id)
        .where(mine)
        .order_by(steps.c.execution_id, steps.c.number)
    )
    for run_id, model, tokens, cost in await connection.execute(used):
        step = (
            model,
            None if tokens is None else from_column(tokens).get("total", 0),
            None if cost is None else Decimal(cost),
        )
        calls.total.add(*step)
        if run_id in calls.usage:
            calls.usage[run_id].add(*step)
    return calls


def _row(row: Row) -> Row:
    row["error"] = from_column(row["error"])
    request, result = row.pop("request"), row.pop("result")
    message = None if request is None else _MESSAGE.search(request)
    row["input"] = None if message is None else _line(message[1])
    row["output"] = _preview(result) if row.pop("is_result_shown") else None
    return row


def _preview(text: str | None) -> str | None:
    """Return the beginning of a value, which may be cut, as a line.

    Example:
        >>> _preview('"It is fine, cut'), _preview('{"grade":7}')
        ('It is fine, cut', '{"grade":7}')
    """
    if text is None or text.startswith("@"):  # a reference to an object (blobs.py)
        return None
    string = _TEXT.match(text)
    return text[:_SHOWN] if string is None else _line(string[1])


def _line(escaped: str) -> str | None:
    if "\\" in escaped:
        try:
            escaped = str(json.loads(f'"{escaped}"'))
        except ValueError:
            return None
    return " ".join(escaped[: 2 * _SHOWN].split())[:_SHOWN]
