"""An app that uses typed results, tools, streams, options and lists, checked strictly and never run."""
# pyright: strict

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import httpx
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from noukai_sdk import (
    AsyncNoukai,
    FlowNotFoundError,
    NotSupportedError,
    Noukai,
    OutputError,
    SessionFilter,
    SessionNotFoundError,
    ToolCall,
    current_session_id,
    log_context,
    tool,
    trace,
    trace_scope,
)
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware


class Grade(BaseModel):
    grade: int
    comment: str = ""


def log_handler(event: dict[str, object]) -> None:
    logger.debug("%s %s", event["phase"], event["path"])


@tool
async def look_up(
    word: Annotated[str, Field(description="in lower case")], language: Literal["en", "de"] = "en"
) -> list[str]:
    """Return the meanings of a word."""
    return [word, language]


@tool(name="count", description="Count the words of a text.")
def count_words(text: str) -> int:
    return len(text.split())


def answer(tool_calls: list[ToolCall]) -> list[dict[str, str]]:
    return [{"tool_call_id": call["id"], "output": call["function"]["name"]} for call in tool_calls]


handler = logging.StreamHandler()
handler.addFilter(SessionFilter(default="-"))
logger = logging.getLogger("app")
logger.addHandler(handler)

noukai = AsyncNoukai(
    org="acme",
    project="spelling",
    timeout=httpx.Timeout(60.0, connect=5.0),
    default_headers={"X-Team": "spelling"},
    log_handler=log_handler,
    otel_steps=True,
    otel_payloads=False,
)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    async with noukai:
        yield


app = FastAPI(lifespan=lifespan)
app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)


@app.post("/grade")
@trace
async def grade(text: str) -> Grade:
    flow = noukai.with_options(max_retries=0, extra_headers={"X-Route": "grade"}).flow("grade-3")
    try:
        result = await flow.execute(
            text,
            response_model=Grade,
            tools=[look_up, count_words, {"type": "function", "function": {"name": "other"}}],
            tool_handler=answer,
            idempotency_key="order-17",
        )
    except OutputError as error:
        logger.warning("not a grade: %s", error.text, extra=log_context())
        return Grade(grade=0)
    if result.tokens is not None and result.steps is not None:
        logger.info(
            "%s tokens, $%s, %d steps", result.tokens.total, result.cost_usd, len(result.steps)
        )
    return result.output


@app.get("/grade/stream")
async def stream(text: str) -> StreamingResponse:
    async def chunks() -> AsyncIterator[str]:
        async with noukai.flow("grade-3").events(text, run_remaining=True) as events:
            async for chunk in events.text_stream:
                yield chunk
            total = (await events.final_result()).tokens
            yield f"\n{total.total if total else 0}"

    return StreamingResponse(chunks(), media_type="text/plain")


@app.get("/sessions/{session_id}")
async def session(session_id: str) -> dict[str, int | str | None]:
    try:
        found = await noukai.sessions.get(session_id)
    except SessionNotFoundError:
        return {"current": current_session_id()}
    return {"calls": len(found.executions)}


async def clean_up() -> list[str]:
    deleted: list[str] = []
    async for each in noukai.sessions.list(since="7d", status="failed"):
        await noukai.sessions.delete(each.session_id)
        deleted.append(each.session_id)
    return deleted


def report() -> list[str]:
    with Noukai() as client:
        raw = client.flow("acme/spelling/grade-3").with_raw_response.execute(
            "hi", response_model=Grade
        )
        lines = [f"{raw.status_code} {raw.headers['content-type']} {raw.request_id}"]
        lines.append(str(raw.parsed.output.grade))
        lines += client.flow("acme/samples/hello-world").execute("hi").result.split()
        job = client.flow("acme/spelling/grade-3").execute_async("hi", response_model=Grade)
        lines.append(job.wait(timeout=60.0).output.comment)
        try:
            lines += [flow.slug for flow in client.flows.list(q="grade")]
        except (NotSupportedError, FlowNotFoundError) as error:
            lines.append(str(error))
        return lines


async def replay(session_id: str) -> int:
    async with trace_scope(client=noukai, replay_session_id=session_id) as scope:
        await grade("The cat sat.")
    return len(scope.report.hits) if scope.report else 0
