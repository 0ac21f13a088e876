"""A Django project in one file, as an ASGI and as a WSGI app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import django
from django.conf import settings
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse

if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="not secret", DEBUG=False
    )
    django.setup()

from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.urls import path

from noukai_sdk.adapters import asgi, wsgi
from tests.suite import async_routes, sync_routes
from tests.suite.calls import Calls, Clients
from tests.suite.streams import frame, idle

clients = Clients()


def calls_of(request: HttpRequest) -> Calls:
    return Calls(clients, request.GET["user"], request.headers.get("X-Edit"))


def is_idle(_: HttpRequest) -> JsonResponse:
    return JsonResponse(idle(), safe=False)


def sync_route(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse(calls_of(request).serve(sync_routes.ROUTES[name]))


async def async_route(request: HttpRequest, name: str) -> JsonResponse:
    return JsonResponse(await calls_of(request).aserve(async_routes.ROUTES[name]))


def sync_events(request: HttpRequest) -> StreamingHttpResponse:
    calls = calls_of(request)

    def frames() -> Iterator[bytes]:
        yield frame(calls.response(calls.plan(), None))
        yield from map(frame, calls.events("last"))

    return StreamingHttpResponse(frames(), content_type="text/event-stream")


async def events(request: HttpRequest) -> StreamingHttpResponse:
    calls = calls_of(request)

    async def frames() -> AsyncIterator[bytes]:
        yield frame(calls.response(await calls.aplan(), None))
        async for event in calls.aevents("last"):
            yield frame(event)

    return StreamingHttpResponse(frames(), content_type="text/event-stream")


urlpatterns: list[Any] = [
    path("idle", is_idle),
    path("s/<name>", sync_route),
    path("a/<name>", async_route),
    path("events", events),
    path("sync-events", sync_events),
]

asgi_app = asgi.NoukaiTraceMiddleware(
    get_asgi_application(), client=clients.asynchronous, capture_requests=True
)
wsgi_app = wsgi.NoukaiTraceMiddleware(
    get_wsgi_application(), client=clients.sync, capture_requests=True
)
