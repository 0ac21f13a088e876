"""A FastAPI app. ``SUITE_OUTSIDE=1`` puts a BaseHTTPMiddleware outside of ours."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from typing import Annotated, Any

from fastapi import BackgroundTasks, Depends, FastAPI, Header, Request, WebSocket
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.responses import JSONResponse, Response, StreamingResponse

from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware, instrument
from tests.suite import async_routes, sync_routes
from tests.suite.calls import Calls, Clients
from tests.suite.streams import frame, idle

clients = Clients()
app = FastAPI()
sub_app = FastAPI()


def calls_of(user: str, x_edit: Annotated[str | None, Header()] = None) -> Calls:
    return Calls(clients, user, x_edit)


CallsOf = Annotated[Calls, Depends(calls_of)]


class Transparent(BaseHTTPMiddleware):
    """Change nothing: BaseHTTPMiddleware runs the app in a task of its own."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


class CallsInside(BaseHTTPMiddleware):
    """Make a call before and after the route ``/inside``."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if request.url.path != "/inside":
            return await call_next(request)
        calls = calls_of(request.query_params["user"], request.headers.get("x-edit"))
        before = await calls.aask("before")
        response = await call_next(request)
        content = b"".join([part async for part in response.body_iterator])  # type: ignore[attr-defined]  # its type is known here
        after = await calls.aask("last")
        return JSONResponse([before, content.decode(), after])


app.add_middleware(CallsInside)
if os.environ.get("SUITE_OUTSIDE"):
    app.add_middleware(NoukaiTraceMiddleware, client=clients.asynchronous, capture_requests=True)
    app.add_middleware(Transparent)
else:
    instrument(app, client=clients.asynchronous, capture_requests=True)


@app.get("/idle")
async def is_idle() -> bool:
    return idle()


@app.get("/a/{name}")
async def async_route(name: str, calls: CallsOf) -> Any:
    return await calls.aserve(async_routes.ROUTES[name])


@app.get("/s/{name}")
def sync_route(name: str, calls: CallsOf) -> Any:
    return calls.serve(sync_routes.ROUTES[name])


@app.get("/inside")
async def inside(calls: CallsOf) -> Any:
    return calls.response(await calls.aplan(), None)


@app.get("/background")
async def background(calls: CallsOf, tasks: BackgroundTasks) -> Any:
    tasks.add_task(calls.ask, "in a thread")
    tasks.add_task(calls.aask, "last@0.05")
    return calls.response(await calls.aplan(), None)


async def asking(calls: CallsOf) -> AsyncIterator[Any]:
    yield await calls.aask("before")
    await calls.aask("last")


def asking_in_thread(calls: CallsOf) -> Iterator[Any]:
    yield calls.ask("before, in a thread")
    calls.ask("after, in a thread")


@app.get("/dependencies")
async def dependencies(
    calls: CallsOf,
    before: Annotated[Any, Depends(asking)],
    in_thread: Annotated[Any, Depends(asking_in_thread)],
) -> Any:
    return calls.response(await calls.aplan(), [before, in_thread])


@app.get("/events")
async def events(calls: CallsOf) -> StreamingResponse:
    async def frames() -> AsyncIterator[bytes]:
        yield frame(calls.response(await calls.aplan(), None))
        async for event in calls.aevents("last"):
            yield frame(event)

    return StreamingResponse(frames(), media_type="text/event-stream")


@app.get("/sync-events")
def sync_events(calls: CallsOf) -> StreamingResponse:
    def frames() -> Iterator[bytes]:
        yield frame(calls.response(calls.plan(), None))
        yield from map(frame, calls.events("last"))

    return StreamingResponse(frames(), media_type="text/event-stream")


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    calls = calls_of(websocket.query_params["user"], websocket.headers.get("x-edit"))
    await websocket.accept()
    await websocket.send_json(calls.response(await calls.aplan(), None))
    while (message := await websocket.receive_text()) != "bye":
        await websocket.send_json(await calls.aask(message))
    await websocket.send_json(await calls.aask("last"))
    await websocket.close()


@sub_app.get("/plain")
async def plain_in_sub_app(calls: CallsOf) -> Any:
    return await calls.aserve(async_routes.plain)


sub_app.add_middleware(NoukaiTraceMiddleware, client=clients.asynchronous, capture_requests=True)
app.mount("/sub", sub_app)
