"""The HTTP request of a session, and its response."""

from __future__ import annotations

from dataclasses import dataclass

from ...models.exchanges import CapturedBody, Exchange, Header
from .recorded_values import Parts, Value


@dataclass(frozen=True)
class BodyView:
    """A body, as far as it was captured. ``note`` says what is missing, or how it is encoded."""

    value: Value
    note: str


@dataclass(frozen=True)
class ExchangeView:
    """A request and its response.

    Attributes:
        redacted: What was removed or masked at capture, such as ``header authorization``.
    """

    line: str
    origin: str
    request_headers: tuple[Header, ...]
    request_body: BodyView | None
    status: int | None
    response_headers: tuple[Header, ...]
    response_body: BodyView | None
    redacted: tuple[str, ...]
    client_left: bool
    parts: Parts


def exchange_view(exchange: Exchange, limit: int | None) -> ExchangeView:
    """Return a request and its response; ``limit`` as in :class:`Parts`."""
    parts = Parts(limit)
    request, response = exchange.request, exchange.response
    return ExchangeView(
        f"{request.method} {request.target}",
        request.origin,
        request.headers,
        _body(request.body, parts, "request.body"),
        response.status,
        response.headers,
        _body(response.body, parts, "response.body"),
        request.redacted,
        exchange.client_left,
        parts,
    )


def _body(body: CapturedBody | None, parts: Parts, name: str) -> BodyView | None:
    if body is None or (not body.text and not body.size):
        return None
    notes = [f"{body.size:,} bytes"]
    if body.encoding == "base64":
        notes.append("not UTF-8, shown as base64")
    if body.truncated:
        notes.append("only the first part was captured")
    if not body.complete:
        notes.append("the client or the application left before its end")
    return BodyView(parts.add(name, body.text), ", ".join(notes))
