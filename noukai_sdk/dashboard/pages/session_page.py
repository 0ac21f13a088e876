"""``/sessions/{id}``: a session, its calls, and what has changed while it is in progress."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from starlette.responses import PlainTextResponse, Response

from ...errors import CapturedRequestError
from ...models.exchanges import Exchange
from ...models.session_lists import CallSummary
from ...models.sessions import Session
from ...replay.sources import recordings_of
from ...replaying.app_request import RequestEdits, build_request, replay_header
from ...replaying.curl import curl_line
from ..api import GONE, ApiError
from ..views.boundary_rows import BoundaryRow, BoundaryView, boundary_view
from ..views.call_view import CallView, call_view
from ..views.calls import CallRow, rows_of_summaries
from ..views.recorded_values import MOST_CHARACTERS
from ..views.session_view import SessionView, pages_of, service_session
from .live import LARGEST_SHARE
from .replays import replay_history
from .visit import PageError, Visit, page

# In Chromium on a busy machine, 4,000 lines take 4 s, 500 take 0.9 s and these 0.5 s.
PAGE_SIZE = 200
_STATES = ("failed", "running")
# Milliseconds between two looks at a session in progress, at most.
_LONGEST_LOOK = 5000
_PATH = "/sessions/{session_id}"
_LOCAL = re.compile(r"https?://(localhost|127\.0\.0\.1|\[::1\])(:[0-9]{1,5})?\Z")


class SessionLinks:
    """The URLs of a session's page.

    Args:
        session_id: The session.
        back: The page that the visitor came from, with its filters.
        execution_id: A call: texts are of it, not of the session's request.
        boundary: A call of a recorded function, by its place: texts are of it.
    """

    def __init__(
        self,
        session_id: str,
        back: str = "/",
        execution_id: str | None = None,
        boundary: int | None = None,
    ) -> None:
        self.base = f"/sessions/{quote(session_id, safe='')}"
        self._back = {"from": back} if back != "/" else {}
        self._of = self.base if execution_id is None else self._call(execution_id)
        if boundary is not None:
            self._of = f"{self.base}/recorded/{boundary}"

    def call(self, row: CallRow) -> str:
        """Return the page of a call."""
        number = "" if row.number is None else f"?number={row.number}"
        return f"{self._call(row.execution_id or '')}{number}"

    def recorded(self, row: BoundaryRow) -> str:
        """Return the page of a call of a recorded function."""
        return f"{self.base}/recorded/{row.index}"

    def text(self, part: str) -> str:
        """Return the URL of a whole text."""
        return f"{self._of}/text?{urlencode({'part': part})}"

    def page(self, offset: int, status: str, recorded: str = "") -> str:
        """Return the page with these calls; ``recorded`` is ``show`` for all recorded functions."""
        query = {
            "offset": str(offset) if offset else "",
            "status": status,
            "recorded": recorded,
            **self._back,
        }
        given = {name: value for name, value in query.items() if value}
        return f"{self.base}?{urlencode(given)}" if given else self.base

    def _call(self, execution_id: str) -> str:
        return f"{self.base}/calls/{quote(execution_id, safe='')}"


@page(_PATH)
async def session(visit: Visit) -> Response:
    """Show a session and a page of its calls."""
    session_id, offset, status = visit.path["session_id"], _offset(visit), _status(visit)
    started_at = time.monotonic()
    view = await _read(visit, offset, status)
    elapsed = time.monotonic() - started_at
    curl = curl_of(session_id, view.captured)
    if view.parent is not None:
        view.has_parent = await _exists(visit, view.parent.session_id)
    shown = view.counts.get(status, 0) if status else view.total
    return visit.render(
        "session.html",
        view=view,
        links=SessionLinks(session_id, visit.sessions_url),
        history=await replay_history(visit, session_id, view.replays),
        can_replay=bool(curl),
        states=[(name, name) for name in _STATES if view.counts.get(name) or name == status],
        chosen=status,
        offset=offset,
        is_change=False,
        pages=pages_of(shown, PAGE_SIZE, offset),
        curl=curl,
        most=MOST_CHARACTERS,
        **_live(visit, view, offset, status, elapsed),
    )


@page(f"{_PATH}/changes")
async def changes(visit: Visit) -> Response:
    """Return the lines that differ from those that the browser has; 204 if there are none."""
    offset, started_at = _offset(visit), time.monotonic()
    try:
        view = await _read(visit, offset, "")
    except ApiError as error:
        if error.status not in GONE:
            raise
        return visit.render("session_gone.html")
    live = _live(visit, view, offset, "", time.monotonic() - started_at)
    if visit.query.get("mark") == live["mark"] and view.is_live:
        return Response(status_code=204)
    return visit.render(
        "session_changes.html",
        view=view,
        links=SessionLinks(visit.path["session_id"]),
        known=_number(visit, "known"),
        placed=_placed(view, _number(visit, "functions")),
        is_change=view.recorded.total != _number(visit, "functions"),
        offset=offset,
        has_exchange=visit.query.get("exchange") == "1",
        **live,
    )


@page(f"{_PATH}/calls/{{execution_id}}")
async def call(visit: Visit) -> Response:
    """Show a call: as a part of the session's page, or as a page of its own."""
    session_id, execution_id = visit.path["session_id"], visit.path["execution_id"]
    found = await visit.api.call(session_id, execution_id)
    row, shown = _call(found)
    row.number = _number(visit, "number") or None
    return visit.render(
        "call_fragment.html" if visit.is_fragment else "call.html",
        call=shown,
        row=row,
        session_id=session_id,
        links=SessionLinks(session_id, execution_id=execution_id),
        look=_look(visit),
    )


