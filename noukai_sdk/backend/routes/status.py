"""Health, metrics and counters: outside of the contract, without an API key."""

from __future__ import annotations

import hmac

from fastapi import APIRouter, Request, Response

from ..errors import RequestError
from ..metrics import CONTENT_TYPE
from .incoming import service_of
from .responses import json_response

router = APIRouter()


@router.get("/healthz")
async def health() -> Response:
    """Return 200 while the process is up."""
    return json_response({"status": "ok"})


@router.get("/readyz")
async def ready(request: Request) -> Response:
    """Return 200 if this process can do work: its database responds, and it is not about to stop."""
    if request.app.state.is_draining:
        raise RequestError(503, "NOT_READY", "this process is about to stop")
    problem, _ = await service_of(request).store.health.look()
    if problem is not None:
        raise RequestError(503, "NOT_READY", f"the database: {problem}")
    return json_response({"status": "ready"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Return the metrics of this process for Prometheus."""
    service = service_of(request)
    token = service.settings.metrics_token
    if token == "":
        message = "metrics are off: set NOUKAI_METRICS_TOKEN, and send it as bearer token"
        raise RequestError(404, "METRICS_OFF", message)
    sent = request.headers.get("authorization", "")
    if token is not None and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
        headers = {"WWW-Authenticate": 'Bearer realm="noukai"'}
        message = "send the NOUKAI_METRICS_TOKEN of this process as bearer token"
        raise RequestError(401, "UNAUTHENTICATED", message, headers=headers)
    store = service.store
    problem, in_progress = await store.health.look()
    text = request.app.state.metrics.render(
        in_progress, is_up=problem is None, outages=store.outages
    )
    return Response(text, media_type=CONTENT_TYPE)


@router.get("/dev/stats")
async def stats(request: Request) -> Response:
    """Return counters since the start: a replay leaves ``modelCalls`` unchanged."""
    service = service_of(request)
    if service.settings.role != "dev":
        raise RequestError(404, "ROUTE_NOT_FOUND", "GET /dev/stats: only noukai dev has it")
    counters = service.stats
    return json_response({"modelCalls": counters.model_calls, "executions": counters.executions})
