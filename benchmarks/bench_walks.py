"""Count how often one call changes files on its way through the package.

A reader who follows a call opens each of these files, so a lower count is easier to read. A change is a
function entry (``sys.setprofile``) in another file of ``noukai_sdk`` than the entry before it.
``python -m benchmarks.bench_walks`` prints every entry.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from fastapi import FastAPI

import noukai_sdk
from benchmarks.measure import Row
from noukai_sdk import AsyncNoukai, Noukai, trace_scope_sync
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.session import lost_scope

PACKAGE = Path(noukai_sdk.__file__).parent
LIMITS = {"execute": 20, "execute in a replay": 24, "events": 31, "captured FastAPI request": 30}

DONE = {"status": "completed", "result": "x", "flowId": "f", "blockCount": 1, "executionId": "e"}
EVENTS = [
    {"eventType": "run_started", "executionId": "e", "stepCount": 1},
    {"eventType": "step_started", "stepId": "a", "stepIndex": 0},
    {"eventType": "step_completed", "stepId": "a", "output": "x", "stepIndex": 0},
    {"eventType": "flow_completed", "executionId": "e", "result": "x"},
]
SESSION = {
    "sessionId": "s",
    "executions": [
        {
            "executionId": "e",
            "flowId": "f",
            "slug": "grade-3",
            "triggerType": "execute",
            "status": "completed",
            "startedAt": "2026-01-01T00:00:00Z",
            "completedAt": "2026-01-01T00:00:01Z",
            "traceCaptureMode": "full",
            "snapshotsAvailable": True,
            "steps": [
                {
                    "stepId": "a",
                    "attempt": 1,
                    "status": "completed",
                    "inputSnapshot": {"message": "Hello"},
                    "outputSnapshot": "x",
                }
            ],
        }
    ],
}

Entry = tuple[str, str]


def answer(request: httpx.Request) -> httpx.Response:
    """Answer as the service does."""
    path = request.url.path
    if path.endswith("/step"):
        body = "".join(f"data: {json.dumps(event)}\n\n" for event in EVENTS)
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=body)
    return httpx.Response(200, json=SESSION if "/sessions/" in path else DONE)


@contextmanager
def recorded_entries() -> Iterator[list[Entry]]:
    """Collect ``(file, function)`` of every function of the package that this block enters."""
    entries: list[Entry] = []

    def on_event(frame: FrameType, event: str, _: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            entries.append((path.relative_to(PACKAGE).as_posix(), frame.f_code.co_name))

    sys.setprofile(on_event)
    try:
        yield entries
    finally:
        sys.setprofile(None)


def changes(entries: list[Entry]) -> int:
    """Count the entries that are in another file than the one before."""
    files = [file for file, _ in entries]
    return sum(before != after for before, after in itertools.pairwise(files))


def entries_of(call: Callable[[], object]) -> list[Entry]:
    """Collect the entries of ``call``, which has run once before: nothing is loaded any more."""
    call()
    with recorded_entries() as entries:
        call()
    return entries


def walks() -> dict[str, list[Entry]]:
    """Collect the entries of each walk that has a limit."""
    http = httpx.Client(transport=httpx.MockTransport(answer))
    with Noukai(api_key="nk_walk", http_client=http) as client:
        flow = client.flow("acme/spelling/grade-3")
        found = {
            "execute": entries_of(lambda: flow.execute(message="Hello")),
            "events": entries_of(lambda: list(flow.events(message="Hello"))),
        }
        for _ in range(2):
            with (
                trace_scope_sync(client=client, replay_session_id="s"),
                recorded_entries() as entries,
            ):
                flow.execute(message="Hello")
        found["execute in a replay"] = entries
    found["captured FastAPI request"] = asyncio.run(captured_request())
    return found


async def captured_request() -> list[Entry]:
    """Collect the entries of a request to a FastAPI app that executes one flow."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncNoukai(api_key="nk_walk", http_client=http)
    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=client)

    @app.post("/grade")
    async def grade() -> dict[str, Any]:
        result = await client.flow("acme/spelling/grade-3").execute(message="Hello")
        return {"output": result.result}

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as caller:
        await caller.post("/grade")
        with recorded_entries() as entries:
            await caller.post("/grade")
    return entries


def run() -> Iterator[Row]:
    os.environ["NOUKAI_REPLAY_ENABLED"] = "true"
    # Set by the other benchmarks in this process, which serve apps.
    lost_scope.requests.served = False
    for name, entries in walks().items():
        yield Row(f"{name}: changes of file", changes(entries), LIMITS[name], "changes")


def main() -> None:
    """Print each walk, entry by entry."""
    os.environ["NOUKAI_REPLAY_ENABLED"] = "true"
    for name, entries in walks().items():
        print(f"{name}: {changes(entries)} changes of file (limit {LIMITS[name]})")
        for file, function in entries:
            print(f"  {file:36} {function}")


if __name__ == "__main__":
    main()
