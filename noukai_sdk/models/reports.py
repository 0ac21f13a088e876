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


@dataclass
class ReplayReport:
    """Everything that one replay scope saw. Grows while the scope runs.

    Example:
        >>> ReplayReport().summary()
        'hits=0; misses=0; drift=0; leftovers=0'
    """

    hits: list[ReportEntry] = field(default_factory=list)
    misses: list[ReportEntry] = field(default_factory=list)
    drift: list[ReportEntry] = field(default_factory=list)
    leftovers: list[ReportEntry] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        """True where every call was served, and nothing differed or was left."""
        return not (self.misses or self.drift or self.leftovers)

    def summary(self) -> str:
        """One line for a log or the ``X-Noukai-Replay-Report`` header."""
        return (
            f"hits={len(self.hits)}; misses={len(self.misses)}; "
            f"drift={len(self.drift)}; leftovers={len(self.leftovers)}"
        )

    def as_dict(self) -> dict[str, Any]:
        """The whole report as plain JSON values."""
        return {
            name: [entry.as_dict() for entry in getattr(self, name)]
            for name in ("hits", "misses", "drift", "leftovers")
        }
