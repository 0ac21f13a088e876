"""A Litestar app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from litestar import Litestar, Request, WebSocket, get, websocket
from litestar.background_tasks import BackgroundTask
from litestar.di import Provide
from litestar.response import Response, Stream

from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from tests.suite import async_routes, sync_routes
from tests.suite.calls import Calls, Clients
from tests.suite.streams import frame, idle

clients = Clients()


def calls_of(connection: Any) -> Calls:
    return Calls(clients, connection.query_params["user"], connection.headers.get("x-edit"))


@get("/idle", sync_to_thread=False)
def is_idle() -> bool:
    return idle()


@get("/a/{name:str}")
async def async_route(request: Request[Any, Any, Any], name: str) -> dict[str, Any]:
    return await calls_of(request).aserve(async_routes.ROUTES[name])


@get("/s/{name:str}", sync_to_thread=True)
def sync_route(request: Request[Any, Any, Any], name: str) -> dict[str, Any]:
    return calls_of(request).serve(sync_routes.ROUTES[name])


@get("/background")
async def background(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    calls = calls_of(request)
    content = calls.response(await calls.aplan(), None)
    return Response(content, background=BackgroundTask(calls.aask, "last@0.05"))


async def asking(request: Request[Any, Any, Any]) -> AsyncIterator[Any]:
    calls = calls_of(request)
    yield await calls.aask("before")
    await calls.aask("last")


@get("/dependencies", dependencies={"before": Provide(asking)})
async def dependencies(request: Request[Any, Any, Any], before: Any) -> dict[str, Any]:
    calls = calls_of(request)
    return calls.response(await calls.aplan(), before)


@get("/events")
async def events(request: Request[Any, Any, Any]) -> Stream:
    calls = calls_of(request)

    async def frames() -> AsyncIterator[bytes]:
        yield frame(calls.response(await calls.aplan(), None))
        async for event in calls.aevents("last"):
            yield frame(event)

    return Stream(frames(), media_type="text/event-stream")


@websocket("/socket")
async def socket(socket: WebSocket[Any, Any, Any]) -> None:
    calls = calls_of(socket)
    await socket.accept()
    await socket.send_json(calls.response(await calls.aplan(), None))
    while (message := await socket.receive_text()) != "bye":
        await socket.send_json(await calls.aask(message))
    await socket.send_json(await calls.aask("last"))
    await socket.close()


app = NoukaiTraceMiddleware(
    Litestar(
        [is_idle, async_route, sync_route, background, dependencies, events, socket],
        # Without this the app asks a thread to write its log.
        logging_config=None,
    ),
    client=clients.asynchronous,
    capture_requests=True,
)
