"""How a call becomes an HTTP request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic_core import PydanticSerializationError, to_json

from .call import FlowCall, Service
from .paths import call_path
from .program import Request

PROTECTED_HEADERS = frozenset(
    {
        "authorization",
        "x-noukai-api-version",
        "user-agent",
        "x-request-id",
        "content-type",
        "cookie",
    }
)


def post(call: FlowCall, body: Mapping[str, Any], *, accept: str | None = None) -> Request:
    """The POST of ``call`` with this body."""
    headers = dict(call.extra_headers)
    if call.session_id is not None:
        headers["X-Session-Id"] = call.session_id
    if accept is not None:
        headers["Accept"] = accept
    headers["Content-Type"] = "application/json"
    return Request(
        "POST",
        call_path(call.kind, call.flow),
        headers,
        encode(body),
        timeout_of(call.service, call.timeout),
    )


def get(
    service: Service,
    path: str,
    *,
    timeout: float | None = None,
    headers: Mapping[str, str] | None = None,
) -> Request:
    """A GET of ``path``."""
    return Request("GET", path, dict(headers or {}), None, timeout_of(service, timeout))


def timeout_of(service: Service, timeout: float | None) -> float:
    """The call's timeout in seconds, the client's where it has none."""
    return service.timeout if timeout is None else timeout


def encode(body: Mapping[str, Any]) -> bytes:
    """The body as JSON. Raises TypeError for what JSON has no word for."""
    try:
        return to_json(body)
    except (PydanticSerializationError, ValueError) as error:
        raise TypeError(f"the call's arguments cannot be sent as JSON: {error}") from error
