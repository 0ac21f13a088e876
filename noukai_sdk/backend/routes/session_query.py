"""The list of sessions: parse the query, return a page."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone
from typing import Any

from fastapi import APIRouter, Request, Response

from ..encoding import iso
from ..errors import RequestError
from ..store.session_pages import ListedSession, SessionQuery
from .incoming import access_of, check_session_id, service_of
from .queries import (
    choice_of,
    cursor_of,
    encode_cursor,
    flow_of,
    invalid_query,
    limit_of,
    refuse_null_characters,
    unknown_cursor,
)
from .responses import json_response

router = APIRouter()

# SQLite rejects longer patterns, and a longer text is not one that someone looks for.
_MAX_TEXT = 1000

_STATUSES = ("completed", "failed", "running")
_REPLAYS = ("clean", "differs", "failed", "running", "any", "never")
_CURSOR = re.compile(r"([0-9]{1,18})\.(.+)\Z", re.DOTALL)
_DURATION = re.compile(r"([0-9]{1,6})([smhdw])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@router.get("/seq/sessions")
async def list_sessions(request: Request) -> Response:
    """Return one page of the sessions that the key may read, newest first."""
    access, service = access_of(request), service_of(request)
    given = request.query_params
    refuse_null_characters(request)
    limit = limit_of(request)
    query = SessionQuery(
        org=access.org,
        limit=limit,
        after=_position(cursor_of(request)),
        since=_since(given.get("since"), service.clock.now()),
        expiry=service.expiry(),
        flow=flow_of(request),
        status=choice_of(request, "status", _STATUSES),
        parent=_parent(given.get("parent")),
        replay=choice_of(request, "replay", _REPLAYS),
        error=_text("error", given.get("error")),
        text=_text("q", given.get("q")),
    )
    sessions = await service.store.session_page(query)
    page, rest = sessions[:limit], sessions[limit:]
    body = {
        "sessions": [_summary(session) for session in page],
        "nextCursor": _cursor(page[-1]) if rest else None,
    }
    return json_response(body)


def _parent(text: str | None) -> str | None:
    return None if text is None else check_session_id(text)


def _text(name: str, text: str | None) -> str | None:
    if text is not None and len(text) > _MAX_TEXT:
        raise invalid_query(name, f"must not be longer than {_MAX_TEXT} characters")
    return text or None


def _since(text: str | None, now: int) -> int:
    """Return the time that ``since`` stands for, in microseconds since 1970."""
    if text is None:
        return 0
    duration = _DURATION.match(text)
    if duration is not None:
        length = timedelta(**{_UNITS[duration[2]]: int(duration[1])})
        return max(now - length // timedelta(microseconds=1), 0)
    # In a query, a plus sign that is not escaped stands for a space.
    text = re.sub(r"(T.*) ([0-9:]{4,5})\Z", r"\1+\2", text)
    # Python 3.10 reads no Z.
    text = re.sub(r"[Zz]\Z", "+00:00", text)
    try:
        time = datetime.fromisoformat(text)
        time = time if time.tzinfo is not None else time.replace(tzinfo=timezone.utc)
        return max((time - _EPOCH) // timedelta(microseconds=1), 0)
    except (ValueError, OverflowError) as error:
        message = (
            "must be an ISO 8601 time, such as 2026-11-20T09:00:00Z, or a duration, such as 7d, 12h "
            f"or 30m, not {text[:50]!r}"
        )
        raise invalid_query("since", message) from error


def _cursor(session: ListedSession) -> str:
    return encode_cursor(f"{session.started_at}.{session.session_id}")


def _position(text: str | None) -> tuple[int, str] | None:
    """Return the start and the id of the session that a cursor stands for."""
    if text is None:
        return None
    match = _CURSOR.match(text)
    if match is None:
        raise unknown_cursor()
    try:
        return int(match[1]), check_session_id(match[2])
    except RequestError as error:
        raise unknown_cursor() from error


def _summary(session: ListedSession) -> dict[str, Any]:
    exchange = session.exchange
    return {
        "sessionId": session.session_id,
        "startedAt": iso(session.started_at),
        "completedAt": iso(session.completed_at),
        "calls": session.calls,
        "flows": session.flows,
        "status": session.status,
        "tokens": session.tokens,
        "costUsd": None if session.cost is None else f"{session.cost:f}",
        "request": None if exchange is None else exchange["request_line"],
        "responseStatus": None if exchange is None else exchange["response_status"],
        "parent": next((r["parent_id"] for r in session.outcomes if r["parent_id"]), None),
        "pinned": session.is_pinned,
        "replays": len(session.replays),
        "lastVerdict": session.last_verdict,
    }
