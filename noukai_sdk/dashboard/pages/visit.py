"""One visit of a page: the request, the API with the visitor's key, and the response. See the package."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import httpx
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from ...replaying.targets import AllowedTargets
from ..api import Api, ApiError
from ..options import DashboardOptions, LiveStreams
from ..rendering import render
from ..replay_runs import ReplayRuns
from ..security import HEADERS, TOKEN_FIELD, forget_key, key_of, refusal, token_for

ROUTES: list[Route] = []
"""The routes of all pages, in the order in which their modules are imported."""

# More than any form of ours needs.
_LARGEST_FORM = 4 * 1024 * 1024
# Milliseconds until a replay that has just begun is looked at; later, half of its age.
_FIRST_LOOK = 300


@dataclass(frozen=True)
class Site:
    """What all visits share."""

    client: httpx.AsyncClient
    options: DashboardOptions
    streams: LiveStreams
    targets: AllowedTargets
    replays: ReplayRuns


class PageError(Exception):
    """The page cannot be shown. Raise it anywhere below a route; the message is for the visitor."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@dataclass
class Visit:
    """A visit of a page.

    Attributes:
        request: The request.
        api: The API with the visitor's key.
        key: The visitor's key. It must not be rendered.
        form: The fields of the form that was sent; empty for GET.
    """

    request: Request
    api: Api
    key: str | None
    site: Site
    form: Mapping[str, str]

    @property
    def path(self) -> Mapping[str, str]:
        """Return the parameters in the path."""
        return self.request.path_params

    @property
    def query(self) -> Mapping[str, str]:
        """Return the parameters in the query, each once, without empty ones."""
        return {name: value for name, value in self.request.query_params.items() if value}

    @property
    def is_fragment(self) -> bool:
        """Return True if htmx asks, for a part of the page."""
        return "hx-request" in self.request.headers

    @property
    def is_logged_in(self) -> bool:
        """Return whether the visitor has given a key."""
        return self.key not in (None, self.site.options.open_key)

    @property
    def base_url(self) -> str:
        """Return the base URL of the API, as the visitor's machine reaches it."""
        url = self.request.url
        return f"{url.scheme}://{url.netloc}{self.site.options.api_path}"

    @property
    def sessions_url(self) -> str:
        """Return the list of sessions that the visitor has come from, with its filters."""
        url = self.query.get("from", "")
        return url if url.startswith("/?") and url.isprintable() else "/"

    @property
    def from_query(self) -> str:
        """Return the query with which a link, or a form, leads on to a page with the same way back."""
        url = self.sessions_url
        return "" if url == "/" else f"?{urlencode({'from': url})}"

    def looks(self, age: float) -> dict[str, int]:
        """Return in how many milliseconds a page looks at a replay: ``soon`` first, then every ``look``.

        A short replay is shown at once, a long one from time to time.

        Args:
            age: The seconds since it began.
        """
        look = round(self.site.options.look_seconds * 1000)
        return {"look": look, "soon": min(look, max(_FIRST_LOOK, round(age * 500)))}

    @property
    def token(self) -> str:
        """Return the token that each form must send."""
        options = self.site.options
        return token_for(self.key, options.open_key, options.secret)

    def render(self, template: str, status: int = 200, **values: Any) -> Response:
        """Return a page. Templates have ``visit`` besides ``values``."""
        return HTMLResponse(render(template, visit=self, **values), status)

    def back(self, default: str = "/", **changes: str) -> Response:
        """Send the browser to the page that the form names in ``back``, with other query parameters."""
        target = self.form.get("back", "")
        if not is_local(target):
            target = default
        path, _, query = target.partition("?")
        values = {**dict(parse_qsl(query)), **changes}
        return self.to(f"{path}?{urlencode(values)}" if values else path)

    def to(self, url: str) -> Response:
        """Send the browser to a path of this service, with GET."""
        return RedirectResponse(url, 303)


Handler = Callable[[Visit], Awaitable[Response]]


