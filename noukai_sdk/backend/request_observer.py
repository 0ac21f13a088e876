"""Observe each request when it has ended, for logs and metrics."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # The commands import this module before they check if starlette is installed.
    from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class FinishedRequest:
    """A request whose response has ended.

    Attributes:
        raw_path: The path as the client sent it, percent-encoded.
        route: The template of the path, such as ``/healthz``; ``other`` if there is no such route.
        status: 0 if the connection was lost before a response.
        code: The error code in the response; empty if it is not an error.
        seconds: From the header of the request to the end of the response.
    """

    method: str
    raw_path: str
    route: str
    status: int
    code: str
    seconds: float
    request_id: str
    session_id: str


class RequestObserver:
    """ASGI middleware: call ``report`` when a response has ended."""

    def __init__(self, app: ASGIApp, report: Callable[[FinishedRequest], None]) -> None:
        self._app = app
        self._report = report

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, and report the request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started_at = time.perf_counter()
        status = 0
        code = request_id = ""

        async def send_and_note(message: Message) -> None:
            nonlocal status, code, request_id
            if message["type"] == "http.response.start":
                status = message["status"]
                request_id = _header(message["headers"], b"x-request-id")
            elif status >= 400 and not code:
                code = _error_code(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        finally:
            # Some versions of FastAPI have the prefix of a router in the template, others have not.
            route = getattr(scope.get("route"), "path", "other").removeprefix("/api/v1")
            self._report(
                FinishedRequest(
                    method=scope["method"],
                    raw_path=_as_text(scope["raw_path"]),
                    route=route,
                    status=status,
                    code=code,
                    seconds=time.perf_counter() - started_at,
                    request_id=request_id,
                    session_id=_header(scope["headers"], b"x-session-id"),
                )
            )


def _header(headers: list[tuple[bytes, bytes]], name: bytes) -> str:
    return _as_text(next((value for key, value in headers if key.lower() == name), b""))


def _error_code(body: bytes) -> str:
    with suppress(ValueError, LookupError, TypeError):
        return str(json.loads(body)["detail"]["code"])
    return ""


def _as_text(raw: bytes) -> str:
    return raw.decode("ascii", "replace")
