"""The list of sessions: filters, rows, and the links between its pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ...models.session_lists import SessionPage, SessionSummary
from .times import milliseconds_between

FILTERS = ("q", "flow", "status", "since")


@dataclass(frozen=True)
class SessionRow:
    """One session."""

    session: SessionSummary
    url: str

    @property
    def title(self) -> str:
        """Return what names the session best: its request, else its flows."""
        return self.session.request or ", ".join(self.session.flows) or "a session without calls"

    @property
    def flows(self) -> str:
        """Return the flows, if the title has none."""
        return ", ".join(self.session.flows) if self.session.request else ""

    @property
    def milliseconds(self) -> float | None:
        """Return the time from the first start of a run to the last end."""
        return milliseconds_between(self.session.started_at, self.session.completed_at)


class SessionList:
    """A page of the list.

    Args:
        query: The query of the URL.
    """

    def __init__(self, query: Mapping[str, str]) -> None:
        self.filters = {name: query[name] for name in FILTERS if name in query}
        self.cursor = query.get("cursor")
        self.rows: list[SessionRow] = []
        self.older_url: str | None = None

    @property
    def api_query(self) -> dict[str, Any]:
        """Return the query for the API."""
        return {**self.filters, "cursor": self.cursor}

    @property
    def is_first(self) -> bool:
        """Return whether this is the first page, which changes as sessions come."""
        return self.cursor is None

    @property
    def newest_url(self) -> str:
        """Return the URL of the first page, with the same filters."""
        return self._url(self.filters)

    @property
    def url(self) -> str:
        """Return the URL of this page."""
        cursor = {} if self.cursor is None else {"cursor": self.cursor}
        return self._url({**self.filters, **cursor})

    def show(self, page: SessionPage) -> None:
        """Fill the page."""
        back = quote(self.url, safe="")
        self.rows = [
            SessionRow(each, f"/sessions/{quote(each.session_id, safe='')}?from={back}")
            for each in page.sessions
        ]
        if page.next_cursor is not None:
            self.older_url = self._url({**self.filters, "cursor": page.next_cursor})

    @staticmethod
    def _url(query: Mapping[str, str]) -> str:
        return f"/?{urlencode(query)}" if query else "/"
