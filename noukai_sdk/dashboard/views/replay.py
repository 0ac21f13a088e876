"""The report of a replay: what happened to the calls, and how the response differs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from ...models.session_lists import SessionSummary, StoredReport
from .texts import count
from .times import duration, milliseconds_between, read_time

# More rows help nobody.
_MOST_ENTRIES = 100
_MOST_HITS = 500
_MOST_DIFFERENCES = 200
_LONGEST = 2_000
_MOST_DIGITS = 9

_ID = re.compile(r"[A-Za-z0-9_-]{8,128}")
_WORDS = {
    "misses": "Miss",
    "drift": "Drift",
    "leftovers": "Leftover",
    "lost": "Lost",
    "unread": "Unread",
    "unordered": "Order",
    "live": "Live",
    "hits": "Hit",
}
_MEANINGS = {
    "misses": "a call with no recording left for it",
    "drift": "a call that differs from its recording",
    "leftovers": "a recording that no call used",
    "lost": "a call that belongs to no request",
    "unread": "calls of another client that could not be fetched",
    "unordered": "overlapping calls that may have ended in another order",
    "live": "a call that went to the service",
}
_PROBLEMS = ("misses", "drift", "leftovers", "lost", "unread", "unordered")


@dataclass(frozen=True)
class DiffLine:
    """A line of a diff. ``kind`` is ``removed`` (recorded), ``added`` (sent), ``place`` or ``same``."""

    kind: str
    text: str


@dataclass(frozen=True)
class ChangedPart:
    """A part that differs, such as ``message`` of a call or ``$.grade`` of a response."""

    name: str
    lines: tuple[DiffLine, ...]


@dataclass(frozen=True)
class Entry:
    """A call in the report.

    Attributes:
        kind: ``misses``, ``drift``, ...
        call_site: The line of code, such as ``app/main.py:14 in grade``.
        recorded: The run that was recorded, of a leftover; empty if it is not known.
    """

    kind: str
    title: str
    detail: str
    call_site: str
    changes: tuple[ChangedPart, ...]
    recorded: str = ""

    @property
    def word(self) -> str:
        """Return the kind as a word."""
        return _WORDS[self.kind]

    @property
    def meaning(self) -> str:
        """Return what the word means."""
        return _MEANINGS.get(self.kind, "")


@dataclass(frozen=True)
class Count:
    """How many calls of a kind there were."""

    name: str
    number: int
    is_problem: bool

    @property
    def word(self) -> str:
        """Return the name as it fits the number."""
        return _WORDS.get(self.name, self.name).lower() if self.number == 1 else self.name


@dataclass
class ReplayView:
    """A replay.

    Attributes:
        state: ``running``, ``clean``, ``forked``, ``differs``, ``failed`` or ``unknown``.
        findings: What probably happened to the calls.
        problems: The calls that did not replay as recorded.
        live: The calls of a fork that went to the service.
        hits: The calls that replayed, as far as they are shown.
        more: How many entries are not shown.
        differences: Between the captured response and this one; None if they were not compared.
    """

    report: StoredReport
    state: str
    headline: str
    counts: list[Count]
    findings: list[str]
    problems: list[Entry]
    live: list[Entry]
    hits: list[Entry]
    more: int
    differences: list[ChangedPart] | None
    message: str

    @property
    def url(self) -> str:
        """Return the URL of the replay's page."""
        return f"/replays/{quote(self.report.replay_id, safe='')}"

    @property
    def session_url(self) -> str:
        """Return the URL of the session that was replayed."""
        return f"/sessions/{quote(self.report.session_id or '', safe='')}"

    @property
    def child(self) -> str | None:
        """Return the session of a fork."""
        sent = self.report.sent
        named = None if sent is None else sent.session_id
        is_fork = bool(self.live) or (sent is not None and sent.live_from is not None)
        return named if is_fork and named != self.report.session_id else None

    @property
    def is_running(self) -> bool:
        """Return whether it has not ended."""
        return self.state == "running"

    @property
    def age(self) -> float:
        """Return how many seconds ago it began."""
        return _age(self.report)

    @property
    def facts(self) -> list[str]:
        """Return the status of the response, and how long the replay took."""
        status = self.report.status
        took = duration(milliseconds_between(self.report.started_at, self.report.completed_at))
        return [*([] if status is None else [f"HTTP {status}"]), *([took] if took else [])]


