"""Who may see the pages, and which requests may change something.

The key of a visitor is in a cookie that scripts cannot read and that no other site can make the browser
send. A POST must come from a page of this service: its Origin names this host, and it has a token that only
our pages have. The headers let a browser run no script but ours, so that a recording cannot bring its own.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    # An exported session is made without starlette.
    from starlette.requests import Request
    from starlette.responses import Response

_PORT = re.compile(r":([0-9]{1,5})\Z")
TOKEN_FIELD = "csrf"  # noqa: S105  # the name of a form field
_LONGEST_KEY = 512

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # Not no-referrer: browsers would then send "Origin: null" with our own forms.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""The headers of every page."""


def key_of(request: Request, open_key: str | None) -> str | None:
    """Return the visitor's API key: of the cookie, else the key that everybody knows, if there is one."""
    key = request.cookies.get(cookie_name(request), "")
    # What is not a valid value of a header can be no key.
    if key and len(key) <= _LONGEST_KEY and key.isascii() and key.isprintable():
        return key
    return open_key


def cookie_name(request: Request) -> str:
    """Return the name of the visitor's cookie: browsers send cookies to all ports of a host."""
    port = _PORT.search(request.headers.get("host", ""))
    return "noukai_key" if port is None else f"noukai_key_{port[1]}"


def keep_key(response: Response, request: Request, key: str) -> None:
    """Let the browser send ``key`` with each of its requests, until it is closed."""
    is_secure = request.url.scheme == "https"
    name = cookie_name(request)
    response.set_cookie(name, key, httponly=True, samesite="strict", path="/", secure=is_secure)


def forget_key(response: Response, request: Request) -> None:
    """Let the browser forget the key."""
    response.delete_cookie(cookie_name(request), path="/", httponly=True, samesite="strict")


def token_for(key: str | None, open_key: str | None, secret: bytes) -> str:
    """Return the token of the forms of a visitor. Nobody can compute it without the key, or the secret.

    Without a key of the visitor's own, it is made from ``secret``. Others fit all processes of a service.
    """
    if key is not None and key != open_key:
        secret = key.encode()
    return hmac.new(secret, b"noukai dashboard forms", hashlib.sha256).hexdigest()


def refusal(request: Request, sent_token: str, token: str) -> str | None:
    """Return why a POST is refused, None if it comes from one of our pages."""
    origin = request.headers.get("origin", "")
    host = request.headers.get("host", "")
    # Without the scheme: a proxy may have taken the TLS off.
    if not origin or not host or urlsplit(origin).netloc.lower() != host.lower():
        return (
            "This request does not come from a page of this service. Behind a proxy, let it pass the "
            "Host header on."
        )
    if not hmac.compare_digest(sent_token.encode(), token.encode()):
        return (
            "This form is older than the service or your login. Go back, reload the page, and send it "
            "again."
        )
    return None
