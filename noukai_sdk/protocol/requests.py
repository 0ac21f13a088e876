"""How a call becomes an HTTP request."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json, to_json

from .call import FlowCall, Service
from .paths import call_path
from .program import Request


def post(call: FlowCall, body: Mapping[str, Any], *, accept: str | None = None) -> Request:
    """The POST of ``call`` with this body."""
    own = {"Content-Type": "application/json"}
    if call.session_id is not None:
        own["X-Session-Id"] = call.session_id
    if accept is not None:
        own["Accept"] = accept
    headers = own if not call.extra_headers else _merged(call.extra_headers, own)
    return Request(
        "POST",
        call_path(call.kind, call.flow),
        headers,
        encode(body),
        timeout_of(call.service, call.timeout),
    )


def _merged(extra: Mapping[str, str], own: dict[str, str]) -> dict[str, str]:
    """Both, ours before a header of the same name in other letters."""
    taken = {name.lower() for name in own}
    return {name: value for name, value in extra.items() if name.lower() not in taken} | own


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


def encode(value: Any) -> bytes:
    """``value`` as JSON. Raises TypeError for what JSON has no word for."""
    try:
        text = to_json(value)
        # As part of a string both may be there; as a number they are no JSON.
        if b"NaN" in text or b"Infinity" in text:
            json.dumps(from_json(text), allow_nan=False)
    except ValueError as error:
        raise TypeError(f"this cannot be sent as JSON: {error}") from error
    return text
