"""Responses of HTTP libraries as data, for functions that call other services, and for their errors.

The libraries are found among the loaded modules. Nothing is imported, so they stay optional.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

# The body is kept decoded, so these no longer describe it.
_OF_THE_TRANSFER = frozenset(("content-encoding", "content-length", "transfer-encoding"))


def library_fields(value: Any) -> dict[str, Any] | None:
    """Return what is kept of a request or response, None for other values.

    Raises:
        RuntimeError: The body of the response was not read.
    """
    name = f"{type(value).__module__}.{type(value).__qualname__}"
    if name in ("httpx.Request", "httpx2.Request", "requests.models.PreparedRequest"):
        return {"method": value.method, "url": str(value.url)}
    if name in ("httpx.Response", "httpx2.Response"):
        return {
            "status": value.status_code,
            "reason": value.reason_phrase,
            "headers": _headers(value.headers.multi_items()),
            "body": value.content,
            "request": getattr(value, "_request", None),
            "seconds": value.elapsed.total_seconds() if hasattr(value, "_elapsed") else None,
        }
    if name == "requests.models.Response":
        if value._content is False:
            raise RuntimeError("its body was not read")
        return {
            "status": value.status_code,
            "reason": value.reason,
            "headers": _headers(value.headers.items()),
            "body": value.content,
            "encoding": value.encoding,
            "url": value.url,
            "request": value.request,
            "seconds": value.elapsed.total_seconds(),
        }
    return None


def make_library_value(name: str, fields: Mapping[str, Any]) -> Any:
    """Return the object that `library_fields` described.

    Raises:
        LookupError: The library is not loaded.
    """
    module = sys.modules.get(name.partition(".")[0])
    if module is None:
        raise LookupError(f"{name.partition('.')[0]} is not imported")
    return LIBRARY_TYPES[name](module, fields)


def _headers(items: Any) -> dict[str, list[str]]:
    """Return headers by name, so that those that are secrets are masked by it."""
    headers: dict[str, list[str]] = {}
    for name, value in items:
        if name.lower() not in _OF_THE_TRANSFER:
            headers.setdefault(name, []).append(value)
    return headers


def _pairs(headers: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        (name, value)
        for name, values in headers.items()
        for value in ([values] if isinstance(values, str) else values)  # a mask is one text
    ]


def _body(fields: Mapping[str, Any]) -> bytes:
    body = fields["body"]
    return body.encode() if isinstance(body, str) else bytes(body)  # a mask is a text


def _httpx_request(httpx: Any, fields: Mapping[str, Any]) -> Any:
    return httpx.Request(fields["method"], fields["url"])


def _httpx_response(httpx: Any, fields: Mapping[str, Any]) -> Any:
    response = httpx.Response(
        fields["status"],
        headers=_pairs(fields["headers"]),
        content=_body(fields),
        request=fields["request"],
        extensions={"reason_phrase": fields["reason"].encode("ascii", "replace")},
    )
    if fields["seconds"] is not None:
        response.elapsed = timedelta(seconds=fields["seconds"])
    return response


def _requests_request(requests: Any, fields: Mapping[str, Any]) -> Any:
    request = requests.models.PreparedRequest()
    request.method, request.url = fields["method"], fields["url"]
    request.headers = requests.structures.CaseInsensitiveDict()
    return request


def _requests_response(requests: Any, fields: Mapping[str, Any]) -> Any:
    response = requests.models.Response()
    response.status_code = fields["status"]
    response.reason = fields["reason"]
    response.headers.update(_pairs(fields["headers"]))
    response._content = _body(fields)
    response._content_consumed = True
    response.encoding = fields["encoding"]
    response.url = fields["url"]
    response.request = fields["request"]
    response.elapsed = timedelta(seconds=fields["seconds"])
    return response


LIBRARY_TYPES = {
    "httpx.Request": _httpx_request,
    "httpx.Response": _httpx_response,
    "httpx2.Request": _httpx_request,
    "httpx2.Response": _httpx_response,
    "requests.models.PreparedRequest": _requests_request,
    "requests.models.Response": _requests_response,
}
