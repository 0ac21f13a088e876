"""Build the exchange of a captured request, without its secrets."""

from __future__ import annotations

import base64
import binascii
import html
import json
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote

from ..masking.values import Masker
from ..models.exchanges import CapturedBody, CapturedRequest, CapturedResponse, Exchange, Header
from .captured import REQUEST_HEADERS, RESPONSE_HEADERS, is_secret_header
from .redacted_bodies import BodyRedactor, decompressed, leaves, redacted_pairs

if TYPE_CHECKING:
    from ..protocol.call import Service
    from .captured import Captured, ObservedBody

# A shorter value of a secret field, such as a pin, may stand anywhere by chance.
_SHORTEST_SECRET = 6

_MOST_SECRETS = 50
_MIXED = re.compile(r"[A-Za-z].*\d|\d.*[A-Za-z]", re.DOTALL)
_SCHEME = re.compile(r"[A-Za-z0-9-]{1,32} +")


def redacted_exchange(captured: Captured, service: Service | None) -> Exchange | None:
    """Return the exchange as it may leave the process; None if the ``redact`` hook keeps nothing.

    The credentials and cookies of the request, the values of its secret fields and the cookies that the
    response sets are masked wherever they stand: applications echo what they receive.

    Args:
        captured: What was observed.
        service: Its API key is masked too.
    """
    pii = captured.options.redact_pii
    secrets = set(_credentials(captured.headers))
    if service is not None:
        secrets.update(_credentials([("authorization", service.headers.get("Authorization", ""))]))
    cookies = {text for text in _cookies(captured.headers) if _is_long(text)}
    request, fields = _request(captured, _redactor(pii, secrets | _random(cookies)))
    echoed = {text for field in fields for text in leaves(field) if _is_long(text)} | cookies
    if not _random(echoed) <= secrets | _random(cookies):
        request, _ = _request(captured, _redactor(pii, secrets | _random(echoed)))
    secrets |= echoed | set(_credentials(captured.response_headers))
    secrets.update(text for text in _cookies(captured.response_headers) if _is_long(text))
    exchange = Exchange(
        request=request,
        response=_response(captured, _redactor(pii, secrets)),
        started_at=captured.started_at,
        completed_at=captured.completed_at,
        client_left=captured.client_left and not captured.response.complete,
    )
    hook = captured.options.redact
    if hook is None:
        return exchange
    kept = hook(exchange.model_dump(mode="json", by_alias=True))
    return None if kept is None else Exchange.model_validate(kept)


