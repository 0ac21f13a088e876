"""What the doctor found: lines of the user's code, their kind, what they change, and the fix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .run_comparison import Change
from .source_lines import short_path

KINDS = (
    "time",
    "uuid",
    "random",
    "order of a set",
    "order of completion",
    "environment",
    "unexplained",
)
# What is changed, and what kind of finding that makes.
KIND_OF = {
    "time": "time",
    "uuid": "uuid",
    "random": "random",
    "set": "order of a set",
    "made set": "order of a set",
    "completion": "order of completion",
    "environment": "environment",
    "zone": "environment",
    "loop": "time",
}
_MOST_CHANGES = 3


@dataclass
class Finding:
    """One line of the user's code that makes runs differ.

    Attributes:
        kind: One of :data:`KINDS`.
        file, line: Where it is; None if the doctor knows only what differs.
        source: The text of the line.
        expression: What is read there, such as ``datetime.now()``.
        fix: What to write instead, in one line.
        changes: What differs because of it.
        reads: How often it was read in one run.
        at_start: It was read when the app was imported or started, not in the request.
    """

    kind: str
    file: str | None
    line: int | None
    source: str
    expression: str
    fix: str
    changes: list[Change] = field(default_factory=list)
    reads: int = 0
    at_start: bool = False

    @property
    def place(self) -> str:
        """File and line, as a reader in this folder would write them."""
        return "?" if self.file is None else f"{short_path(self.file)}:{self.line}"

    @property
    def _is_secret(self) -> bool:
        """Whether values may be what others must not see: those of variables."""
        return self.kind == "environment"

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "kind": self.kind,
            "file": None if self.file is None else short_path(self.file),
            "line": self.line,
            "source": self.source,
            "expression": self.expression,
            "fix": self.fix,
            "reads": self.reads,
            "atStart": self.at_start,
            "changes": [change.as_dict(values=not self._is_secret) for change in self.changes],
        }

    def lines(self) -> list[str]:
        """Return the finding as lines of text: its place and kind, the source, the changes, the fix."""
        when = " (read at the start of the app)" if self.at_start else ""
        often = f", {self.reads} times" if self.reads > 1 else ""
        lines = [f"{self.place}  {self.kind}  {self.expression}{often}{when}"]
        if self.source:
            lines.append(f"    {self.source}")
        for change in self.changes[:_MOST_CHANGES]:
            lines.append(f"  changes {change.where}")
            if not self._is_secret:
                lines += [f"    - {change.before}", f"    + {change.after}"]
        more = len(self.changes) - _MOST_CHANGES
        if more > 0:
            lines.append(f"  and {more} more")
        return [*lines, f"  fix: {self.fix}"]


@dataclass
class Diagnosis:
    """The result of an examination.

    Attributes:
        findings: By file and line.
        runs: How many runs there were.
        tried: What was changed, and how many runs that took.
        notes: What else to know, such as runs that failed.
        problem: Why the request could not be examined, None if it was.
    """

    findings: list[Finding] = field(default_factory=list)
    runs: int = 0
    tried: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    problem: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return the diagnosis as JSON values."""
        return {
            "findings": [finding.as_dict() for finding in self.findings],
            "runs": self.runs,
            "tried": self.tried,
            "notes": self.notes,
            "problem": self.problem,
        }

    @property
    def headline(self) -> str:
        """The result in one line."""
        tried = ", ".join(self.tried) or "nothing that could change"
        if self.problem is not None:
            return f"not examined: {self.problem}"
        if not self.findings:
            return f"nothing found in {self.runs} runs (changed: {tried})"
        number = len(self.findings)
        lines = "1 line makes" if number == 1 else f"{number} lines make"
        return f"{lines} replays differ ({self.runs} runs; changed: {tried})"


def by_place(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings sorted by file and line, those without a place last."""
    return sorted(
        findings,
        key=lambda each: (each.file is None, each.file or "", each.line or 0, each.kind),
    )
