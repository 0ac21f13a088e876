"""The list of flows, with what is wrong with their files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from ...models.flow_lists import FlowPage, FlowProblem, FlowSummary
from .texts import count
from .versions import version_of

MOST_PROBLEMS = 50
"""Problems that are shown above the list."""


@dataclass(frozen=True)
class ShownProblem:
    """What is wrong with a file. ``place`` is the file, and the line if it is known."""

    place: str
    field: str | None
    message: str

    @classmethod
    def of(cls, problem: FlowProblem) -> ShownProblem:
        """Return a problem as a page shows it."""
        place = problem.file if problem.line is None else f"{problem.file}:{problem.line}"
        return cls(place, problem.field, problem.message)


@dataclass(frozen=True)
class FlowRow:
    """One flow of the list. ``tone`` is the class of the status ``state``."""

    url: str
    address: str
    description: str
    steps: str
    versions: str
    state: str
    tone: str


class FlowList:
    """A page of the list of flows, as the filters in the URL choose.

    Args:
        query: ``q``, ``problems`` and ``cursor``.
        page: The flows.
        with_problems: Flows with problems, on whatever page they are.

    Attributes:
        version: Another text if something has changed that is shown.
        live_url: Streams the list whenever it is not as it was at ``version``.
    """

    def __init__(self, query: Mapping[str, str], page: FlowPage, with_problems: FlowPage) -> None:
        self._query = {name: query[name] for name in ("q", "problems", "cursor") if name in query}
        self.rows = [_row(flow) for flow in page.flows]
        problems = [ShownProblem.of(p) for flow in with_problems.flows for p in flow.problems]
        self.problems: Sequence[ShownProblem] = problems[:MOST_PROBLEMS]
        self.more_problems = len(problems) > MOST_PROBLEMS or with_problems.next_cursor is not None
        self.next_url = page.next_cursor and self._url(cursor=page.next_cursor)
        self.is_filtered = bool(self._query.keys() & {"q", "problems"})
        self.is_later = "cursor" in self._query
        self.first_url = self._url(cursor="")
        self.version = version_of(page, with_problems)
        self.live_url = self._url("/live/flows", seen=self.version)

    def _url(self, path: str = "/flows", **changes: str) -> str:
        query = {name: value for name, value in {**self._query, **changes}.items() if value}
        return f"{path}?{urlencode(query)}" if query else path


def _row(flow: FlowSummary) -> FlowRow:
    state, tone = "valid", "completed"
    if flow.problems:
        state, tone = count(len(flow.problems), "problem"), "failed"
    elif flow.flow_id is None:
        state, tone = "none", ""
    last = flow.versions[-1].version if flow.versions else None
    return FlowRow(
        url=f"/flows/{flow.address}",
        address=flow.address,
        description=flow.description or "",
        steps="" if flow.block_count is None else count(flow.block_count, "step"),
        versions="" if last is None else f"{count(len(flow.versions), 'version')}, last {last}",
        state=state,
        tone=tone,
    )
