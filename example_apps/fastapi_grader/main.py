"""A spelling grader on FastAPI. Every request to it can be run again with no model call.

Reads NOUKAI_API_KEY and NOUKAI_ENV; NOUKAI_REPLAY_ENABLED=true lets it replay.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

import noukai_sdk
from example_apps.weather import TOOLS, answer_tools
from noukai_sdk import APITimeoutError, AsyncNoukai, NoukaiError, RateLimitError
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

noukai = AsyncNoukai(org="acme", project="spelling")


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await noukai.aclose()


app = FastAPI(title="Spelling grader", lifespan=lifespan)
app.add_middleware(NoukaiTraceMiddleware, client=noukai)


class Essay(BaseModel):
    text: str


class Essays(BaseModel):
    texts: list[str]


class Question(BaseModel):
    question: str


@app.post("/grade")
@noukai_sdk.trace
async def grade(essay: Essay) -> dict[str, Any]:
    result = await noukai.flow("grade-3").execute(message=essay.text)
    return {"grade": result.result}


@app.post("/grade/stream")
@noukai_sdk.trace
async def grade_stream(essay: Essay) -> StreamingResponse:
    return StreamingResponse(grading(essay.text), media_type="text/event-stream")


async def grading(text: str) -> AsyncIterator[str]:
    """Yield each step as it finishes, then the grade, as server-sent events."""
    try:
        async for event in noukai.flow("grade-3").events(message=text):
            match event.type:
                case "step_completed":
                    yield sse("step", {"step": event.step_id, "output": event.output})
                case "step_error":
                    yield sse("error", {"error": "the grader failed"})
                case "flow_completed":
                    yield sse("grade", {"grade": event.result})
    except NoukaiError as error:
        yield sse("error", problem(error))


def sse(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


@app.post("/grade/many")
@noukai_sdk.trace
async def grade_many(essays: Essays) -> dict[str, Any]:
    flow = noukai.flow("grade-3")
    results = await asyncio.gather(*(flow.execute(message=text) for text in essays.texts))
    return {"grades": [result.result for result in results]}


@app.post("/weather")
@noukai_sdk.trace
async def weather(question: Question) -> dict[str, Any]:
    result = await noukai.flow("acme/samples/weather").execute(
        message=question.question, tools=TOOLS, tool_handler=answer_tools
    )
    return {"answer": result.result}


@app.exception_handler(NoukaiError)
async def noukai_failed(request: Request, error: NoukaiError) -> JSONResponse:
    status = {RateLimitError: 429, APITimeoutError: 504}.get(type(error), 502)
    return JSONResponse(problem(error), status)


def problem(error: NoukaiError) -> dict[str, Any]:
    """Describe an SDK error to our own callers: without its message, with the id for support."""
    return {"error": error.code or type(error).__name__, "request_id": error.request_id}
