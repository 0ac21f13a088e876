"""The FastAPI example of the README, with more routes. Served by uvicorn in the tests."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from typing import Any

from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

import noukai_sdk
from noukai_sdk import AsyncNoukai, Noukai
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware, instrument

noukai = AsyncNoukai(org="acme", project="spelling")
sync_noukai = Noukai(org="acme", project="spelling")
closed = 0

app = FastAPI()
if os.environ.get("TEST_INSTRUMENT"):
    instrument(app, client=noukai)
else:
    app.add_middleware(NoukaiTraceMiddleware, client=noukai)


@app.post("/grade")
@noukai_sdk.trace
async def grade(req: Request) -> dict:  # type: ignore[type-arg]  # as the README has it
    body = await req.json()
    result = await noukai.flow("grade-3").execute(message=body["text"])
    return {"output": result.result}


@app.post("/sync")
@noukai_sdk.trace
def sync(body: dict[str, str]) -> dict[str, Any]:
    result = sync_noukai.flow("grade-3").execute(message=body["text"])
    return {"output": result.result}


@app.post("/stream")
@noukai_sdk.trace
async def stream(req: Request) -> StreamingResponse:
    body = await req.json()
    return StreamingResponse(grading(body["text"]), media_type="text/plain")


async def grading(text: str) -> AsyncIterator[str]:
    async for step in noukai.flow("grade-3").steps(message=text):
        yield f"{step.step_id}: {step.output}\n"


@app.post("/sync-stream")
def sync_stream(body: dict[str, str]) -> StreamingResponse:
    return StreamingResponse(sync_grading(body["text"]), media_type="text/plain")


@noukai_sdk.trace
def sync_grading(text: str) -> Iterator[str]:
    for step in sync_noukai.flow("grade-3").steps(message=text):
        yield f"{step.step_id}: {step.output}\n"


@app.post("/gather")
@noukai_sdk.trace
async def gather(req: Request) -> list[Any]:
    text = (await req.json())["text"]
    slugs = ["grade-1", "grade-2", "grade-3"]
    calls = [noukai.flow(slug).execute(message=f"{text} {slug}") for slug in slugs]
    return [result.result for result in await asyncio.gather(*calls)]


@app.get("/calls/{count}")
async def calls(count: int) -> list[Any]:
    flow = noukai.flow("grade-3")
    return [(await flow.execute(message=f"text {number}")).result for number in range(count)]


@app.get("/fails")
async def fails() -> None:
    raise KeyError("mine")


@app.get("/endless")
async def endless() -> StreamingResponse:
    return StreamingResponse(endless_parts(), media_type="text/plain")


@noukai_sdk.trace
async def endless_parts() -> AsyncIterator[str]:
    global closed
    result = await noukai.flow("grade-3").execute(message="endless")
    try:
        while True:
            yield f"{result.result}\n"
            await asyncio.sleep(0.001)
    finally:
        closed += 1


@app.get("/closed")
async def count_closed() -> int:
    return closed


@app.websocket("/socket")
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    text = await websocket.receive_text()
    result = await noukai.flow("grade-3").execute(message=text)
    await websocket.send_text(result.result)
    await websocket.close()
