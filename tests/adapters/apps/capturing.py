"""Applications that capture their requests. Served by uvicorn and gunicorn in the tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from io import BytesIO
from typing import Any

import flask
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from noukai_sdk import AsyncNoukai, Noukai
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.adapters.flask import init_noukai_trace

noukai = AsyncNoukai(org="acme", project="spelling")
sync_noukai = Noukai(org="acme", project="spelling")

on_fastapi = FastAPI()
on_fastapi.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=["X-Tenant"])

on_flask = flask.Flask(__name__)
init_noukai_trace(on_flask, client=sync_noukai, capture_requests=["X-Tenant"])


@on_fastapi.post("/grade/{name}")
async def grade(name: str, body: dict[str, str]) -> dict[str, Any]:
    result = await noukai.flow("grade-3").execute(message=body["text"])
    return {"output": result.result, "name": name, "password": body.get("password")}


@on_flask.post("/grade/<name>")
def flask_grade(name: str) -> dict[str, Any]:
    body = flask.request.get_json()
    result = sync_noukai.flow("grade-3").execute(message=body["text"])
    return {"output": result.result, "name": name, "password": body.get("password")}


@on_fastapi.post("/count")
async def count(request: Request) -> dict[str, int]:
    return {"size": sum([len(part) async for part in request.stream()])}


@on_flask.post("/count")
def flask_count() -> dict[str, int]:
    return {"size": sum(iter(lambda: len(flask.request.stream.read(65_536)), 0))}


@on_fastapi.post("/unread")
async def unread() -> dict[str, bool]:
    return {"ok": True}


@on_flask.post("/unread")
def flask_unread() -> dict[str, bool]:
    return {"ok": True}


@on_fastapi.get("/stream")
async def stream() -> StreamingResponse:
    async def parts() -> AsyncIterator[bytes]:
        for number in range(3):
            yield f"data: {number}\n\n".encode()

    return StreamingResponse(parts(), media_type="text/event-stream")


@on_flask.get("/stream")
def flask_stream() -> flask.Response:
    parts = (f"data: {number}\n\n" for number in range(3))
    return flask.Response(parts, mimetype="text/event-stream")


@on_fastapi.get("/boom")
async def boom() -> None:
    raise KeyError("mine")


@on_flask.get("/boom")
def flask_boom() -> None:
    raise KeyError("mine")


@on_flask.get("/file")
def flask_file() -> flask.Response:
    return flask.send_file(BytesIO(b"a file"), mimetype="text/plain")


@on_fastapi.websocket("/ws")
async def talk(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text(await websocket.receive_text())
    await websocket.close()
