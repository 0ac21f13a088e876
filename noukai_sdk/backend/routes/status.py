"""Health and counters: outside of the contract, without an API key."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from .incoming import service_of
from .responses import json_response

router = APIRouter()


@router.get("/healthz")
async def health() -> Response:
    """Return 200 while the backend is up."""
    return json_response({"status": "ok"})


@router.get("/dev/stats")
async def stats(request: Request) -> Response:
    """Return counters since the start: a replay leaves ``modelCalls`` unchanged."""
    counters = service_of(request).stats
    return json_response({"modelCalls": counters.model_calls, "executions": counters.executions})
