"""A spelling grader on FastAPI. Every request to it can be run again with no model call.

Reads NOUKAI_API_KEY and NOUKAI_ENV; NOUKAI_REPLAY_ENABLED=true lets it replay.
"""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel
from sqlalchemy import make_url
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

import noukai_sdk
from example_apps import school
from example_apps.weather import TOOLS, answer_tools
from noukai_sdk import APITimeoutError, AsyncNoukai, NoukaiError, RateLimitError
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

noukai = AsyncNoukai(org="acme", project="spelling")
database = create_async_engine(make_url(school.DATABASE).set(drivername="sqlite+aiosqlite"))
web = httpx.AsyncClient(base_url=school.URL)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    await noukai.aclose()
    await web.aclose()
    await database.dispose()


app = FastAPI(title="Spelling grader", lifespan=lifespan)
app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)


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


@app.post("/pupils/{pupil_id}/essays")
async def grade_pupil(pupil_id: int, essay: Essay) -> dict[str, Any]:
    """Grade the essay of a pupil by the rules of the school. A replay needs no database and no network."""
    pupil, rules = await asyncio.gather(find_pupil(pupil_id), find_rules())
    if pupil is None:
        raise HTTPException(404, "no such pupil")
    result = await noukai.flow("grade-3").execute(
        message=essay.text, parameters={"level": pupil.level, "hints": rules.hints}
    )
    grade_id, graded_at = noukai_sdk.uuid4(), noukai_sdk.now()
    await store_grade(grade_id, pupil_id, graded_at, str(result.result))
    return {
        "id": grade_id,
        "pupil": pupil.name,
        "rules": rules.version,
        "graded_at": graded_at,
        "grade": result.result,
    }


@noukai_sdk.recorded
async def find_pupil(pupil_id: int) -> school.Pupil | None:
    async with AsyncSession(database) as session:
        row = await session.get(school.PupilRow, pupil_id)
        return None if row is None else school.Pupil(row.name, row.level)


async def find_rules() -> school.Rules:
    try:
        return await fetch_rules()
    except httpx.HTTPError:
        return school.NO_RULES


@noukai_sdk.recorded
async def fetch_rules() -> school.Rules:
    response = await web.get("/rules")
    return school.Rules.model_validate(response.raise_for_status().json())


@noukai_sdk.recorded
async def store_grade(grade_id: UUID, pupil_id: int, graded_at: datetime, grade: str) -> None:
    row = school.GradeRow(id=grade_id, pupil_id=pupil_id, graded_at=graded_at, grade=grade)
    async with AsyncSession(database) as session, session.begin():
        session.add(row)


@app.exception_handler(NoukaiError)
async def noukai_failed(request: Request, error: NoukaiError) -> JSONResponse:
    status = {RateLimitError: 429, APITimeoutError: 504}.get(type(error), 502)
    return JSONResponse(problem(error), status)


def problem(error: NoukaiError) -> dict[str, Any]:
    """Describe an SDK error to our own callers: without its message, with the id for support."""
    return {"error": error.code or type(error).__name__, "request_id": error.request_id}
