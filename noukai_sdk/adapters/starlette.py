"""Trace and replay Starlette applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from .asgi import NoukaiTraceMiddleware
from .captured import capture_options
from .responses import HEADER_REPLAY, HEADER_REPLAY_REPORT, HEADER_RESPONSE_SESSION, require_client

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.types import ASGIApp

    from ..client import AsyncNoukai, Noukai
    from .captured import CaptureOption

__all__ = [
    "HEADER_REPLAY",
    "HEADER_REPLAY_REPORT",
    "HEADER_RESPONSE_SESSION",
    "NoukaiTraceMiddleware",
    "instrument",
]

App = TypeVar("App", bound="Starlette")


def instrument(
    app: App,
    *,
    client: Noukai | AsyncNoukai,
    carry_threads: bool = True,
    capture_requests: CaptureOption = False,
) -> App:
    """Trace an application from outside all its layers.

    ``app.add_middleware(NoukaiTraceMiddleware, client=...)`` puts the middleware inside the layer
    that responds to unhandled exceptions, so those 500s carry no ``X-Noukai-Session``. This function
    puts it around that layer too. If both are used, only the outer one acts.

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
