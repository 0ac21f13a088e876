"""Trace and replay Starlette applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from ..arguments import is_async_callable
from . import asgi
from .captured import capture_options
from .responses import (
    HEADER_REPLAY,
    HEADER_REPLAY_ID,
    HEADER_REPLAY_REPORT,
    HEADER_RESPONSE_SESSION,
    require_client,
)

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.middleware.errors import ServerErrorMiddleware
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ..client import AsyncNoukai, Noukai
    from .captured import CaptureOption

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_ID",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
    "instrument",
]

App = TypeVar("App", bound="Starlette")


class NoukaiTraceMiddleware(asgi.NoukaiTraceMiddleware):
    """The ASGI middleware, with the session header on unhandled 500s too.

    Starlette responds to unhandled exceptions in a layer outside of all middleware. The middleware
    makes that layer add the headers. Nothing else about its response changes, and the exception
    propagates as usual.
    """

    def _prepare(self, scope: asgi.Message) -> None:
        from starlette.middleware.errors import ServerErrorMiddleware

        layer = getattr(scope.get("app"), "middleware_stack", None)
        while layer is not None and layer is not self:
            if isinstance(layer, ServerErrorMiddleware):
                self._responds_to_errors = True
                _add_headers(layer)
            layer = getattr(layer, "app", None)
        super()._prepare(scope)


def _add_headers(layer: ServerErrorMiddleware) -> None:
    """Let the error layer of one application add our headers to its responses."""
    error_response, debug_response = layer.error_response, layer.debug_response
    handler: Any = layer.handler

    def tagged(request: Request, response: Any) -> Any:
        return asgi.with_session(response, request.scope)

    def respond_to_error(request: Request, exc: Exception) -> Any:
        return tagged(request, error_response(request, exc))

    def respond_in_debug(request: Request, exc: Exception) -> Any:
        return tagged(request, debug_response(request, exc))

    async def handle_async(request: Request, exc: Exception) -> Any:
        return tagged(request, await handler(request, exc))

    def handle(request: Request, exc: Exception) -> Any:
        return tagged(request, handler(request, exc))

    # On the object: other applications have layers of their own.
    vars(layer).update(error_response=respond_to_error, debug_response=respond_in_debug)
    if handler is not None:
        layer.handler = handle_async if is_async_callable(handler) else handle


def instrument(
    app: App,
    *,
    client: Noukai | AsyncNoukai,
    carry_threads: bool = True,
    capture_requests: CaptureOption = False,
) -> App:
    """Trace an application from outside all its layers.

    ``app.add_middleware(NoukaiTraceMiddleware, client=...)`` puts the middleware between those that are
    added before and after it. This function puts it around all of them, whenever they are added: their
    calls belong to the session too. If both are used, only the outer one acts.

    Args:
        app: The application; routes and middleware may be added before or after.
        client: The client that fetches recorded sessions, sync or async.
        carry_threads: Carry the scope into threads and thread pools; see
            :func:`noukai_sdk.carry_threads`.
        capture_requests: Store each captured request and its response with its session; as for
            :class:`~noukai_sdk.adapters.asgi.NoukaiTraceMiddleware`.

    Returns:
        ``app`` itself.

    Raises:
        TypeError: ``client`` is not a client, or ``app`` is not a Starlette or FastAPI application.

    Example:
        >>> app = instrument(FastAPI(), client=noukai)  # doctest: +SKIP
    """
    require_client(client)
    if not hasattr(app, "build_middleware_stack"):
        raise TypeError(f"instrument() takes a Starlette or FastAPI application, not {app!r}")
    build = app.build_middleware_stack
    # Made once: a list of headers may be an iterator.
    options: dict[str, Any] = {
        "client": client,
        "carry_threads": carry_threads,
        "capture_requests": capture_options(capture_requests) or False,
    }

    def build_traced() -> ASGIApp:
        return NoukaiTraceMiddleware(build(), **options)

    # Starlette has no hook outside its error layer, so this application's own method is replaced.
    app.build_middleware_stack = build_traced  # type: ignore[method-assign]  # see above
    if app.middleware_stack is not None:
        app.middleware_stack = NoukaiTraceMiddleware(app.middleware_stack, **options)
    return app