def _redactor(pii: bool, secrets: Iterable[str]) -> BodyRedactor:
    # Each one is looked for in all texts.
    chosen = sorted(secrets, key=lambda secret: (-len(secret), secret))[:_MOST_SECRETS]
    texts = {form for secret in chosen for form in _forms(secret)}
    # The longest first: one may be part of another.
    return BodyRedactor(Masker(pii, sorted(texts, key=lambda text: (-len(text), text))))


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it stands in texts, URLs, HTML and scripts."""
    yield from (secret, quote(secret, ""), quote_plus(secret))
    escaped = html.escape(secret)
    yield from (escaped, escaped.replace("&quot;", "&#34;").replace("&#x27;", "&#39;"))
    yield from (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])


def _credentials(headers: Iterable[Header]) -> Iterator[str]:
    """Yield the credentials that stand in headers, whole and in parts."""
    for name, value in headers:
        if name in ("cookie", "set-cookie") or not (is_secret_header(name) and _is_long(value)):
            continue
        yield value
        scheme = _SCHEME.match(value)
        token = value[scheme.end() :] if scheme is not None else ""
        if scheme is not None and _is_long(token):
            yield token
            if scheme[0].strip().lower() == "basic":
                yield from _basic(token)


def _cookies(headers: Iterable[Header]) -> Iterator[str]:
    """Yield the values of cookies, as they were sent and decoded."""
    for name, value in headers:
        if name in ("cookie", "set-cookie"):
            pairs = value.split(";")
            for pair in pairs[:1] if name == "set-cookie" else pairs:
                cookie = pair.partition("=")[2].strip().strip('"')
                yield cookie
                yield unquote(cookie)


def _random(texts: Iterable[str]) -> set[str]:
    """Return the texts that no other field of a request has by chance, unlike a language or a tenant.

    A mask in a field that the application needs would make the request useless.
    """
    return {text for text in texts if len(text) >= 16 or _MIXED.search(text)}


def _basic(token: str) -> Iterator[str]:
    try:
        password = base64.b64decode(token, validate=True).decode().partition(":")[2]
    except (ValueError, binascii.Error):
        return
    if _is_long(password):
        yield password


def _is_long(value: str) -> bool:
    return len(value) >= _SHORTEST_SECRET


def _request(captured: Captured, redactor: BodyRedactor) -> tuple[CapturedRequest, list[Any]]:
    """Return the request, and the values that were masked because of their names."""
    masked: list[str] = []
    allowed = REQUEST_HEADERS | captured.options.extra
    headers = []
    for name, value in captured.headers:
        if is_secret_header(name):
            masked.append(f"header {name}")
        elif name in allowed:
            clean = redactor.masker.text(value)
            if clean != value:
                masked.append(f"header {name}")
            headers.append((name, clean))

    path = unquote(captured.path, "latin-1")
    clean_path = redactor.masker.text(path)
    if clean_path == path:
        clean_path = captured.path
    else:
        clean_path = quote(clean_path, "/:@!$&'()*+,;=~[]", "latin-1", "replace")
        masked.append("path")
    query, names = redacted_pairs(captured.query, redactor)
    masked += [f"query {name}" for name in names]

    body, content_headers = _body(captured.body, headers, captured.headers, redactor)
    if body is not None:
        if captured.client_left and not captured.body.complete:
            body.complete = False
        masked += [f"body {path}" if path else "body" for path in redactor.paths]
    request = CapturedRequest(
        method=captured.method,
        origin=captured.origin,
        path=clean_path,
        query=query,
        headers=tuple(content_headers),
        body=body,
        redacted=tuple(dict.fromkeys(masked)),
    )
    return request, redactor.secrets


def _response(captured: Captured, redactor: BodyRedactor) -> CapturedResponse:
    if captured.status is None:
        return CapturedResponse()
    allowed = RESPONSE_HEADERS | captured.options.extra
    headers = [
        (name.lower(), redactor.masker.text(value))
        for name, value in captured.response_headers
        if name.lower() in allowed and not is_secret_header(name)
    ]
    body = None
    if captured.method != "HEAD" and captured.status != 101:
        body, headers = _body(captured.response, headers, captured.response_headers, redactor)
        if body is None:
            body = CapturedBody()
        body.complete = captured.response.complete
    return CapturedResponse(status=captured.status, headers=tuple(headers), body=body)


def _body(
    observed: ObservedBody,
    headers: list[Header],
    all_headers: Iterable[Header],
    redactor: BodyRedactor,
) -> tuple[CapturedBody | None, list[Header]]:
    """Return a body, decompressed and redacted, and the headers that describe it then."""
    if not observed.size and observed.readable:
        return None, headers
    given = {name.lower(): value for name, value in all_headers}
    data, truncated = bytes(observed.data), observed.truncated
    coding = given.get("content-encoding", "").lower()
    if coding:
        headers = [header for header in headers if header[0] != "content-encoding"]
    found = decompressed(data, coding, truncated) if observed.readable else None
    body = CapturedBody(size=observed.size, truncated=True)
    if found is not None:
        data, truncated = found
        cut = truncated or not observed.complete
        clean = redactor.body(data, given.get("content-type", ""), cut)
        if clean is not None:
            body.text, body.encoding, shortened = clean
            body.truncated = truncated or shortened
    if body.truncated and not body.text:
        redactor.paths = [""]
    return body, headers
