"""The report of a replay: hits, misses, drift and leftovers, each with its place in the code.

``drift`` says in which parts a call differs from its recording, ``findings`` what probably happened to the
calls: added, removed, swapped, changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from ..whatif.compared_calls import LiveCall

# A log line, a test's summary and an error message stay readable. The report itself has everything.
_MOST_SHOWN = 20


def printable(text: str, most: int) -> str:
    r"""Return ``text`` in one line that is safe to print: control characters escaped, the end cut.

    Example:
        >>> print(printable("red \x1b[31m alert", 40))
        red \x1b[31m alert
    """
    text = text[:most] + "…" if len(text) > most else text
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class CallSite(NamedTuple):
    """A place in the application's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"

    @property
    def short(self) -> str:
        """The name of the file and the line, such as ``main.py:14``."""
        return f"{Path(self.file).name}:{self.line}"


class Change(NamedTuple):
    """One part in which a call differs from its recording.

    Attributes:
        path: The part, such as ``message``, ``parameters.level``, ``version`` or
            ``toolResults[0].content``.
        recorded, sent: The two values, None if a side has none. Secrets are masked as in the recording,
            and long values are cut.
        diff: The difference as lines that begin with ``-`` (recorded), ``+`` (sent) or a space. Safe to
            print: control characters are escaped.
    """

    path: str
    recorded: Any
    sent: Any
    diff: str

    def as_dict(self) -> dict[str, Any]:
        """Return the change as plain JSON values."""
        return self._asdict()

    def __str__(self) -> str:
        return f"{self.path}\n{self.diff}"


class Finding(NamedTuple):
    """What probably happened to one or two calls, from aligning the inputs of all calls.

    Attributes:
        what: ``"added"``, ``"removed"``, ``"changed"``, ``"swapped"``, ``"moved"`` or ``"redirected"``
            (the same input goes to another flow, or by another method).
        text: The finding as one line, such as ``call 2 was added (grade-3, main.py:14)``. Safe to print.
        slug, kind: The flow, and how it is called; for ``"removed"``, how it was called.
        recorded: The positions of the recordings in their slug and kind, from 0.
        made: The positions of the calls, likewise.
        call_site: The place of the first of these calls, None if there is none.
    """

    what: str
    text: str
    slug: str | None
    kind: str | None
    recorded: tuple[int, ...] = ()
    made: tuple[int, ...] = ()
    call_site: CallSite | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain JSON values."""
        return {
            "what": self.what,
            "text": self.text,
            "slug": self.slug,
            "kind": self.kind,
            "recorded": list(self.recorded),
            "made": list(self.made),
            "callSite": str(self.call_site) if self.call_site else None,
        }

    def __str__(self) -> str:
        return self.text


class ReportEntry(NamedTuple):
    """One hit, miss, difference, leftover or live call.

    ``position`` counts the calls to this slug and kind from 0. ``detail`` describes a difference or a
    decision. ``call_site`` is None for leftovers, which have no call. ``changes`` are the differences
    of a drifted call; after the first 100 drifted calls of a replay, only ``detail`` names them.
    """

    slug: str | None
    kind: str | None
    position: int
    detail: str = ""
    call_site: CallSite | None = None
    changes: tuple[Change, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON values. Entries without ``changes`` have no such field."""
        entry: dict[str, Any] = {
            "slug": self.slug,
            "kind": self.kind,
            "position": self.position,
            "detail": self.detail,
            "callSite": str(self.call_site) if self.call_site else None,
        }
        if self.changes:
            entry["changes"] = [change.as_dict() for change in self.changes]
        return entry


@dataclass(frozen=True)
class Candidate:
    """A recording, or all recordings of a flow, that may belong to a call without a recording.

    Attributes:
        slug, kind: The flow, and how it was called.
        recorded, unplayed: The number of these recordings, and of the unplayed ones among them.
        position: The number of the recording in this slug and kind, from 0; None for all of them.
        differs: The parts of the input in which the call differs from the recording, such as
            ``message`` or ``parameters.level``; empty if the inputs are the same, None if that is
            not known. Never their values, which may be private.
    """

    slug: str | None
    kind: str | None
    recorded: int
    unplayed: int
    position: int | None = None
    differs: tuple[str, ...] | None = None

    def __str__(self) -> str:
        name = f"{printable(str(self.slug), 80)} [{self.kind}]"
        if self.position is None:
            return f"{name} with {self.unplayed} of {self.recorded} unplayed"
        played = "unplayed" if self.unplayed else "played"
        return f"{name} #{self.position + 1}, {played}{self._difference()}"

    def _difference(self) -> str:
        if self.differs is None:
            return ""
        parts = [printable(part, 80) for part in self.differs]
        return f", differs in {', '.join(parts)}" if self.differs else ", has this input"


@dataclass
class ReplayReport:
    """Everything that happened in one replay scope. Grows while the scope runs.

    ``live`` lists the calls that a fork, or a recording of new calls, has sent to the service. ``lost``
    lists calls that belonged to no scope while the replay ran, from threads or tasks that lost it.
    ``unread`` lists the clients of a session whose calls could not be fetched, so it is unknown whether
    they were made. ``unordered`` lists overlapping calls that may have completed in another order than
    recorded. ``what_if`` has the live calls of a what-if, beside their recordings. ``findings`` is
    filled at the end of a replay with misses, drift or leftovers.

    Example:
        >>> ReplayReport().summary()
        'hits=0; misses=0; drift=0; leftovers=0'
    """

    hits: list[ReportEntry] = field(default_factory=list)
    misses: list[ReportEntry] = field(default_factory=list)
    drift: list[ReportEntry] = field(default_factory=list)
    leftovers: list[ReportEntry] = field(default_factory=list)
    live: list[ReportEntry] = field(default_factory=list)
    lost: list[ReportEntry] = field(default_factory=list)
    unread: list[ReportEntry] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    unordered: list[ReportEntry] = field(default_factory=list)
    what_if: list[LiveCall] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True if every call had a recording, and nothing differed, was left, lost, unread or unordered."""
        problems = (self.misses, self.drift, self.leftovers, self.lost, self.unread, self.unordered)
        return not any(problems)

    def summary(self) -> str:
        """Return one line for a log or the ``X-Noukai-Replay-Report`` header."""
        live = f"; live={len(self.live)}" if self.live else ""
        lost = f"; lost={len(self.lost)}" if self.lost else ""
        unread = f"; unread={len(self.unread)}" if self.unread else ""
        unordered = f"; unordered={len(self.unordered)}" if self.unordered else ""
        return (
            f"hits={len(self.hits)}; misses={len(self.misses)}; drift={len(self.drift)}; "
            f"leftovers={len(self.leftovers)}{live}{lost}{unread}{unordered}"
        )

    @property
    def explanation(self) -> str:
        """The findings as one line; empty if there are none."""
        more = len(self.findings) - _MOST_SHOWN
        texts = [finding.text for finding in self.findings[:_MOST_SHOWN]]
        return "; ".join([*texts, f"and {more} more"] if more > 0 else texts)

    def lines(self) -> list[str]:
        """Return the findings and the drift as text: what happened; each call, its place and its diff."""
        lines = [f"{finding.text}" for finding in self.findings[:_MOST_SHOWN]]
        if len(self.findings) > _MOST_SHOWN:
            lines.append(f"and {len(self.findings) - _MOST_SHOWN} more")
        for entry in self.drift[:_MOST_SHOWN]:
            at = f" at {entry.call_site}" if entry.call_site else ""
            flow = printable(entry.slug or "(deleted flow)", 80)
            name = f"{flow} [{entry.kind}] call {entry.position + 1}{at}"
            lines.append(name if entry.changes else f"{name}: {entry.detail}")
            for change in entry.changes:
                lines += [f"  {change.path}", *(f"    {line}" for line in change.diff.split("\n"))]
        if len(self.drift) > _MOST_SHOWN:
            lines.append(f"and {len(self.drift) - _MOST_SHOWN} more calls")
        for entry in self.unordered[:_MOST_SHOWN]:
            flow = printable(entry.slug or "(deleted flow)", 80)
            lines.append(f"{flow} [{entry.kind}] call {entry.position + 1} {entry.detail}")
        return lines

    def _repr_html_(self) -> str:
        from .notebooks import report_html

        return report_html(self)

    def as_dict(self) -> dict[str, Any]:
        """Return the whole report as plain JSON values."""
        lists = ["hits", "misses", "drift", "leftovers", "live", "lost", "unread", "findings"]
        if self.unordered:
            lists.append("unordered")
        report = {name: [entry.as_dict() for entry in getattr(self, name)] for name in lists}
        if self.what_if:
            report["whatIf"] = [call.as_dict() for call in self.what_if]
        return report
