"""A Quart app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import quart

from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from tests.suite import async_routes, sync_routes
from tests.suite.calls import Calls, Clients
from tests.suite.streams import frame, idle

clients = Clients()
app = quart.Quart(__name__)
app.asgi_app = NoukaiTraceMiddleware(  # type: ignore[method-assign]  # as Quart documents it
    app.asgi_app, client=clients.asynchronous, capture_requests=True
)


def calls_of(request: Any) -> Calls:
    return Calls(clients, request.args["user"], request.headers.get("X-Edit"))


@app.get("/idle")
async def is_idle() -> Any:
    return quart.jsonify(idle())


@app.get("/a/<name>")
async def async_route(name: str) -> Any:
    return await calls_of(quart.request).aserve(async_routes.ROUTES[name])


@app.get("/s/<name>")
def sync_route(name: str) -> Any:
    return calls_of(quart.request).serve(sync_routes.ROUTES[name])


@app.get("/background")
async def background() -> Any:
    calls = calls_of(quart.request)
    content = calls.response(await calls.aplan(), None)
    app.add_background_task(calls.aask, "last@0.05")
    return content


@app.get("/events")
async def events() -> Any:
    calls = calls_of(quart.request)

    async def frames() -> AsyncIterator[bytes]:
        yield frame(calls.response(await calls.aplan(), None))
        async for event in calls.aevents("last"):
            yield frame(event)

    return frames(), 200, {"Content-Type": "text/event-stream"}


@app.websocket("/socket")
async def socket() -> None:
    calls = calls_of(quart.websocket)
    await quart.websocket.accept()
    await quart.websocket.send_json(calls.response(await calls.aplan(), None))
    while (message := await quart.websocket.receive()) != "bye":
        await quart.websocket.send_json(await calls.aask(message))
    await quart.websocket.send_json(await calls.aask("last"))
