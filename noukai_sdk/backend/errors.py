"""Error responses: always ``{"detail": {"code", "message"}}`` and always with X-Request-ID.

Codes in addition to those of the wire contract::

    400  INVALID_REQUEST (not valid JSON, or a field has the wrong type), INVALID_VERSION,
         ATTACHMENTS_INVALID, SESSION_ID_INVALID, IDEMPOTENCY_KEY_INVALID
    401  UNAUTHENTICATED
    404  SESSION_NOT_FOUND, EXCHANGE_NOT_FOUND, ROUTE_NOT_FOUND
    405  METHOD_NOT_ALLOWED
    408  REQUEST_TIMEOUT
    409  EXCHANGE_EXISTS, SESSION_IN_PROGRESS, VERSIONS_ARE_FILES, IDEMPOTENCY_KEY_IN_USE,
         JOB_NOT_RETRYABLE, INPUT_NOT_KEPT, RUN_STOPPED (another process ended the run or took it over)
    410  SESSION_EXPIRED
    413  BODY_TOO_LARGE
    422  PROMPT_TOO_LARGE, OUTPUT_TOO_LARGE, RUN_TOO_LARGE, FLOW_NOT_FREEZABLE,
         IDEMPOTENCY_KEY_REUSED
    421  HOST_NOT_ALLOWED
    429  TOO_MANY_WRONG_KEYS, TOO_MANY_REQUESTS, TOO_MANY_RUNS, QUEUE_FULL
    503  STORE_UNAVAILABLE (the database is full, locked or gone), STOPPED, NOT_READY,
         OVERLOADED

The log also has CLIENT_LEFT.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import NoukaiError
from .encoding import encode
from .store.database import StoreUnavailableError
from .store.writer import StaleOwnerError

logger = logging.getLogger("noukai_sdk.backend")

_LENGTHS = {b"content-length", b"transfer-encoding"}
_HTTP_CODES = {404: "ROUTE_NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}
_STEP_STATUS = {
    "NOT_A_LIST": 422,
    "TEMPLATE_UNRESOLVED": 422,
    "TOOLS_NOT_ENABLED": 422,
    "TOOL_ITERATION_LIMIT": 422,
    "STEP_TIMEOUT": 504,
    "MODEL_ERROR": 502,
    "OUTPUT_INVALID": 502,
    "OUTPUT_TOO_LARGE": 422,
    "PROMPT_TOO_LARGE": 422,
    "RUN_TOO_LARGE": 422,
    "BYOK_KEY_REJECTED": 502,
    "CREDITS_EXHAUSTED": 402,
}


class RequestError(Exception):
    """An error response, raised anywhere below a route."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        execution_id: str | None = None,
        headers: Mapping[str, str] | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.execution_id = execution_id
        self.headers = dict(headers or {})
        self.details = dict(details or {})


def step_status(code: str | None) -> int:
    """Return the HTTP status for a run whose step failed with ``code``."""
    return _STEP_STATUS.get(code or "", 500)


def install(app: FastAPI) -> None:
    """Turn every error of ``app`` into a response of the contract's shape."""
    app.add_middleware(ErrorMiddleware)
    for kind in (
        RequestError,
        NoukaiError,
        StoreUnavailableError,
        StaleOwnerError,
        RequestValidationError,
        HTTPException,
        ClientDisconnect,
    ):
        app.add_exception_handler(kind, _to_response)


async def _to_response(request: Request, error: Exception) -> Response:
    if isinstance(error, RequestError):
        return error_response(
            error.status,
            error.code,
            error.message,
            execution_id=error.execution_id,
            headers=error.headers,
            details=error.details,
        )
    if isinstance(error, NoukaiError):
        return error_response(
            error.status_code or 500, error.code or "INTERNAL_ERROR", error.message
        )
    if isinstance(error, StoreUnavailableError):
        return error_response(
            503,
            "STORE_UNAVAILABLE",
            str(error),
            execution_id=error.execution_id,
            headers={"Retry-After": "1"},
        )
    if isinstance(error, StaleOwnerError):
        return error_response(409, "RUN_STOPPED", str(error), execution_id=error.execution_id)
    if isinstance(error, RequestValidationError):
        first = error.errors()[0]
        location = ".".join(str(part) for part in first["loc"])
        return error_response(400, "INVALID_REQUEST", f"{location}: {first['msg']}")
    if isinstance(error, HTTPException):
        code = _HTTP_CODES.get(error.status_code, "INVALID_REQUEST")
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        return error_response(error.status_code, code, message, headers=error.headers)
    # ClientDisconnect: this response is not read. It keeps the disconnect out of the log of failures.
    return error_response(400, "CLIENT_LEFT", "the client went away")


def error_response(
    status: int,
    code: str,
    message: str,
    *,
    execution_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    details: Mapping[str, Any] | None = None,
) -> Response:
    """Return an error in the contract's shape."""
    detail: dict[str, Any] = {"code": code, "message": message, **(details or {})}
    if execution_id is not None:
        detail["executionId"] = execution_id
    return Response(encode({"detail": detail}), status, headers, "application/json")


class ErrorMiddleware:
    """ASGI middleware: add X-Request-ID to every response, and respond to unhandled errors.

    Starlette responds to unhandled errors too, but raises them again, and the server then drops the
    connection that the client may already use for its next call.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Call the app, and respond if it raises."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = f"req_{uuid.uuid4().hex}"
        has_started = False
        header_names = {name for name, _ in scope["headers"]}

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started = True
                MutableHeaders(scope=message)["X-Request-ID"] = request_id
            await send(message)

        try:
            if header_names >= _LENGTHS:
                # A proxy may find another end of this request than we do, and take what follows for
                # the request of another client.
                message = "a request has a Content-Length or a Transfer-Encoding, not both"
                headers = {"Connection": "close"}
                response = error_response(400, "INVALID_REQUEST", message, headers=headers)
                await response(scope, receive, send_with_id)
                return
            await self._app(scope, receive, send_with_id)
        except asyncio.CancelledError:
            # The server stops and waits no longer. If we raised, it would send a plain 500 and log a
            # traceback. A stream that has started is cut off when we return.
            if not has_started:
                message = "the backend was stopped before the call had ended"
                response = error_response(503, "STOPPED", message)
                await response(scope, receive, send_with_id)
        except Exception:
            logger.exception("request %s failed", request_id)
            # A stream that was cut off must not look complete.
            if has_started:
                raise
            message = "the backend failed; its log says why"
            response = error_response(500, "INTERNAL_ERROR", message)
            await response(scope, receive, send_with_id)
