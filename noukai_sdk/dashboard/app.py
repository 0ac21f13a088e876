"""The ASGI app that serves the pages beside the API."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .options import DashboardOptions, LiveStreams

if TYPE_CHECKING:
    # The commands import this module before they check if starlette is installed.
    from starlette.types import ASGIApp, Receive, Scope, Send

# The first part of the paths of the API, and of pages. Other paths are the API's as well, but a browser
# that asks for one gets a page that says so.
_API = frozenset(("api", "healthz", "readyz", "metrics"))
_PAGES = frozenset(
    (
        *("", "sessions", "flows", "jobs", "workers", "replays", "whatifs", "live"),
        *("login", "logout", "static", "favicon.ico"),
    )
)


class Dashboard:
    """ASGI app: serve the pages, and pass all other requests to the API.

    Nothing of the pages is imported before the first request to one.

    Args:
        app: Responds to the requests of clients: the API, perhaps with a log of requests around it.
        options: What the pages know of the service.
        api: What the pages ask; by default ``app``.
    """

    def __init__(
        self, app: ASGIApp, options: DashboardOptions | None = None, *, api: ASGIApp | None = None
    ) -> None:
        self._app = app
        self._api = api or app
        self._options = options or DashboardOptions()
        self._streams = LiveStreams()
        self._site: ASGIApp | None = None
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or not _is_for_pages(scope):
            await self._app(scope, receive, send)
            return
        async with self._lock:
            if self._site is None:
                # It takes a quarter of a second, in which calls must not wait.
                self._site = await asyncio.to_thread(self._create_site)
        await self._site(scope, receive, send)

    def _create_site(self) -> ASGIApp:
        from .pages import create_site

        return create_site(self._api, self._options, self._streams)

    def close(self) -> None:
        """End the streams of live pages, and those of later requests. Call it on the event loop."""
        self._streams.closing.set()


def _is_for_pages(scope: Scope) -> bool:
    first = scope["path"].partition("/")[2].partition("/")[0]
    if first in _PAGES or first in _API:
        return first in _PAGES
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])
