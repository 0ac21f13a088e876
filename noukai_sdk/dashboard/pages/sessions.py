"""``/``: the list of sessions, and what can be done to one of them."""

from __future__ import annotations

from starlette.responses import Response

from ..api import ApiError
from ..rendering import render
from ..views.session_rows import SessionList, first_call
from .live import Look, stream_changes
from .visit import Visit, action, page

_PAGE_SIZE = 50


@page("/")
async def sessions(visit: Visit) -> Response:
    """Show the newest sessions, or those that the filters in the URL choose."""
    listed = await _read(visit)
    return visit.render("sessions.html", list=listed, curl=await _first_call(visit, listed))


@page("/sessions")
@page("/replays")
async def shortened(visit: Visit) -> Response:
    """Lead who has cut the id off an address to the list."""
    return visit.to("/")


@page("/live/sessions")
async def live_sessions(visit: Visit) -> Response:
    """Send the first page of the list whenever it has changed."""

    async def look() -> Look:
        listed = await _read(visit)
        curl = await _first_call(visit, listed)
        return Look(
            listed.version,
            lambda: render("session_list.html", visit=visit, list=listed, curl=curl),
        )

    return stream_changes(visit, look)


@action("/sessions/{session_id}/pin")
async def pin(visit: Visit) -> Response:
    """Keep a session beyond the retention, or do so no longer."""
    await visit.api.pin(visit.path["session_id"], visit.form.get("pinned") == "yes")
    return visit.back()


@action("/sessions/{session_id}/delete")
async def delete(visit: Visit) -> Response:
    """Delete a session."""
    try:
        await visit.api.delete_session(visit.path["session_id"])
    except ApiError as error:
        # Somebody else was faster.
        if error.status != 404:
            raise
    return visit.back()


async def _read(visit: Visit) -> SessionList:
    listed = SessionList(visit.query)
    try:
        listed.show(await visit.api.sessions({**listed.api_query, "limit": _PAGE_SIZE}))
    except ApiError as error:
        if error.code != "INVALID_REQUEST":
            raise
        listed.problem = error.message
    return listed


async def _first_call(visit: Visit, listed: SessionList) -> str:
    """Return a command that makes the first session; empty if there are sessions."""
    if listed.rows or listed.filters or not listed.is_first:
        return ""
    flows = (await visit.api.flows(limit=1)).flows
    address = flows[0].address if flows else "acme/samples/hello-world"
    # A key of a visitor is never shown: the shell has it, too.
    key = visit.site.options.open_key or "$NOUKAI_API_KEY"
    return first_call(visit.base_url, address, "$NOUKAI_API_KEY" if visit.is_logged_in else key)