def replay_view(report: StoredReport, *, longest: float, now: datetime | None = None) -> ReplayView:
    """Return a replay as the page shows it.

    Args:
        report: The report.
        longest: Seconds after which a replay that is not finished never will be.
        now: The time.
    """
    lists = report.report
    sent = report.sent
    # The recordings after the first live call are of no use in a fork.
    is_fork = sent is not None and sent.live_from is not None
    kinds = [kind for kind in _PROBLEMS if not (is_fork and kind == "leftovers")]
    problems = [_entry(kind, each) for kind in kinds for each in _dicts(lists.get(kind))]
    differences = None
    if sent is not None and sent.differences is not None:
        differences = [response_part(each) for each in sent.differences[:_MOST_DIFFERENCES]]
    state = _state(report, longest, now)
    error = report.error or {}
    findings = [str(each.get("text")) for each in _dicts(lists.get("findings"))]
    message = str(error.get("message") or "")
    view = ReplayView(
        report,
        state,
        "",
        _counts(report.summary, kinds),
        # A message may hold the findings already.
        [text for text in findings[:_MOST_ENTRIES] if text not in message],
        problems[:_MOST_ENTRIES],
        [_entry("live", each) for each in _dicts(lists.get("live"))][:_MOST_ENTRIES],
        [_entry("hits", each) for each in _dicts(lists.get("hits"))][:_MOST_HITS],
        max(0, len(problems) - _MOST_ENTRIES),
        differences,
        message,
    )
    view.headline = _headline(view)
    return view


def _state(report: StoredReport, longest: float, now: datetime | None) -> str:
    sent = report.sent
    # The report of the app is there before the response has been compared.
    is_open = report.state == "running" or (sent is not None and sent.result is None)
    if is_open and _age(report, now) <= longest:
        return "running"
    result = report.verdict if sent is None else sent.result or report.verdict
    if sent is not None and sent.live_from is not None and report.verdict == "clean":
        return "forked"  # that the response differs is what a fork is for
    if result in ("clean", "differs", "failed"):
        return result
    return "unknown" if result in (None, "unknown") else "failed"


def _age(report: StoredReport, now: datetime | None = None) -> float:
    start = read_time(report.started_at)
    return 0.0 if start is None else ((now or datetime.now(timezone.utc)) - start).total_seconds()


def _headline(view: ReplayView) -> str:
    sent, state = view.report.sent, view.state
    if state == "running":
        return "The replay is running"
    differences = view.differences or []
    calls_are_equal = view.counts and not any(each.is_problem for each in view.counts)
    if state == "forked" and sent is not None:
        numbers = {each.name: each.number for each in view.counts}
        replayed = count(numbers.get("hits", 0), "call")
        return f"Forked: {replayed} replayed, {'the rest' if 'live' in numbers else 'none'} live"
    if calls_are_equal and differences and not view.message:
        names = [each.name for each in differences[:3]]
        more = len(differences) - len(names)
        listed = ", ".join(names) + (f" and {more} more" if more > 0 else "")
        return f"Equal but for {listed}"
    if sent is not None and sent.headline:
        return sent.headline[:1].upper() + sent.headline[1:]
    return {
        "clean": "Replayed as recorded",
        "differs": "Replayed, with differences",
        "failed": "The replay failed",
    }.get(state, "It is not known how the replay ended: the service that ran it has stopped")


def _counts(summary: str, problems: Sequence[str]) -> list[Count]:
    """Read the summary line.

    Example:
        >>> [(each.word, each.number, each.is_problem) for each in _counts("hits=1; misses=2", ["misses"])]
        [('hit', 1, False), ('misses', 2, True)]
    """
    found = []
    for part in summary.split(";"):
        name, _, number = part.strip().partition("=")
        if number.isdecimal() and len(number) <= _MOST_DIGITS:
            is_problem = name in problems and int(number) > 0
            found.append(Count(name, int(number), is_problem))
    return found


