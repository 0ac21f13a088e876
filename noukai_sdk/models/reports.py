"""What a replay did: hits, misses, drift and leftovers, each with the place in the code."""

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
    """One thing that happened to one call.

    ``position`` counts the calls to this slug and kind from 0; ``detail`` says what differs, or what
    was decided; ``call_site`` is None for leftovers, which no call touched.
    """

    slug: str | None
    kind: str | None
    position: int
    detail: str = ""
    call_site: CallSite | None = None

    def as_dict(self) -> dict[str, Any]:
        """The entry as plain JSON values."""
        return {
            "slug": self.slug,
            "kind": self.kind,
            "position": self.position,
            "detail": self.detail,
            "callSite": str(self.call_site) if self.call_site else None,
        }


@dataclass(frozen=True)
class Candidate:
    """A recording, or all recordings of a flow, that a call without a recording may have meant.

    Attributes:
        slug, kind: The flow, and how it was called.
        recorded, unplayed: How many recordings this stands for, and how many of them are unplayed.
        position: Which recording of this slug and kind, counted from 0; None for all of them.
        differs: The parts of the input in which the call differs from the recording, such as
            ``message`` or ``parameters.level``; empty where the inputs are the same, None where that
            is not known. Never their values, which may be private.
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
    """Everything that one replay scope saw. Grows while the scope runs.

    ``live`` are the calls that a fork, or a recording of new calls, has put to the service.

    Example:
        >>> ReplayReport().summary()
        'hits=0; misses=0; drift=0; leftovers=0'
    """

    hits: list[ReportEntry] = field(default_factory=list)
    misses: list[ReportEntry] = field(default_factory=list)
    drift: list[ReportEntry] = field(default_factory=list)
    leftovers: list[ReportEntry] = field(default_factory=list)
    live: list[ReportEntry] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True where every call was answered, and nothing differed or was left."""
        return not (self.misses or self.drift or self.leftovers)

    def summary(self) -> str:
        """One line for a log or the ``X-Noukai-Replay-Report`` header."""
        live = f"; live={len(self.live)}" if self.live else ""
        return (
            f"hits={len(self.hits)}; misses={len(self.misses)}; "
            f"drift={len(self.drift)}; leftovers={len(self.leftovers)}{live}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The whole report as plain JSON values."""
        return {
            name: [entry.as_dict() for entry in getattr(self, name)]
            for name in ("hits", "misses", "drift", "leftovers", "live")
        }
