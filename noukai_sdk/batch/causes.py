"""Why a replay is not as recorded, in terms that are the same for all sessions with the same cause.

A change of the code breaks many sessions in one way. :func:`causes_of` names what went wrong in one session
by the call or the field and the line of code, without what belongs to this session alone. :func:`grouped`
counts the sessions.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..models.reports import printable
from ..replay.response_diff import MISSING, ResponseDifference
from ..replaying.outcome import Outcome

Status = Literal["equal", "changed", "drifted", "missed", "error", "skipped"]
STATUSES: tuple[Status, ...] = ("equal", "changed", "drifted", "missed", "error", "skipped")

# By the codes of docs/wire.md: the session cannot be replayed, whatever the app does.
_NOT_REPLAYABLE = (
    *("replay_forbidden", "replay_not_found", "replay_expired"),
    *("replay_invalid_session", "replay_no_snapshots"),
)
_VERBS = {
    "added": ": added",
    "removed": ": removed",
    "moved": ": moved",
    "swapped": ": swapped with another",
    "redirected": ": redirected to another flow or method",
}
ENTRIES = {
    "misses": ": no recording",
    "leftovers": ": not made",
    "lost": ": made outside of the scope",
    "unread": ": could not be fetched",
    "unordered": ": perhaps completed in another order",
}
_FAILURES = ("responded with 5", "failed with")
NOT_FETCHED = "the service cannot be reached"
_LONGEST_VALUE = 60
_LONGEST_OF_PAIR = 28
_SAME_START = 20
_LONGEST_LINE = 300
_MOST_LINES = 60


@dataclass(frozen=True)
class Cause:
    """One reason why a session is not equal.

    Attributes:
        status: The result that it leads to.
        what: What happened, such as ``: message differs`` after the name of a call.
        flow: The flow of the call, None if it is not about a call.
        place: The line of the application's code, such as ``main.py:41``.
        calls: The numbers of the calls of this flow, from 1.
        example: The values in this session, such as ``"B" -> "A"``.
    """

    status: Status
    what: str
    flow: str | None = None
    place: str | None = None
    calls: tuple[int, ...] = ()
    example: str = ""


@dataclass(frozen=True)
class SessionResult:
    """What came of one session of a batch.

    Attributes:
        source: The session's id, or the path of its cassette file.
        session_id: The id; None for a file without one.
        request: The captured request, such as ``POST /grade``.
        headline: The result in one line.
        lines: What is wrong, in full.
        seconds: How long the replay took.
        masked: What was removed or masked at capture, such as ``header authorization``.
    """

    source: str
    status: Status
    headline: str
    session_id: str | None = None
    request: str = ""
    causes: tuple[Cause, ...] = ()
    lines: tuple[str, ...] = ()
    seconds: float = 0.0
    masked: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The id of the session, or the file."""
        return self.session_id or self.source

    @property
    def is_fetched(self) -> bool:
        """Whether the service was reached."""
        return all(cause.what != NOT_FETCHED for cause in self.causes)

    @property
    def problems(self) -> set[Status]:
        """All results that its causes lead to; ``status`` is the most serious one."""
        return {self.status, *(cause.status for cause in self.causes)} - {"equal"}


@dataclass
class CauseGroup:
    """All sessions with the same cause."""

    cause: Cause
    sessions: list[str] = field(default_factory=list)
    calls: set[int] = field(default_factory=set)

    def __str__(self) -> str:
        cause = self.cause
        text = f"{_calls(self.calls)} of {cause.flow}{cause.what}" if cause.flow else cause.what
        return f"{text} at {cause.place}" if cause.place else text


def skipped(source: str, reason: str, session_id: str | None = None) -> SessionResult:
    """Return the result of a session that cannot be replayed."""
    return SessionResult(source, "skipped", reason, session_id, causes=(Cause("skipped", reason),))


def failed(source: str, reason: str, details: str = "") -> SessionResult:
    """Return the result of a session whose replay failed for a reason outside of the app's code."""
    cause = Cause("error", reason, example=printable(details, _LONGEST_LINE))
    return SessionResult(
        source, "error", reason, causes=(cause,), lines=(details,) if details else ()
    )