@page(f"{_PATH}/calls/{{execution_id}}/text")
async def text_of_call(visit: Visit) -> Response:
    """Return a whole text of a call, which its page has cut."""
    found = await visit.api.call(visit.path["session_id"], visit.path["execution_id"])
    return _text(_call(found)[1].parts.whole(visit.query.get("part", "")))


@page(f"{_PATH}/recorded/{{index}}")
async def recorded(visit: Visit) -> Response:
    """Show a call of a recorded function: as a part of the session's page, or as a page of its own."""
    session_id = visit.path["session_id"]
    shown = await _boundary(visit)
    return visit.render(
        "recorded_fragment.html" if visit.is_fragment else "recorded.html",
        shown=shown,
        session_id=session_id,
        links=SessionLinks(session_id, boundary=shown.row.index),
    )


@page(f"{_PATH}/recorded/{{index}}/text")
async def text_of_recorded(visit: Visit) -> Response:
    """Return a whole value of a recorded function, which its page has cut."""
    return _text((await _boundary(visit)).parts.whole(visit.query.get("part", "")))


@page(f"{_PATH}/text")
async def text_of_exchange(visit: Visit) -> Response:
    """Return a whole body of the session's request or response."""
    view = await _read(visit, 0, "")
    part = visit.query.get("part", "")
    return _text(None if view.exchange is None else view.exchange.parts.whole(part))


@page(f"{_PATH}/curl")
async def curl_command(visit: Visit) -> Response:
    """Return the curl command of a session, which its page does not show if it is long."""
    session_id = visit.path["session_id"]
    curl = curl_of(session_id, await visit.api.exchange(session_id))
    if not curl:
        raise PageError(404, "No request of this session was captured that curl can send.")
    return _text(curl)


async def _exists(visit: Visit, session_id: str) -> bool:
    try:
        await visit.api.calls(session_id, {"limit": 1})
    except ApiError as error:
        if error.status not in GONE:
            raise
        return False
    return True


async def _read(visit: Visit, offset: int, status: str) -> SessionView:
    session_id = visit.path["session_id"]
    # One more, which tells where the next page begins.
    query = {"limit": PAGE_SIZE + 1, "offset": offset, "status": status or None}
    calls = await visit.api.calls(session_id, query)
    exchange = await visit.api.exchange(session_id)
    replays = (await visit.api.replays(session_id)).replays
    return service_session(
        calls,
        exchange,
        replays,
        limit=MOST_CHARACTERS,
        # A filtered list has the calls of flows alone.
        shows_functions=not status,
        most=PAGE_SIZE,
        is_first=offset == 0,
        shows_all=visit.query.get("recorded") == "show",
    )


