"""The head of a session's page: what it was, how it ended, and how it belongs to others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from decimal import Decimal

from ...models.boundaries import Boundary
from ...models.exchanges import Exchange
from ...models.session_lists import SessionCalls, StoredReport
from ...models.sessions import ForkParent
from ...replay.cassette_file import CassetteFile
from ...replay.recording import seconds_of
from .boundary_rows import BoundaryRow, BoundaryRows, boundary_rows, in_order
from .calls import CallRow, CallRows, rows_of_recordings, rows_of_summaries
from .exchange_view import ExchangeView, exchange_view
from .texts import count
from .times import read_time

_STATUSES = ("completed", "failed", "running", "pending", "cancelled", "abandoned")

# Seconds after the last end of a call in which more calls are expected.
_LIVE_FOR = 60


@dataclass
class SessionView:
    """A session.

    Attributes:
        session_id: None for a cassette without one.
        exchange, captured: The request and its response, as shown and as captured.
        source: The name of the cassette file; empty for a session of the service.
        status: As in the list of sessions: ``failed``, ``running`` or ``completed``.
        counts: The number of calls with each status.
        started_at: ISO 8601.
        recorded: The calls of recorded functions, which have no numbers.
        is_live: It is in progress, or was a moment ago: more calls may come.
        milliseconds: From the start of the first call to the end of the last, None while one is running.
        notes: What else the reader must know.
    """

    session_id: str | None
    calls: CallRows
    exchange: ExchangeView | None
    captured: Exchange | None = None
    source: str = ""
    status: str = "completed"
    counts: dict[str, int] = field(default_factory=dict)
    total: int = 0
    tokens: int | None = None
    cost: str | None = None
    started_at: str | None = None
    milliseconds: float | None = None
    parent: ForkParent | None = None
    has_parent: bool = True
    is_live: bool = False
    is_pinned: bool = False
    replays: Sequence[StoredReport] = ()
    notes: list[str] = field(default_factory=list)
    recorded: BoundaryRows = field(default_factory=BoundaryRows)

    @property
    def lines(self) -> list[CallRow | BoundaryRow]:
        """Return the calls of flows and of recorded functions, in the order in which they began."""
        return in_order(self.calls.rows, self.recorded.rows)

    @property
    def title(self) -> str:
        """Return the request line, else the flows of the calls that are shown."""
        if self.exchange is not None:
            return self.exchange.line
        rows = [*self.calls.rows, *self.calls.refused]
        flows = list(dict.fromkeys(row.flow for row in rows))
        more = f" and {len(flows) - 3} more" if len(flows) > 3 else ""
        return ", ".join(flows[:3]) + more if flows else "a session without calls"

    @property
    def is_in_progress(self) -> bool:
        """Return whether a call has not ended."""
        return any(self.counts.get(each) for each in ("running", "pending"))


def service_session(
    calls: SessionCalls,
    exchange: Exchange | None,
    replays: Sequence[StoredReport],
    *,
    limit: int,
    now: datetime | None = None,
    shows_functions: bool = True,
    most: int | None = None,
    is_first: bool = True,
    shows_all: bool = False,
) -> SessionView:
    """Return a session of the service.

    Args:
        calls: Some of its calls, and the sums over all.
        exchange: Its request, if that was captured.
        replays: The reports of its replays, the newest first.
        limit: Characters of a body that are shown.
        now: The time until which calls in progress are drawn.
        shows_functions: Show its recorded functions, too.
        most: Calls that are shown. One more tells which recorded functions belong to the next page.
        is_first: The calls are the first of the session.
        shows_all: Show all recorded functions, however many there are.
    """
    boundaries = calls.boundaries if shows_functions else ()
    first = _first_moment(calls.started_at, calls.boundaries)
    rows = rows_of_summaries(calls.calls, calls.outcomes, first)
    following = rows.rows[most:] if most else []
    rows.rows = rows.rows[:most]
    shown = None if exchange is None else exchange_view(exchange, limit)
    view = SessionView(calls.session_id, rows, shown, exchange)
    view.counts = {name: calls.counts[name] for name in _STATUSES if calls.counts.get(name)}
    view.total = sum(view.counts.values())
    view.tokens, view.cost = calls.tokens, calls.cost_usd
    view.started_at = calls.started_at or (None if exchange is None else exchange.started_at)
    view.parent, view.is_pinned, view.replays = calls.parent, calls.pinned, replays
    start, end = read_time(calls.started_at), read_time(calls.completed_at)
    if start is not None and end is not None and not view.is_in_progress:
        view.milliseconds = (end - start).total_seconds() * 1000
    now = now or datetime.now(timezone.utc)
    began = read_time(first)
    view.recorded = boundary_rows(
        _of_page(boundaries, rows.rows, following, is_first, began),
        None if began is None else began.timestamp(),
        shows_all=shows_all,
    )
    until = None if began is None else (now - began).total_seconds() * 1000
    rows.draw(until, view.recorded.rows)
    latest = end or start
    is_recent = latest is not None and (now - latest).total_seconds() < _LIVE_FOR
    view.is_live = view.is_in_progress or is_recent
    _judge(view, any(each.error is not None for each in calls.outcomes))
    _note_missing(view, (calls.total_calls or 0) - view.total - len(rows.refused))
    _note_client(view, calls.client_left)
    return view


def file_session(file: CassetteFile, source: str, *, limit: int | None) -> SessionView:
    """Return the session in a cassette file."""
    starts = [each.started_at for each in file.recordings if each.started_at is not None]
    of_boundaries = [seconds_of(each.started_at) for each in file.boundaries]
    first = min([*starts, *(each for each in of_boundaries if each is not None)], default=0.0)
    rows = rows_of_recordings(file.recordings, first)
    recorded = boundary_rows(list(enumerate(file.boundaries)), first, shows_all=True)
    rows.draw(others=recorded.rows)
    shown = None if file.exchange is None else exchange_view(file.exchange, limit)
    view = SessionView(file.session_id, rows, shown, file.exchange, source, recorded=recorded)
    for row in rows.rows:
        view.counts[row.status] = view.counts.get(row.status, 0) + 1
    view.total = len(rows.rows)
    with_tokens = [row.tokens for row in rows.rows if row.tokens is not None]
    view.tokens = sum(with_tokens) if with_tokens else None
    costs = [Decimal(row.cost) for row in rows.rows if row.cost is not None]
    view.cost = f"{sum(costs, Decimal(0)):f}" if costs else None
    if starts and min(starts) > 1e9:  # recorders count from an arbitrary moment
        view.started_at = datetime.fromtimestamp(min(starts), timezone.utc).isoformat()
    elif file.exchange is not None:
        view.started_at = file.exchange.started_at
    begins = [row.start for row in rows.rows if row.start is not None]
    ends = [row.end for row in rows.rows if row.end is not None]
    view.milliseconds = max(ends) - min(begins) if begins and ends else None
    _judge(view, False)
    if recorded.more:
        shown_ones = f"The first {len(recorded.rows):,} calls of recorded functions are shown"
        view.notes.append(f"{shown_ones}, of {recorded.total:,}; the cassette file has all.")
    _note_missing(view, file.missing_calls)
    _note_client(view, file.exchange is not None and file.exchange.client_left)
    if file.redacted or file.redacted_pii:
        what = ", ".join([*file.redacted, *(["personal data"] if file.redacted_pii else [])])
        view.notes.append(f"Removed from the file: {what}.")
    return view


def _first_moment(start: str | None, boundaries: Sequence[Boundary]) -> str | None:
    """Return when a session began: functions are often called before the first flow."""
    times = [start, *(each.started_at for each in boundaries[:1])]
    known = [(moment, time) for time in times if (moment := read_time(time)) is not None]
    return min(known)[1] if known else start


def _of_page(
    boundaries: Sequence[Boundary],
    rows: Sequence[CallRow],
    following: Sequence[CallRow],
    is_first: bool,
    began: datetime | None,
) -> list[tuple[int, Boundary]]:
    """Return the recorded functions that began while the calls of a page did, with their places."""
    first = None if is_first or not rows else rows[0].start
    last = following[0].start if following else None
    start = 0.0 if began is None else began.timestamp()
    found = []
    for index, each in enumerate(boundaries):
        seconds = seconds_of(each.started_at)
        at = 0.0 if seconds is None else (seconds - start) * 1000
        if (first is None or at >= first) and (last is None or at < last):
            found.append((index, each))
    return found


def pages_of(total: int, size: int, offset: int) -> list[tuple[str, int, bool]]:
    """Return links to pages of a long list: label, offset, and whether it is the one that is shown.

    These are the first page, the last one, and those around the one that is shown.

    Example:
        >>> pages_of(1200, 500, 500)
        [('1-500', 0, False), ('501-1000', 500, True), ('1001-1200', 1000, False)]
        >>> [label for label, _, _ in pages_of(90, 10, 40)]
        ['1-10', '31-40', '41-50', '51-60', '81-90']
    """
    last = max(0, (total - 1) // size * size)
    starts = sorted({0, offset - size, offset, offset + size, last} & set(range(0, total, size)))
    return [(f"{at + 1}-{min(at + size, total)}", at, at == offset) for at in starts]


def _judge(view: SessionView, has_failed_outcome: bool) -> None:
    """Set the status as the list of sessions does."""
    response = None if view.exchange is None else view.exchange.status
    if (
        view.counts.get("failed")
        or has_failed_outcome
        or (response is not None and response >= 500)
    ):
        view.status = "failed"
    elif view.is_in_progress:
        view.status = "running"


def _note_missing(view: SessionView, missing: int) -> None:
    if missing > 0:
        verb = "was" if missing == 1 else "were"
        view.notes.append(
            f"{count(missing, 'call')} {verb} made with other API keys, and cannot be seen here."
        )


def _note_client(view: SessionView, client_left: bool) -> None:
    if client_left:
        view.notes.append("The client of the request left before the end of the response.")
