"""The stylesheet and the scripts. They hold no data: everybody may read them."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ..rendering import STATIC
from ..security import HEADERS
from .visit import ROUTES

# Pages name each file with the hash of its content, so that a browser keeps it.
_FOREVER = "public, max-age=31536000, immutable"
_DAY = "public, max-age=86400"


async def static_file(request: Request) -> Response:
    """Return a file."""
    file = STATIC.get(request.path_params["name"])
    if file is None:
        return Response("There is no such file.", 404, HEADERS, "text/plain")
    is_current = request.query_params.get("v") == file.version
    headers = {**HEADERS, "Cache-Control": _FOREVER if is_current else "no-cache"}
    return Response(file.content, 200, headers, file.media_type)


async def icon(_request: Request) -> Response:
    """Return the icon, which browsers ask for if what they show names none, such as a text."""
    file = STATIC["icon.svg"]
    return Response(file.content, 200, {**HEADERS, "Cache-Control": _DAY}, file.media_type)


ROUTES.append(Route("/static/{name}", static_file, methods=["GET"]))
ROUTES.append(Route("/favicon.ico", icon, methods=["GET"]))
