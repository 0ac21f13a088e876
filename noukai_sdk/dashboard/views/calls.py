"""The calls of a session as rows: from the service's list, or from recordings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any, ClassVar, Protocol

from ...models.session_lists import CallSummary
from ...models.sessions import Outcome, RecordedError
from ...replay.recording import Recording
from .times import read_time
from .waterfall import Axis, Bar, Tick, axis

_PREVIEW = 160
_IN_PROGRESS = ("pending", "running")


class Drawn(Protocol):
    """What has a place on the axis."""

    start: float | None
    end: float | None
    bar: Bar | None


@dataclass
class CallRow:
    """A call of a session, in one line.

    Attributes:
        number: The number of the call in the session, from 1; None for a call without a run.
        flow: ``org/project/slug``, as far as it is known.
        problem: Why it failed, or what else the reader must know.
        start, end: Milliseconds since the session began; no end while it is in progress.
        models: The models that it called.
    """

    number: int | None
    execution_id: str | None
    flow: str
    kind: str
    status: str
    input: str = ""
    output: str = ""
    problem: str = ""
    tokens: int | None = None
    cost: str | None = None
    models: tuple[str, ...] = ()
    start: float | None = None
    end: float | None = None
    bar: Bar | None = None
    is_recorded: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """Return the flow without its folder: the end of an address tells the most."""
        return self.flow.rpartition("/")[2]

    @property
    def folder(self) -> str:
        """Return organisation and project of the flow."""
        return self.flow.rpartition("/")[0]

    @property
    def is_in_progress(self) -> bool:
        """Return whether the call has not ended."""
        return self.status in _IN_PROGRESS

    @property
    def milliseconds(self) -> float | None:
        """Return how long the call took."""
        return None if self.start is None or self.end is None else self.end - self.start


@dataclass
class CallRows:
    """Rows on one time axis.

    Attributes:
        refused: Calls that were refused before a run began.
    """

    rows: list[CallRow]
    refused: list[CallRow] = field(default_factory=list)
    axis: Axis = field(default_factory=lambda: Axis(0.0, 1.0))

    @property
    def ticks(self) -> list[Tick]:
        """Return the lines of the axis."""
        return self.axis.ticks()

    def draw(self, now: float | None = None, others: Sequence[Drawn] = ()) -> None:
        """Put the rows on an axis.

        Args:
            now: The time since the session began, if it is in progress.
            others: Rows that share the axis.
        """
        times = [(row.start, row.end) for row in [*self.rows, *others]]
        self.axis = axis(times, now if any(row.is_in_progress for row in self.rows) else None)
        for row in [*self.rows, *others]:
            row.bar = self.axis.bar(row.start, row.end)


def rows_of_summaries(
    calls: Iterable[CallSummary], outcomes: Sequence[Outcome], began: str | None
) -> CallRows:
    """Return the rows of a part of a session of the service.

    Args:
        calls: The service's list.
        outcomes: What the caller knows of the calls.
        began: The start of the session.
    """
    start = read_time(began)
    known = {each.execution_id: each for each in outcomes if each.execution_id is not None}
    rows = []
    for call in calls:
        row = CallRow(
            call.number,
            call.execution_id,
            flow_name(call.org, call.project, call.slug, call.version),
            call.trigger_type or "?",
            call.status,
            call.input or "",
            call.output or "",
            _problem(call.error, call.error_at_step),
            call.tokens,
            call.cost_usd,
            call.models,
            _since(start, call.started_at),
            _since(start, call.completed_at),
        )
        outcome = known.get(call.execution_id)
        if outcome is not None:
            _add_outcome(row, outcome)
        rows.append(row)
    return CallRows(rows, refused_rows(outcomes, start))


def refused_rows(outcomes: Sequence[Outcome], start: datetime | None = None) -> list[CallRow]:
    """Return the calls that were refused before a run began."""
    rows = []
    for outcome in outcomes:
        if outcome.execution_id is not None or outcome.completed:
            continue
        call = outcome.call
        row = CallRow(
            None,
            None,
            flow_name(call.org, call.project, call.slug, call.version),
            outcome.kind,
            "failed",
            _line(_message(call.request)),
            start=_since(start, outcome.started_at),
            end=_since(start, outcome.completed_at),
        )
        _add_outcome(row, outcome)
        rows.append(row)
    return rows


def rows_of_recordings(recordings: Sequence[Recording], first: float = 0.0) -> CallRows:
    """Return the rows of a whole session that is at hand, such as a cassette file.

    Args:
        recordings: The calls.
        first: The start of the session.
    """
    rows = []
    for number, recording in enumerate(recordings, start=1):
        tokens, cost = _usage(recording)
        row = CallRow(
            number,
            recording.execution_id,
            flow_name(recording.org, recording.project, recording.slug, recording.version),
            recording.kind or "?",
            _status(recording),
            _line(_message(recording.request or {})),
            _line(recording.output),
            recording.unavailable or _problem(recording.error, None),
            tokens,
            cost,
            (),
            None if recording.started_at is None else (recording.started_at - first) * 1000,
            None if recording.completed_at is None else (recording.completed_at - first) * 1000,
        )
        rows.append(row)
    return CallRows(rows)


def flow_name(org: str | None, project: str | None, slug: str | None, version: int | None) -> str:
    """Return the address of a flow, as far as it is known.

    Example:
        >>> flow_name("acme", "spelling", "grade-3", 2), flow_name(None, None, None, None)
        ('acme/spelling/grade-3 v2', '(deleted flow)')
    """
    name = "/".join(part for part in (org, project, slug) if part) if slug else "(deleted flow)"
    return name if version is None else f"{name} v{version}"


def _status(recording: Recording) -> str:
    result = recording.result or {}
    if recording.error is not None or result.get("status") == "failed":
        return "failed"
    if recording.abandoned:
        return "abandoned"
    return "completed"


def _problem(error: RecordedError | None, step: str | None) -> str:
    if error is None:
        return ""
    named = f"{error.code}: {error.message}" if error.code else error.message
    return _line(f"{named} (step {step})" if step else named)


def _add_outcome(row: CallRow, outcome: Outcome) -> None:
    if outcome.error is not None:
        row.status = "failed"
        row.problem = _problem(outcome.error, None) or "refused"
    elif outcome.abandoned:
        row.status, row.problem = "abandoned", "abandoned by its caller"
    elif not outcome.completed:
        row.problem = "its caller left the stream"


def _usage(recording: Recording) -> tuple[int | None, str | None]:
    """Return tokens and cost, as far as the recorded events have them."""
    tokens: int | None = None
    cost: Decimal | None = None
    for event in recording.events:
        if event.get("eventType") != "step_completed":
            continue
        used = event.get("tokens")
        total = used.get("total") if isinstance(used, dict) else None
        if isinstance(total, int):
            tokens = (tokens or 0) + total
        try:
            cost = (cost or Decimal(0)) + Decimal(str(event["costUsd"]))
        except (KeyError, InvalidOperation):  # not recorded, or None
            continue
    return tokens, None if cost is None else f"{cost:f}"


def _message(request: dict[str, Any]) -> Any:
    messages = request.get("messages")
    if "message" not in request and isinstance(messages, list) and messages:
        last = messages[-1]
        return last.get("content") if isinstance(last, dict) else last
    return request.get("message")


def _line(value: Any) -> str:
    """Return the beginning of a value as a line."""
    if value is None:
        return ""
    text = value[: 2 * _PREVIEW] if isinstance(value, str) else _short(value)
    return " ".join(text.split())[:_PREVIEW]


def _short(value: Any) -> str:
    # Not as JSON: it may be large and deep.
    if isinstance(value, (dict, list)):
        kind, noun = ("object", "fields") if isinstance(value, dict) else ("list", "items")
        return f"{kind} of {len(value)} {noun}"
    return str(value)[: 2 * _PREVIEW]


def _since(start: datetime | None, time: str | None) -> float | None:
    moment = read_time(time)
    if start is None or moment is None:
        return None
    return (moment - start).total_seconds() * 1000
