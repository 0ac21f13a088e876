"""Logs as JSON, a line for each record and for each request, for machines that collect them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from .log_limits import LineLimiter
from .request_observer import FinishedRequest, RequestObserver

if TYPE_CHECKING:
    from starlette.types import ASGIApp

FLOODING = {"CLIENT_LEFT", "REQUEST_TIMEOUT", "HOST_NOT_ALLOWED", "QUEUE_FULL", "STOPPED"}
"""Errors of which a hostile client can cause many: at most a line a second of each is logged."""

_MOST_CHARACTERS = 20_000

# Asked every few seconds. Only their failures are logged.
_PROBES = {"/healthz", "/readyz", "/metrics"}


class JsonFormatter(logging.Formatter):
    """Formats a record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, Any] = {
            "time": _iso(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _cut(record.getMessage()),
        }
        if record.exc_info:
            fields["exception"] = _cut(self.formatException(record.exc_info))
        return _line(fields)


class JsonRequestLog(RequestObserver):
    """ASGI middleware: print one line of JSON for each request."""

    def __init__(self, app: ASGIApp, write: Callable[[str], object] = sys.stdout.write) -> None:
        super().__init__(app, self._log)
        self._write = write
        self._limiter = LineLimiter()

    def _log(self, request: FinishedRequest) -> None:
        if request.status == 200 and request.route in _PROBES:
            return
        held_back = self._limiter.held_back(request.code) if request.code in FLOODING else 0
        if held_back is None:
            return
        fields: dict[str, Any] = {
            "time": _iso(datetime.now(timezone.utc).timestamp()),
            "level": "info" if request.status < 500 else "error",
            "logger": "noukai.requests",
            "message": f"{request.method} {request.raw_path} {request.status}",
            "method": request.method,
            "path": request.raw_path,
            "route": request.route,
            "status": request.status,
            "code": request.code or None,
            "ms": round(request.seconds * 1000, 1),
            "requestId": request.request_id or None,
            "sessionId": request.session_id or None,
        }
        if held_back:
            fields["heldBack"] = held_back
        self._write(f"{_line(fields)}\n")


def log_as_json() -> None:
    """Print all records of all loggers as JSON to standard output. Call it after uvicorn is set up."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "dbos"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="milliseconds")


def _cut(text: str) -> str:
    # The message of an error can have the whole input of a step.
    if len(text) <= _MOST_CHARACTERS:
        return text
    half = _MOST_CHARACTERS // 2
    return f"{text[:half]} ... ({len(text)} characters) ... {text[-half:]}"


def _line(fields: dict[str, Any]) -> str:
    # ASCII: half of a surrogate pair cannot be printed otherwise.
    return json.dumps(fields, default=str)
