"""``/sessions/{a}/compare/{b}``: two sessions, aligned by the inputs of their calls."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

from starlette.responses import Response

from ...models.sessions import Session
from ...replay.boundary_recordings import boundary_recordings
from ...replay.sources import MOST_ANCESTORS, recordings_of_fork
from ..api import GONE, ApiError
from ..views.comparison import ComparedSession, Comparison, compare_sessions
from ..views.texts import count
from .visit import PageError, Visit, page


@page("/sessions/{a}/compare/{b}")
async def compare(visit: Visit) -> Response:
    """Show what differs between two sessions."""
    loaded = [await _load_side(visit, visit.path[name]) for name in ("a", "b")]
    exchanges = [await visit.api.exchange(visit.path[name]) for name in ("a", "b")]

    def compared() -> Comparison:
        a, b = (
            ComparedSession(
                sessions[0].session_id,
                recordings_of_fork(sessions),
                exchange,
                boundary_recordings(sessions[0].boundaries),
            )
            for sessions, exchange in zip(loaded, exchanges, strict=True)
        )
        return compare_sessions(a, b)

    # Large sessions take a while.
    return visit.render("compare.html", found=await asyncio.to_thread(compared))


@page("/sessions/{a}/compare")
async def choose(visit: Visit) -> Response:
    """Lead to the comparison of the two sessions that a form names, ``with`` or twice ``s``."""
    chosen = [each.strip() for each in visit.request.query_params.getlist("s") if each.strip()]
    if "with" in visit.query:
        chosen = [visit.path["a"], visit.query["with"].strip()]
    if len(chosen) != 2:
        raise PageError(400, "Choose two sessions to compare.")
    # The list shows the newest first, and readers expect what was before on the left.
    a, b = chosen if "with" in visit.query else reversed(chosen)
    return visit.to(f"/sessions/{quote(a, safe='')}/compare/{quote(b, safe='')}")


async def _load_side(visit: Visit, session_id: str) -> list[Session]:
    try:
        return await load_session(visit, session_id)
    except ApiError as error:
        if error.status not in GONE:
            raise
        message = f"Nothing can be compared with session {session_id}: {error.message}"
        raise PageError(error.status, message) from error


async def load_session(visit: Visit, session_id: str) -> list[Session]:
    """Return a session and, of a fork, the sessions that served its first calls."""
    sessions = [await visit.api.session(session_id)]
    while (parent := sessions[-1].parent) is not None and parent.served:
        if parent.session_id in {each.session_id for each in sessions}:
            raise PageError(409, "The session is a fork of one of its own forks.")
        if len(sessions) > MOST_ANCESTORS:
            raise PageError(409, "The session is too far from the one that it was forked from.")
        try:
            sessions.append(await visit.api.session(parent.session_id))
        except ApiError as error:
            if error.status not in GONE:
                raise
            fork = sessions[-1].session_id
            served = count(len(parent.served), "call")
            message = (
                f"Session {fork} is a fork of session {parent.session_id}, which is gone: it was deleted, "
                f"or it is past its retention. What it served, {served}, is gone with it. The page of "
                f"session {fork} still shows the calls that ran live."
            )
            raise PageError(error.status, message) from error
    return sessions