def result_of(
    source: str,
    session_id: str | None,
    request: str,
    outcome: Outcome,
    *,
    seconds: float,
    flows: Mapping[str, str] | None = None,
    masked: tuple[str, ...] = (),
) -> SessionResult:
    """Return what came of one session.

    Args:
        source: The session's id, or the path of its file.
        session_id: Its id.
        request: The captured request.
        outcome: What came of its replay.
        seconds: How long it took.
        flows: The full names of the flows, by their slugs.
        masked: What is missing in the request.
    """
    causes = tuple(dict.fromkeys(causes_of(outcome, flows or {})))
    status: Status = "equal"
    for cause in causes:
        status = max(status, cause.status, key=STATUSES.index)
    lines = [*outcome.problems, *map(str, outcome.differences or ())] if causes else []
    shown = [printable(line, _LONGEST_LINE) for text in lines for line in text.splitlines()]
    if len(shown) > _MOST_LINES:
        shown[_MOST_LINES:] = [f"and {len(shown) - _MOST_LINES} more lines"]
    return SessionResult(
        source, status, outcome.headline, session_id, request, causes, tuple(shown), seconds, masked
    )


def causes_of(outcome: Outcome, flows: Mapping[str, str]) -> Iterator[Cause]:
    """Yield why a replay is not as recorded; nothing if it is."""
    if outcome.exit_code == 0:
        return
    error = outcome.error or (outcome.verdict.error if outcome.verdict is not None else None)
    if not outcome.replayed:
        code = str((error or {}).get("error"))
        message = _plain(str((error or {}).get("message") or outcome.headline))
        yield Cause("skipped" if code in _NOT_REPLAYABLE else "error", message)
        return
    if outcome.timed_out is not None or outcome.result == "unknown":
        yield Cause("error", outcome.headline)
        return
    report = outcome.details
    # A refused call is often the reason why an app raised. If none was, the exception is the cause.
    raised = outcome.exception
    is_refused = any(report.get(name) for name in ("misses", "lost", "unread"))
    if is_refused:
        raised = None
    after = re.search(r"responded with \d+|failed with \w+", str((error or {}).get("message")))
    # An app may turn its exception into such a response by itself.
    is_failure = after is not None and after[0].startswith(_FAILURES)
    has_failed = raised is not None or (is_failure and not is_refused and _was_well(outcome))
    calls = list(_of_calls(report, flows, has_failed=has_failed))
    yield from calls
    if raised is not None:
        place = _place(None if raised.site is None else str(raised.site))
        yield Cause("error", raised.type, None, place, (), _short(raised.message))
    elif error is not None:
        # It stands in place of the app's response, and its text says what that was.
        if after is not None:
            yield Cause("error" if has_failed else "missed", f"the app {after[0]}")
        elif not calls:
            yield Cause("error", _plain(str(error.get("message"))))
    elif outcome.exception is None:
        for difference in outcome.differences or ():
            yield _of_response(difference)


def grouped(results: Iterable[SessionResult]) -> list[CauseGroup]:
    """Return the causes with their sessions: the most serious first, and of these the most frequent."""
    groups: dict[tuple[Any, ...], CauseGroup] = {}
    for result in results:
        for cause in result.causes:
            key = (cause.status, cause.what, cause.flow, cause.place)
            group = groups.setdefault(key, CauseGroup(cause))
            group.calls.update(cause.calls)
            if result.name not in group.sessions[-1:]:  # of each session only once
                group.sessions.append(result.name)
    # What was skipped says nothing about the code.
    order = ("error", "missed", "drifted", "changed", "skipped", "equal")
    return sorted(
        groups.values(), key=lambda group: (order.index(group.cause.status), -len(group.sessions))
    )


def _was_well(outcome: Outcome) -> bool:
    """Return whether the captured response was no failure of the app."""
    captured = [each.captured for each in outcome.differences or () if each.where == "status"]
    return any(isinstance(status, int) and status < 500 for status in captured)


def _of_calls(
    report: Mapping[str, Any], flows: Mapping[str, str], *, has_failed: bool
) -> Iterator[Cause]:
    """Yield what differs in the calls: by the findings, which explain the rest, or else call by call.

    A program that ended early makes no more calls. That they are missing explains nothing.

    Args:
        report: The report of the replay.
        flows: The full names of the flows, by their slugs.
        has_failed: The program failed by itself, in the middle.
    """
    ended_early = has_failed or bool(report.get("misses"))
    status: Status = "missed" if report.get("misses") or report.get("leftovers") else "drifted"
    drift = {(*_lane(each), each["position"]): each for each in report.get("drift") or ()}
    explained = set()
    for finding in report.get("findings") or ():
        what = finding["what"]
        if what in _VERBS:
            explained.add(_lane(finding))
            if what == "removed" and has_failed:
                continue
            numbers = finding["made"] or finding["recorded"]
            # What else the text says is the name of the call; of a removed one, also its input.
            quoted = re.search(r"\('(.*)'\)", str(finding["text"]))
            example = quoted[1] if quoted else ""
            yield _cause(status, _VERBS[what], finding, flows, numbers, example)
        elif what == "changed":
            explained.add(_lane(finding))
            for position in finding["made"]:
                entry = drift.get((*_lane(finding), position))
                yield from [] if entry is None else _of_drift(entry, flows)
    for (*lane, _), entry in drift.items():
        if tuple(lane) not in explained:
            yield from _of_drift(entry, flows)
    for name, what in ENTRIES.items():
        if name == "leftovers" and ended_early:
            continue
        for entry in report.get(name) or ():
            if name in ("misses", "leftovers") and _lane(entry) in explained:
                continue
            of_entry: Status = "drifted" if name == "unordered" else "missed"
            yield _cause(of_entry, what, entry, flows, [entry["position"]])


