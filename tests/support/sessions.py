"""Replies of a service that runs every flow and records sessions, as docs/wire.md describes them.

::

    sessions = RecordedSessions()
    service.replies = [sessions]  # tests.support.service.Service
"""

from __future__ import annotations

import threading
from collections import defaultdict
from datetime import datetime, timezone
from typing import Any

from tests.support.service import Reply, Request, Stream, stream

STEPS = ("draft", "final")


class RecordedSessions:
    """A reply for execute, step and session requests. The result of a flow is ``slug: message``.

    Attributes:
        calls: Each flow call as (session id, slug, message): those that a model would be paid for.
        fetched: The id of each session that was fetched.
        refusals: The status for a session id, whatever was recorded.
        sent: What the client has sent about sessions in the background, as (session id, kind, body):
            ``outcomes``, ``exchange`` or ``replays``.
        numbered: Add the number of the call to its result, so that a live call in a replay shows.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str | None, str, str]] = []
        self.fetched: list[str] = []
        self.refusals: dict[str, int] = {}
        self.sent: list[tuple[str, str, Any]] = []
        self.capture_mode = "full"
        self.numbered = False
        self._sessions: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._lock = threading.Lock()

    def __call__(self, request: Request) -> Reply | Stream:
        *_, slug, name = request.path.split("/")
        if slug == "sessions":
            return self._session(name)
        if "/sessions/" in request.path:
            self.sent.append((slug, name, request.body))
            return Reply({})
        message = request.body["message"]
        result = f"{slug}: {message}" + (f" #{len(self.calls) + 1}" if self.numbered else "")
        execution = self._record(request.headers.get("x-session-id"), slug, name, message, result)
        if name == "execute":
            return Reply({"status": "completed", "result": result, **execution})
        events = [{"eventType": "run_started", **execution}]
        for index, step in enumerate(STEPS):
            output = result if step == STEPS[-1] else step
            events.append({"eventType": "step_started", "stepId": step, "stepIndex": index})
            events.append({"eventType": "step_completed", "stepId": step, "output": output})
        return stream(*events, {"eventType": "flow_completed", "result": result})

    def _record(
        self, session_id: str | None, slug: str, kind: str, message: str, result: str
    ) -> dict[str, Any]:
        with self._lock:
            self.calls.append((session_id, slug, message))
            ids = {"executionId": f"exec-{len(self.calls)}", "flowId": f"flow-{slug}"}
            outputs = [*STEPS[:-1], result] if kind == "step" else [result]
            now = datetime.now(timezone.utc).isoformat()
            recorded = {
                **ids,
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
                        "inputSnapshot": {"message": message},
                        "outputSnapshot": output,
                    }
                    for name, output in zip(STEPS, outputs, strict=False)
                ],
            }
            self._sessions[session_id or ""].append(recorded)
        return ids

    def _session(self, session_id: str) -> Reply:
        self.fetched.append(session_id)
        status = self.refusals.get(session_id)
        if status is None and session_id in self._sessions:
            executions = self._sessions[session_id]
            exchanges = [
                sent for id_, kind, sent in self.sent if (id_, kind) == (session_id, "exchange")
            ]
            client_left = any(sent["clientLeft"] for sent in exchanges)
            content = {"sessionId": session_id, "executions": executions, "clientLeft": client_left}
            return Reply(content)
        message = f"secret of another org, nk_dev {session_id}"
        return Reply({"detail": {"code": "NO", "message": message}}, status or 404)
