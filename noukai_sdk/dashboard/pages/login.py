"""Log in with an API key, and out."""

from __future__ import annotations

from starlette.responses import Response

from ..api import Api, ApiError
from ..security import forget_key, keep_key
from .visit import Visit, action, is_local, page


@page("/login", needs_key=False)
async def login_page(visit: Visit) -> Response:
    """Ask for a key."""
    if visit.request.headers.get("sec-fetch-site") == "cross-site":
        # A link on another site led here, so the browser has sent no cookie. It does when we lead on.
        return visit.render("lead_on.html", target=_target(visit.query.get("next", "")))
    message = "Your key is not valid any longer. Log in with another one."
    message = message if "revoked" in visit.query else ""
    return visit.render("login.html", message=message, next=visit.query.get("next", ""))


@action("/login", needs_key=False)
async def login(visit: Visit) -> Response:
    """Keep the key if the API knows it."""
    key, target = visit.form.get("key", "").strip(), visit.form.get("next", "")
    if not key or not key.isascii() or not key.isprintable():
        return visit.render("login.html", 400, message="Enter an API key.", next=target)
    headers = {**visit.api.headers, "authorization": f"Bearer {key}"}
    try:
        await Api(visit.api.client, headers, visit.api.address).sessions({"limit": 1})
    except ApiError as error:
        if error.status not in (401, 429):
            raise
        wrong = "This key is unknown or revoked."
        message = wrong if error.status == 401 else error.message
        response = visit.render("login.html", error.status, message=message, next=target)
        if error.retry_after is not None:
            response.headers["Retry-After"] = f"{error.retry_after:.0f}"
        return response
    response = visit.to(_target(target))
    keep_key(response, visit.request, key)
    return response


@action("/logout")
async def logout(visit: Visit) -> Response:
    """Forget the key."""
    response = visit.to("/login")
    forget_key(response, visit.request)
    return response


def _target(url: str) -> str:
    return url if is_local(url) and not url.startswith("/login") else "/"