def _of_drift(entry: Mapping[str, Any], flows: Mapping[str, str]) -> Iterator[Cause]:
    changes = entry.get("changes") or ()
    if not changes:
        what = f": {_plain(str(entry['detail']))}"
        yield _cause("drifted", what, entry, flows, [entry["position"]])
    for change in changes:
        what = f": {_plain(str(change['path']))} differs"
        example = _pair(change["recorded"], change["sent"])
        yield _cause("drifted", what, entry, flows, [entry["position"]], example)


def _cause(
    status: Status,
    what: str,
    entry: Mapping[str, Any],
    flows: Mapping[str, str],
    positions: Sequence[int],
    example: str = "",
) -> Cause:
    slug = entry.get("slug")
    flow = flows.get(slug, slug) if slug else "another client"
    calls = tuple(position + 1 for position in positions)
    return Cause(status, what, flow, _place(entry.get("callSite")), calls, _short(example))


def _of_response(difference: ResponseDifference) -> Cause:
    where, captured, received = difference.where, difference.captured, difference.received
    if where == "status":
        return Cause("changed", f"status {captured} -> {received}")
    if captured == MISSING:
        return Cause("changed", f"{_plain(where)} is new", example=_short(_json(received)))
    if received == MISSING:
        return Cause("changed", f"{_plain(where)} is missing", example=_short(_json(captured)))
    return Cause("changed", f"{_plain(where)} differs", example=_pair(captured, received))


def _lane(entry: Mapping[str, Any]) -> tuple[Any, Any]:
    return entry.get("slug"), entry.get("kind")


def _plain(text: str) -> str:
    """Return a text without the numbers and ids of one session.

    Example:
        >>> _plain("$.items[3].name of s-4"), _plain("event 12, $.id")
        ('$.items[*].name of s-4', 'event *, $.id')
    """
    text = re.sub(r"\[\d+\]", "[*]", text)
    text = re.sub(r"\b(event|line|call|calls) \d+", r"\1 *", text)
    return printable(re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", "*", text), 200)


def _place(site: str | None) -> str | None:
    """Return a place in the code: relative to this folder if it is inside, else by the file's name."""
    if not site:
        return None
    file, colon, line = site.rpartition(" in ")[0].rpartition(":")
    path = Path(file)
    inside = path.is_relative_to(Path.cwd())
    return f"{os.path.relpath(path) if inside else path.name}{colon}{line}"


def _pair(before: Any, after: Any) -> str:
    """Return two values in one line, from shortly before the place where they differ.

    Example:
        >>> print(_pair("a long text that ends in yes", "a long text that ends in no"))
        …" ends in yes" -> …" ends in no"
    """
    texts = [_json(before), _json(after)]
    pairs = enumerate(zip(*texts, strict=False))
    same = next((index for index, (one, other) in pairs if one != other), 0)
    if same > _SAME_START:
        texts = [f'…"{text[same - 9 :]}' for text in texts]
    return " -> ".join(printable(text, _LONGEST_OF_PAIR) for text in texts)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _short(text: str) -> str:
    return printable(" ".join(text.split()), _LONGEST_VALUE)


def _calls(numbers: Iterable[int]) -> str:
    """Name calls by their numbers.

    Example:
        >>> _calls({2}), _calls({1, 2, 3}), _calls({1, 3})
        ('call 2', 'calls 1-3', 'calls 1, 3')
    """
    listed = sorted(numbers)
    if len(listed) < 2:
        return f"call {listed[0]}" if listed else "a call"
    if listed[-1] - listed[0] == len(listed) - 1 and len(listed) > 2:
        return f"calls {listed[0]}-{listed[-1]}"
    more = "" if len(listed) <= 4 else ", ..."
    return f"calls {', '.join(map(str, listed[:4]))}{more}"
