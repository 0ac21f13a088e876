"""A stand-in for the service: runs every flow at once, and records sessions as docs/wire.md has them."""

from __future__ import annotations

import json
import threading
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

STEPS = ("draft", "final")


class Service:
    """Attributes:

    calls: Every flow call that came, as (session id, slug, message): what a model would be paid for.
    fetched: Every session that was asked for.
    refusals: Session ids that are answered with this status, whatever they hold.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, str, str]] = []
        self.fetched: list[str] = []
        self.refusals: dict[str, int] = {}
        self.capture_mode = "full"
        self._sessions: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()
        flow = "/api/v1/seq/{org}/{project}/{slug}"
        self.app = Starlette(
            routes=[
                Route("/api/v1/seq/sessions/{id}", self.session),
                Route(flow + "/execute", self.execute, methods=["POST"]),
                Route(flow + "/step", self.step, methods=["POST"]),
            ]
        )

    async def execute(self, request: Request) -> Response:
        body = await request.json()
        result = f"{request.path_params['slug']}: {body['message']}"
        execution = self._record(request, "execute", body, result)
        return JSONResponse({"status": "completed", "result": result, **execution})

    async def step(self, request: Request) -> Response:
        body = await request.json()
        result = f"{request.path_params['slug']}: {body['message']}"
        execution = self._record(request, "step", body, result)
        return StreamingResponse(self._frames(execution, result), media_type="text/event-stream")

    def _frames(self, execution: dict[str, Any], result: str) -> Iterator[str]:
        events = [{"eventType": "run_started", **execution}]
        for index, name in enumerate(STEPS):
            output = result if name == STEPS[-1] else name
            events.append({"eventType": "step_started", "stepId": name, "stepIndex": index})
            events.append({"eventType": "step_completed", "stepId": name, "output": output})
        events.append({"eventType": "flow_completed", "result": result})
        for event in events:
            yield f"data: {json.dumps(event)}\n\n"

    def _record(self, request: Request, kind: str, body: Any, result: str) -> dict[str, Any]:
        slug = request.path_params["slug"]
        session = request.headers.get("x-session-id")
        with self._lock:
            self.calls.append((session, slug, body["message"]))
            number = len(self.calls)
            now = datetime.now(timezone.utc).isoformat()
            execution = {"executionId": f"exec-{number}", "flowId": f"flow-{slug}"}
            outputs = [*STEPS[:-1], result] if kind == "step" else [result]
            recorded = {
                **execution,
                "slug": slug,
                "triggerType": kind,
                "status": "completed",
                "startedAt": now,
                "completedAt": now,
                "traceCaptureMode": self.capture_mode,
                "snapshotsAvailable": self.capture_mode == "full",
                "steps": [
                    {
                        "stepId": name,
                        "status": "completed",
                        "inputSnapshot": {"message": body["message"]},
                        "outputSnapshot": output,
                    }
                    for name, output in zip(STEPS, outputs, strict=False)
                ],
            }
            self._sessions[session or ""].append(recorded)
        return execution

    async def session(self, request: Request) -> Response:
        session_id = request.path_params["id"]
        self.fetched.append(session_id)
        status = self.refusals.get(session_id)
        if status is None and session_id not in self._sessions:
            status = 404
        if status is not None:
            detail = {"code": "NO", "message": f"secret of another org, nk_dev {session_id}"}
            return JSONResponse({"detail": detail}, status)
        executions = self._sessions[session_id]
        return JSONResponse({"sessionId": session_id, "executions": executions})
