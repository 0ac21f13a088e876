"""The list of sessions: filters, rows, and the links between its pages."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from ...models.session_lists import SessionPage, SessionSummary
from .times import milliseconds_between
from .versions import version_of

FILTERS = ("q", "flow", "status", "since", "replay", "error")
STATUSES = (("", "All"), ("failed", "Failed"), ("running", "Running"), ("completed", "Completed"))
REPLAYS = (
    ("", "any or none"),
    ("clean", "equal"),
    ("differs", "with differences"),
    ("failed", "failed"),
    ("running", "running"),
    ("any", "any"),
    ("never", "none"),
)
TIMES = (
    ("", "any time"),
    ("15m", "15 minutes"),
    ("1h", "hour"),
    ("24h", "day"),
    ("7d", "7 days"),
    ("30d", "30 days"),
)
# What the verdict of a replay means, in a word.
VERDICTS = {"clean": "equal", "differs": "differs", "failed": "failed", "running": "running"}


@dataclass(frozen=True)
class SessionRow:
    """One session."""

    session: SessionSummary
    url: str

    @property
    def title(self) -> str:
        """Return what names the session best: its request, else its flows."""
        return self.session.request or ", ".join(self.session.flows) or "no calls"

    @property
    def flows(self) -> str:
        """Return the flows, if the title does not have them."""
        return ", ".join(self.session.flows) if self.session.request else ""

    @property
    def milliseconds(self) -> float | None:
        """Return the time from the first start of a run to the last end."""
        return milliseconds_between(self.session.started_at, self.session.completed_at)

    @property
    def verdict(self) -> str:
        """Return the verdict of the last replay, in a word."""
        return VERDICTS.get(self.session.last_verdict or "", "")


class SessionList:
    """A page of the list.

    Args:
        query: The query of the URL.

    Attributes:
        problem: What is wrong with the filters, for the visitor; empty if nothing is.
        version: Another text if the page has changed.
    """

    def __init__(self, query: Mapping[str, str]) -> None:
        self.filters = {name: query[name] for name in FILTERS if name in query}
        self.cursor = query.get("cursor")
        self.rows: list[SessionRow] = []
        self.older_url: str | None = None
        self.problem = ""
        self.version = ""

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
        return _url(self.filters)

    @property
    def url(self) -> str:
        """Return the URL of this page."""
        cursor = {} if self.cursor is None else {"cursor": self.cursor}
        return _url({**self.filters, **cursor})

    @property
    def live_url(self) -> str:
        """Return the URL of the changes of this page."""
        return f"/live/sessions?{urlencode({**self.filters, 'seen': self.version})}"

    @property
    def statuses(self) -> list[tuple[str, str, bool]]:
        """Return a link for each status: URL, name, and whether it is chosen."""
        others = {name: value for name, value in self.filters.items() if name != "status"}
        return [
            (
                _url({**others, "status": value} if value else others),
                name,
                self.filters.get("status", "") == value,
            )
            for value, name in STATUSES
        ]

    def options(self, name: str) -> list[tuple[str, str, bool]]:
        """Return the choices of a filter: value, name, and whether it is chosen."""
        choices = {"replay": REPLAYS, "since": TIMES}[name]
        chosen = self.filters.get(name, "")
        given = [] if chosen in dict(choices) else [(chosen, chosen, True)]
        return [*((value, text, value == chosen) for value, text in choices), *given]

    @property
    def flow_names(self) -> list[str]:
        """Return the flows of the sessions on this page."""
        return sorted({flow for row in self.rows for flow in row.session.flows})

    def show(self, page: SessionPage) -> None:
        """Fill the page."""
        back = quote(self.url, safe="")
        self.rows = [
            SessionRow(each, f"/sessions/{quote(each.session_id, safe='')}?from={back}")
            for each in page.sessions
        ]
        if page.next_cursor is not None:
            self.older_url = _url({**self.filters, "cursor": page.next_cursor})
        self.version = version_of(page)


def first_call(base_url: str, flow: str, key: str) -> str:
    r"""Return a command for a shell that runs a flow in a session.

    Example:
        >>> print(first_call("http://127.0.0.1:8080/api/v1", "acme/samples/hello-world", "nk_dev"))
        curl -s http://127.0.0.1:8080/api/v1/seq/acme/samples/hello-world/execute \
          -H "Authorization: Bearer nk_dev" -H 'X-Session-Id: my-first-session' \
          -H 'Content-Type: application/json' -d '{"message": "Hello"}'
    """
    body = json.dumps({"message": "Hello"})
    return (
        f"curl -s {shlex.quote(f'{base_url}/seq/{flow}/execute')} \\\n"
        f"  -H \"Authorization: Bearer {key}\" -H 'X-Session-Id: my-first-session' \\\n"
        f"  -H 'Content-Type: application/json' -d {shlex.quote(body)}"
    )


def _url(query: Mapping[str, str]) -> str:
    return f"/?{urlencode(query)}" if query else "/"
