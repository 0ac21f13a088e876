"""Outside of the contract: is it up, and how much did it do. No key needed."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from .incoming import json_answer, service_of

router = APIRouter()


@router.get("/healthz")
async def health() -> Response:
    """Whether the backend answers."""
    return json_answer({"status": "ok"})


@router.get("/dev/stats")
async def stats(request: Request) -> Response:
    """Counters since the start: a replay leaves ``modelCalls`` as it was."""
    counted = service_of(request).stats
    return json_answer({"modelCalls": counted.model_calls, "executions": counted.executions})
