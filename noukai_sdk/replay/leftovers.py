"""Recordings that no call has played, as a finding and as an error."""

from __future__ import annotations

from ..errors import ReplayLeftoverError
from ..models.reports import Finding, ReplayReport, ReportEntry, printable

OF_OTHER_CLIENT = "a call of another client (another API key)"


def of_other_clients(count: int) -> Finding:
    """Return the finding that calls of clients with other API keys were not made."""
    what = "1 call of another client" if count == 1 else f"{count} calls of other clients"
    verb, none = ("was", "it was not made") if count == 1 else ("were", "none of them was made")
    text = f"{what} (another API key) {verb} recorded in this session, and {none} in the replay"
    return Finding("removed", text, None, None)


def _name(entry: ReportEntry) -> str:
    slug = "(another client)" if entry.detail == OF_OTHER_CLIENT else entry.slug
    return f"{printable(slug or '(deleted flow)', 80)} #{entry.position + 1}"


def leftover_error(report: ReplayReport) -> ReplayLeftoverError:
    """Return the error of a replay that ended with unplayed recordings."""
    left = [(entry.slug, entry.position) for entry in report.leftovers]
    names = ", ".join(map(_name, report.leftovers[:10]))
    more = f" and {len(left) - 10} more" if len(left) > 10 else ""
    count = "1 recording" if len(left) == 1 else f"{len(left)} recordings"
    explanation = f" {report.explanation}." if report.findings else ""
    if any(entry.detail != OF_OTHER_CLIENT for entry in report.leftovers):
        explanation = explanation and f" By their inputs:{explanation}"
    undecorated = ""
    if any(entry.kind == "recorded" for entry in report.leftovers):
        undecorated = ", or a function is no longer decorated with @noukai_sdk.recorded"
    return ReplayLeftoverError(
        f"the replay ended with {count} unplayed: {names}{more}. "
        f"The code makes fewer calls than when it was recorded{undecorated}.{explanation}",
        leftovers=left,
        report=report,
    )
