"""Error answers: always ``{"detail": {"code", "message"}}`` and always with X-Request-ID.

Codes beyond those of the wire contract, where it has no word of its own: INVALID_REQUEST (400, no
JSON or a field of the wrong type), INVALID_VERSION, ATTACHMENTS_INVALID, SESSION_ID_INVALID (400),
UNAUTHENTICATED (401), FORBIDDEN, SESSION_FORBIDDEN (403), SESSION_NOT_FOUND, STEP_NOT_FOUND,
ROUTE_NOT_FOUND (404), METHOD_NOT_ALLOWED (405), SESSION_EXPIRED (410),
STORE_UNAVAILABLE (503, the database is full, locked or gone), STOPPED (503).
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import NoukaiError
from .encoding import encode
from .store.outage import StoreUnavailableError

logger = logging.getLogger("noukai_sdk.backend")

_HTTP_CODES = {404: "ROUTE_NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
_STEP_STATUS = {
    "NOT_A_LIST": 422,
    "TEMPLATE_UNRESOLVED": 422,
    "TOOLS_NOT_ENABLED": 422,
    "TOOL_ITERATION_LIMIT": 422,
    "STEP_TIMEOUT": 504,
    "MODEL_ERROR": 502,
    "OUTPUT_INVALID": 502,
    "BYOK_KEY_REJECTED": 502,
}


class RequestError(Exception):
    """An answer other than success, raised from anywhere below a route."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        execution_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.execution_id = execution_id
        self.headers = dict(headers or {})


def step_status(code: str | None) -> int:
    """The HTTP status for a run whose step failed with ``code``."""
    return _STEP_STATUS.get(code or "", 500)


class Edge:
    """ASGI middleware: X-Request-ID on every answer, and an answer to our own errors too.

    A framework that answers those re-raises them, and the server then drops the connection, which
    the client may have used for its next call by then.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, and see its answer out."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        name = f"req_{uuid.uuid4().hex}"
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)["X-Request-ID"] = name
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server stops, and waits no longer. It would answer by a plain 500, and log a page of
            # traceback. A stream is cut off by it as soon as we return.
            if not has_started:
                message = "the backend was stopped before the call had ended"
                await _answer(503, "STOPPED", message)(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", name)
            # A cut stream must look cut.
            if has_started:
                raise
            message = "the backend failed; its log says why"
            await _answer(500, "INTERNAL_ERROR", message)(scope, receive, send_with_id)


def install(app: FastAPI) -> None:
    """Make every error of ``app`` an answer of the contract's shape."""
    app.add_middleware(Edge)
    handlers: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
        RequestError: _refused,
        NoukaiError: _engine_refused,
        RequestValidationError: _bad_argument,
        HTTPException: _bad_route,
        ClientDisconnect: _gone,
        StoreUnavailableError: _not_stored,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


def _answer(
    status: int,
    code: str,
    message: str,
    *,
    execution_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Response:
    detail = {"code": code, "message": message}
    if execution_id is not None:
        detail["executionId"] = execution_id
    return Response(encode({"detail": detail}), status, headers, "application/json")


async def _refused(_request: Request, error: RequestError) -> Response:
    return _answer(
        error.status,
        error.code,
        error.message,
        execution_id=error.execution_id,
        headers=error.headers,
    )


async def _engine_refused(_request: Request, error: NoukaiError) -> Response:
    return _answer(error.status_code or 500, error.code or "INTERNAL_ERROR", error.message)


async def _not_stored(_request: Request, error: StoreUnavailableError) -> Response:
    return _answer(503, "STORE_UNAVAILABLE", str(error), execution_id=error.execution_id)


async def _bad_argument(_request: Request, error: RequestValidationError) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    return _answer(400, "INVALID_REQUEST", f"{where}: {first['msg']}")


async def _bad_route(request: Request, error: HTTPException) -> Response:
    code = _HTTP_CODES.get(error.status_code, "INVALID_REQUEST")
    message = f"{request.method} {request.url.path[:200]}: {error.detail}"
    return _answer(error.status_code, code, message, headers=error.headers)


async def _gone(_request: Request, _error: ClientDisconnect) -> Response:
    # Nobody reads this: it only keeps a client that hung up from looking like a fault of ours.
    return _answer(400, "INVALID_REQUEST", "the client went away")
