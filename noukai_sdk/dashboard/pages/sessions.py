"""``/``: the list of sessions."""

from __future__ import annotations

from starlette.responses import Response

from ..views.session_rows import SessionList
from .visit import Visit, page

_PAGE_SIZE = 50


@page("/")
async def sessions(visit: Visit) -> Response:
    """Show the newest sessions, or those that the filters in the URL choose."""
    shown = await _read(visit)
    return visit.render("sessions.html", list=shown)


async def _read(visit: Visit) -> SessionList:
    listed = SessionList(visit.query)
    listed.show(await visit.api.sessions({**listed.api_query, "limit": _PAGE_SIZE}))
    return listed
