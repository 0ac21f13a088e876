"""The pages. Each module registers its own with ``@page`` and ``@action`` when it is imported."""

from __future__ import annotations

import httpx
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp

from ...replaying.targets import AllowedTargets, Origin
from ..in_process import InProcessTransport
from ..options import DashboardOptions, LiveStreams
from ..rendering import render
from ..replay_runs import ReplayRuns
from ..security import HEADERS
from . import (  # noqa: F401  # they register their routes
    compare,
    context,
    flows,
    jobs,
    login,
    replays,
    runs,
    session_downloads,
    session_page,
    sessions,
    static_files,
    whatifs,
)
from .visit import ROUTES, Site


def create_site(api: ASGIApp, options: DashboardOptions, streams: LiveStreams) -> ASGIApp:
    """Return the ASGI app of all pages."""
    client = httpx.AsyncClient(
        transport=InProcessTransport(api),
        base_url=f"http://dashboard{options.api_path}/",
        trust_env=False,
    )
    site = Starlette(
        routes=ROUTES, exception_handlers={HTTPException: _no_page, Exception: _failed}
    )
    origins = [Origin.parse(url) for url in options.replay_to]
    targets = AllowedTargets(origins, loopback=options.replay_to_loopback)
    site.state.site = Site(client, options, streams, targets, ReplayRuns(streams.closing))
    return site


async def _failed(_request: Request, _error: Exception) -> Response:
    # The server logs the error.
    message = "This page failed. The log of the service says why."
    text = render("error.html", visit=None, message=message, code="")
    return HTMLResponse(text, 500, HEADERS)


async def _no_page(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException), "it handles no other"
    message = "There is no such page." if error.status_code == 404 else f"{error.detail}."
    text = render("error.html", visit=None, message=message, code="")
    return HTMLResponse(text, error.status_code, {**HEADERS, **(error.headers or {})})