def _entry(kind: str, entry: Mapping[str, Any]) -> Entry:
    slug, method = entry.get("slug"), entry.get("kind")
    if slug is None and method is None:
        title = "a call of a client that the replay does not know"
        return Entry(kind, title, str(entry.get("detail") or ""), "", ())
    position = entry.get("position")
    number = position + 1 if isinstance(position, int) else "?"
    flow = f"{slug} [{method}]"
    kind_of_call = "recorded function, call" if method == "recorded" else f"{method} call"
    detail = str(entry.get("detail") or "").removeprefix(f"{flow} ")
    recorded = ""
    if kind == "leftovers" and _ID.fullmatch(detail):
        recorded, detail = detail, ""
    changes = tuple(
        ChangedPart(str(each.get("path")), diff_lines(str(each.get("diff") or "")))
        for each in _dicts(entry.get("changes"))
    )
    return Entry(
        kind,
        f"{slug or '(deleted flow)'}, {kind_of_call} {number}",
        "" if changes else detail,
        str(entry.get("callSite") or ""),
        changes,
        recorded,
    )


def diff_lines(diff: str) -> tuple[DiffLine, ...]:
    r"""Return the lines of a diff.

    Example:
        >>> [line.kind for line in diff_lines("- a\n+ b\n  c")]
        ['removed', 'added', 'same']
    """
    kinds = {"-": "removed", "+": "added", "@": "place"}
    lines = diff.split("\n") if diff else []
    return tuple(DiffLine(kinds.get(line[:1], "same"), line) for line in lines)


def response_part(difference: Mapping[str, Any]) -> ChangedPart:
    """Return a difference between two responses, as ``ResponseDifference.as_dict()`` has it."""
    where = str(difference.get("where"))
    if difference.get("diff"):
        lines = str(difference["diff"]).splitlines()
        # Without the two lines with the names of the sides.
        return ChangedPart(where, diff_lines("\n".join(lines[2:])))
    sides = (("removed", "-", "captured"), ("added", "+", "received"))
    return ChangedPart(
        where,
        tuple(
            DiffLine(kind, f"{sign} {value_text(difference[side])}")
            for kind, sign, side in sides
            if difference.get(side, "(missing)") != "(missing)"
        ),
    )


def value_text(value: Any) -> str:
    """Return a value as JSON in one line, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    more = len(text) - _LONGEST
    return text if more <= 0 else f"{text[:_LONGEST]}… {more:,} more characters"


def _dicts(entries: Any) -> Iterator[Mapping[str, Any]]:
    """Yield the entries that are objects: anybody with a key may post a report."""
    if isinstance(entries, list):
        yield from (each for each in entries if isinstance(each, dict))


@dataclass(frozen=True)
class HistoryRow:
    """A replay in the history of a session."""

    view: ReplayView

    @property
    def edits(self) -> str:
        """Return what was changed in the request, and from where it went live."""
        sent = self.view.report.sent
        if sent is None:
            return ""
        fork = [] if sent.live_from is None else [f"live after {count(sent.live_from, 'call')}"]
        return ", ".join([*sent.edits, *fork])


@dataclass(frozen=True)
class ReplayHistory:
    """The replays and the forks of a session."""

    session_id: str
    rows: Sequence[HistoryRow]
    forks: Sequence[SessionSummary] = ()

    @property
    def is_running(self) -> bool:
        """Return whether a replay has not ended."""
        return any(row.view.is_running for row in self.rows)


def history_view(
    session_id: str,
    reports: Sequence[StoredReport],
    forks: Sequence[SessionSummary],
    *,
    longest: float,
    most: int = 20,
) -> ReplayHistory:
    """Return the last replays of a session, and its forks."""
    rows = [HistoryRow(replay_view(each, longest=longest)) for each in reports[:most]]
    return ReplayHistory(session_id, rows, forks)
