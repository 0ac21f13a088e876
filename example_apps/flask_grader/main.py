"""A spelling grader on Flask. Every request to it can be run again with no model call.

Reads NOUKAI_API_KEY and NOUKAI_ENV; NOUKAI_REPLAY_ENABLED=true lets it replay.
"""

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from uuid import UUID

import httpx
from flask import Flask, Response, abort, request
from pydantic import BaseModel, ValidationError
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

import noukai_sdk
from example_apps import school
from example_apps.weather import TOOLS, answer_tools
from noukai_sdk import (
    APITimeoutError,
    ContextThreadPoolExecutor,
    Noukai,
    NoukaiError,
    RateLimitError,
)
from noukai_sdk.adapters.flask import init_noukai_trace

noukai = Noukai(org="acme", project="spelling")
database = create_engine(school.DATABASE)
web = httpx.Client(base_url=school.URL)

app = Flask(__name__)
init_noukai_trace(app, client=noukai, capture_requests=True)


class Essay(BaseModel):
    text: str


class Essays(BaseModel):
    texts: list[str]


class Question(BaseModel):
    question: str


@app.post("/grade")
def grade() -> dict[str, Any]:
    essay = Essay.model_validate(request.get_json())
    return {"grade": grade_text(essay.text)}


def grade_text(text: str) -> Any:
    return noukai.flow("grade-3").execute(message=text).result


@app.post("/grade/stream")
def grade_stream() -> Response:
    essay = Essay.model_validate(request.get_json())
    return Response(grading(essay.text), mimetype="text/event-stream")


def grading(text: str) -> Iterator[str]:
    """Yield each step as it finishes, then the grade, as server-sent events."""
    try:
        for event in noukai.flow("grade-3").events(message=text):
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
def grade_many() -> dict[str, Any]:
    essays = Essays.model_validate(request.get_json())
    # The threads of a plain ThreadPoolExecutor would not know the request's session.
    with ContextThreadPoolExecutor(max_workers=8) as pool:
        return {"grades": list(pool.map(grade_text, essays.texts))}


@app.post("/weather")
def weather() -> dict[str, Any]:
    question = Question.model_validate(request.get_json())
    result = noukai.flow("acme/samples/weather").execute(
        message=question.question, tools=TOOLS, tool_handler=answer_tools
    )
    return {"answer": result.result}


@app.post("/pupils/<int:pupil_id>/essays")
def grade_pupil(pupil_id: int) -> dict[str, Any]:
    """Grade the essay of a pupil by the rules of the school. A replay needs no database and no network."""
    essay = Essay.model_validate(request.get_json())
    with ContextThreadPoolExecutor() as pool:
        found = pool.submit(find_pupil, pupil_id)
        rules = find_rules()
        pupil = found.result()
    if pupil is None:
        abort(404, "no such pupil")
    result = noukai.flow("grade-3").execute(
        message=essay.text, parameters={"level": pupil.level, "hints": rules.hints}
    )
    grade_id, graded_at = noukai_sdk.uuid4(), noukai_sdk.now()
    store_grade(grade_id, pupil_id, graded_at, str(result.result))
    return {
        "id": grade_id,
        "pupil": pupil.name,
        "rules": rules.version,
        "graded_at": graded_at.isoformat(),
        "grade": result.result,
    }


@noukai_sdk.recorded
def find_pupil(pupil_id: int) -> school.Pupil | None:
    with Session(database) as session:
        row = session.get(school.PupilRow, pupil_id)
        return None if row is None else school.Pupil(row.name, row.level)


def find_rules() -> school.Rules:
    try:
        return fetch_rules()
    except httpx.HTTPError:
        return school.NO_RULES


@noukai_sdk.recorded
def fetch_rules() -> school.Rules:
    response = web.get("/rules")
    return school.Rules.model_validate(response.raise_for_status().json())


@noukai_sdk.recorded
def store_grade(grade_id: UUID, pupil_id: int, graded_at: datetime, grade: str) -> None:
    row = school.GradeRow(id=grade_id, pupil_id=pupil_id, graded_at=graded_at, grade=grade)
    with Session(database) as session, session.begin():
        session.add(row)


@app.errorhandler(NoukaiError)
def noukai_failed(error: NoukaiError) -> tuple[dict[str, Any], int]:
    status = {RateLimitError: 429, APITimeoutError: 504}.get(type(error), 502)
    return problem(error), status


def problem(error: NoukaiError) -> dict[str, Any]:
    """Describe an SDK error to our own callers: without its message, with the id for support."""
    return {"error": error.code or type(error).__name__, "request_id": error.request_id}


@app.errorhandler(ValidationError)
def wrong_body(error: ValidationError) -> tuple[dict[str, Any], int]:
    return {"detail": error.errors(include_url=False, include_context=False)}, 422