async def _boundary(visit: Visit) -> BoundaryView:
    index = visit.path["index"]
    boundaries = (await visit.api.calls(visit.path["session_id"], {"limit": 1})).boundaries
    if not (index.isdecimal() and len(index) < 9 and int(index) < len(boundaries)):
        raise PageError(404, "This session has no such call of a recorded function.")
    return boundary_view(boundaries[int(index)], int(index), limit=MOST_CHARACTERS)


def _placed(view: SessionView, known: int) -> list[tuple[str, list[BoundaryRow]]]:
    """Return the new recorded functions in groups, each with its place among the lines of the browser."""
    groups: list[tuple[str, list[BoundaryRow]]] = []
    place = "afterbegin:#calls"
    for row in view.lines:
        if isinstance(row, CallRow):
            place = f"afterend:#item-{row.execution_id}"
        elif row.index >= known:
            if not groups or groups[-1][0] != place:
                groups.append((place, []))
            groups[-1][1].append(row)
    return groups


def _call(session: Session) -> tuple[CallRow, CallView]:
    """Return the only call of a session."""
    (execution,) = session.executions
    steps = execution.get("steps", [])
    (recording,) = recordings_of(session)
    summary = CallSummary(
        execution_id=execution["executionId"],
        org=recording.org,
        project=recording.project,
        slug=recording.slug,
        version=recording.version,
        trigger_type=execution.get("triggerType"),
        status=execution["status"],
    )
    (row,) = rows_of_summaries([summary], (), None).rows
    view = call_view(recording, steps, limit=MOST_CHARACTERS, is_in_progress=row.is_in_progress)
    return row, view


def _live(
    visit: Visit, view: SessionView, offset: int, status: str, elapsed: float
) -> dict[str, Any]:
    """Return what a template needs to look for changes; ``elapsed`` is how long a look takes."""
    rows: Sequence[CallRow] = view.calls.rows
    state = [(row.execution_id, row.status, row.tokens, row.problem) for row in rows]
    seen = (
        state,
        view.counts,
        view.tokens,
        view.exchange is not None,
        len(view.replays),
        view.recorded.total,
    )
    mark = hashlib.sha256(repr(seen).encode("utf-8", "replace")).hexdigest()[:16]
    query: dict[str, Any] = {
        "mark": mark,
        "known": max((row.number or 0 for row in rows), default=offset),
        "offset": offset,
        "exchange": int(view.exchange is not None),
        "functions": view.recorded.total,
    }
    if visit.query.get("recorded") == "show":
        query["recorded"] = "show"
    url = f"{SessionLinks(visit.path['session_id']).base}/changes?{urlencode(query)}"
    look = max(_look(visit), min(_LONGEST_LOOK, round(elapsed / LARGEST_SHARE * 1000)))
    # A filtered list keeps the calls that it was opened with.
    return {"mark": mark, "live_url": "" if status else url, "look": look}


def _look(visit: Visit) -> int:
    return round(visit.site.options.look_seconds * 1000)


def _text(text: str | None) -> Response:
    if text is None:
        raise PageError(404, "There is no such text in this call.")
    # Half of a surrogate pair is no UTF-8.
    return PlainTextResponse(text.encode("utf-8", "replace"))


def _offset(visit: Visit) -> int:
    return _number(visit, "offset")


def _number(visit: Visit, name: str) -> int:
    text = visit.query.get(name, "0")
    return int(text) if text.isdecimal() and len(text) < 9 else 0


def _status(visit: Visit) -> str:
    status = visit.query.get("status", "")
    return status if status in _STATES else ""


def curl_of(session_id: str, exchange: Exchange | None) -> str:
    """Return the command that sends the captured request again as a replay; empty if none can."""
    if exchange is None:
        return ""
    origin = exchange.request.origin
    # A copied command must not call production: only an address of this machine is kept.
    server = origin if _LOCAL.match(origin) else "http://localhost:8000"
    try:
        edits = RequestEdits(server=server)
        return curl_line(build_request(edits, replay_header(session_id), exchange))
    except CapturedRequestError:
        return ""