def page(path: str, *, needs_key: bool = True) -> Callable[[Handler], Handler]:
    """Register a page: GET of ``path``. A visitor without a key is asked for one, if it needs one."""

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(path, _endpoint(handler, needs_key), methods=["GET"]))
        return handler

    return register


def action(path: str, *, needs_key: bool = True) -> Callable[[Handler], Handler]:
    """Register an action: POST of a form to ``path``, from one of our pages."""

    def register(handler: Handler) -> Handler:
        ROUTES.append(Route(path, _endpoint(handler, needs_key), methods=["POST"]))
        return handler

    return register


def is_local(url: str) -> bool:
    """Return whether a URL is a path of this service.

    Example:
        >>> is_local("/flows?q=a"), is_local("//evil.example"), is_local("https://evil.example")
        (True, False, False)
    """
    # Browsers read a backslash as a slash, and skip control characters.
    return url.startswith("/") and not url.startswith(("//", "/\\")) and url.isprintable()


def _endpoint(handler: Handler, needs_key: bool) -> Callable[[Request], Awaitable[Response]]:
    @functools.wraps(handler)
    async def endpoint(request: Request) -> Response:
        visit = _visit(request)
        try:
            response = await _respond(visit, handler, needs_key)
        except PageError as error:
            response = visit.render("error.html", error.status, message=error.message, code="")
        except ApiError as error:
            response = _show(visit, error)
        for name, value in HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    return endpoint


def _visit(request: Request) -> Visit:
    site: Site = request.app.state.site
    key = key_of(request, site.options.open_key)
    headers = {"host": request.headers.get("host", "")}
    if key is not None:
        headers["authorization"] = f"Bearer {key}"
    address = None if request.client is None else (request.client.host, request.client.port)
    return Visit(request, Api(site.client, headers, address), key, site, {})


async def _respond(visit: Visit, handler: Handler, needs_key: bool) -> Response:
    request, options = visit.request, visit.site.options
    host = request.headers.get("host", "")
    if options.trusts_host is not None and not options.trusts_host(host):
        message = (
            "This service does not answer for this host: use an address of this machine, or start it "
            "with --trusted-host."
        )
        raise PageError(421, message)
    if needs_key and visit.key is None:
        return _to_login(visit)
    if request.method == "POST":
        visit.form = await _read_form(request)
        reason = refusal(request, visit.form.get(TOKEN_FIELD, ""), visit.token)
        if reason is not None:
            raise PageError(403, reason)
    return await handler(visit)


def _to_login(visit: Visit, *, was_known: bool = False) -> Response:
    here = _here(visit)
    asks = visit.request.method == "GET" and not visit.is_fragment
    query = [*([("next", here)] if asks and here != "/" else []), *([("revoked", "1")] * was_known)]
    url = f"/login?{urlencode(query, safe='/', quote_via=quote)}" if query else "/login"
    response = visit.to(url)
    if visit.is_fragment:
        response.headers["HX-Redirect"] = url
    return response


def _here(visit: Visit) -> str:
    url = visit.request.url
    return f"{url.path}?{url.query}" if url.query else url.path


def _show(visit: Visit, error: ApiError) -> Response:
    if error.status == 401 and visit.key != visit.site.options.open_key:
        # If everybody knows a key, the one in the cookie is of another service, which was here before.
        is_open = visit.site.options.open_key is not None and visit.request.method == "GET"
        response = visit.to(_here(visit)) if is_open else _to_login(visit, was_known=True)
        forget_key(response, visit.request)
        return response
    response = visit.render("error.html", error.status, message=error.message, code=error.code)
    if error.retry_after is not None:
        response.headers["Retry-After"] = f"{error.retry_after:.0f}"
    return response


async def _read_form(request: Request) -> Mapping[str, str]:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LARGEST_FORM:
            raise PageError(413, "The form is too large: it may have 4 MB.")
    text = body.decode("utf-8", "replace")
    return dict(parse_qsl(text, keep_blank_values=True))
