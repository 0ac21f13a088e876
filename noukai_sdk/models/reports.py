"""The report of a replay: hits, misses, drift and leftovers, each with its place in the code."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple


class CallSite(NamedTuple):
    """A place in the application's code."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line} in {self.function}"


class ReportEntry(NamedTuple):
    """One hit, miss, difference, leftover or live call.

    ``position`` counts the calls to this slug and kind from 0. ``detail`` describes a difference or a
    decision. ``call_site`` is None for leftovers, which have no call.
    """

    slug: str | None
    kind: str | None
    position: int
    detail: str = ""
    call_site: CallSite | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plain JSON values."""
        return {
            "slug": self.slug,
            "kind": self.kind,
            "position": self.position,
            "detail": self.detail,
            "callSite": str(self.call_site) if self.call_site else None,
        }


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
        name = f"{self.slug} [{self.kind}]"
        if self.position is None:
            return f"{name} with {self.unplayed} of {self.recorded} unplayed"
        played = "unplayed" if self.unplayed else "played"
        return f"{name} #{self.position + 1}, {played}{self._difference()}"

    def _difference(self) -> str:
        if self.differs is None:
            return ""
        return f", differs in {', '.join(self.differs)}" if self.differs else ", has this input"


@dataclass
class ReplayReport:
    """Everything that happened in one replay scope. Grows while the scope runs.

    ``live`` lists the calls that a fork, or a recording of new calls, has sent to the service. ``lost``
    lists calls that belonged to no scope while the replay ran, from threads or tasks that lost it.

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

    @property
    def clean(self) -> bool:
        """True if every call had a recording, and nothing differed, was left or was lost."""
        return not (self.misses or self.drift or self.leftovers or self.lost)

    def summary(self) -> str:
        """Return one line for a log or the ``X-Noukai-Replay-Report`` header."""
        live = f"; live={len(self.live)}" if self.live else ""
        lost = f"; lost={len(self.lost)}" if self.lost else ""
        return (
            f"hits={len(self.hits)}; misses={len(self.misses)}; "
            f"drift={len(self.drift)}; leftovers={len(self.leftovers)}{live}{lost}"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the whole report as plain JSON values."""
        return {
            name: [entry.as_dict() for entry in getattr(self, name)]
            for name in ("hits", "misses", "drift", "leftovers", "live", "lost")
        }
