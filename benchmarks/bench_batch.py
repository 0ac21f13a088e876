"""Measure ``noukai sessions replay`` with 200 sessions of five calls, and one ``noukai session replay``.

Both are commands as users run them: Python starts, the sessions come from a local service, and the app is
imported. So a session in the batch takes a small part of the time that it takes alone.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI

from benchmarks.bench_dev import served
from benchmarks.measure import Row, best_of
from noukai_sdk import AsyncNoukai
from noukai_sdk.adapters.fastapi import instrument

SESSIONS = 200
ROUNDS = 3
APP = "benchmarks.bench_batch:create_app()"


def create_app() -> FastAPI:
    noukai = AsyncNoukai()
    flow = noukai.flow("acme/samples/hello-world")
    app = instrument(FastAPI(), client=noukai, capture_requests=True)

    @app.post("/grade")
    async def grade(texts: list[str]) -> dict[str, Any]:
        first = (await flow.execute(message=f"Check {texts[0]}")).result
        results = await asyncio.gather(*(flow.execute(message=text) for text in texts))
        return {"first": first, "results": [each.result for each in results]}

    return app


def run() -> list[Row]:
    """Return the seconds of the batch, and a session of it beside one that is replayed alone."""
    with tempfile.TemporaryDirectory() as folder:
        database = f"{folder}/noukai.db"
        with served(["noukai_sdk.cli", "dev", "--port", "0", "--db", database]) as address:
            os.environ |= {
                "NOUKAI_BASE_URL": f"http://{address}/api/v1",
                "NOUKAI_API_KEY": "nk_dev",
            }
            sessions = asyncio.run(capture(f"http://{address}/api/v1/seq/sessions"))
            state = ["--state", str(Path(folder, "state.jsonl"))]
            batch = ["sessions", "replay", "--limit", str(SESSIONS), *state]
            whole = best_of(lambda: command(*batch), ROUNDS)
            two = best_of(lambda: command("sessions", "replay", *sessions[:2], *state), ROUNDS)
            alone = best_of(lambda: command("session", "replay", sessions[0]), ROUNDS)
    return [
        Row("200 sessions of 5 calls through an app", whole, 10.0, "s"),
        Row("of that, once the app has started", whole - two, None, "s"),
        Row("one session by `session replay --app`", alone, None, "s"),
        Row("a session of the batch / one alone", whole / SESSIONS / alone, 0.05, "times"),
    ]


async def capture(listed: str) -> list[str]:
    """Send requests to the app; return the sessions once all are stored."""
    limit = asyncio.Semaphore(8)
    transport = httpx.ASGITransport(create_app())
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:

        async def send(number: int) -> str:
            async with limit:
                texts = [f"text {number} {each}" for each in range(4)]
                response = await client.post("/grade", json=texts)
                assert response.status_code == 200, response.text
                return response.headers["X-Noukai-Session"]

        sessions = await asyncio.gather(*map(send, range(SESSIONS)))
    headers = {"Authorization": f"Bearer {os.environ['NOUKAI_API_KEY']}"}
    async with httpx.AsyncClient(headers=headers) as client:
        deadline = time.monotonic() + 60
        for session_id in sessions:
            while (await client.get(f"{listed}/{session_id}/exchange")).status_code != 200:
                assert time.monotonic() < deadline, "a request was not stored"
                await asyncio.sleep(0.05)
    return list(sessions)


def command(*words: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "noukai_sdk.cli", *words, "--app", APP],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        check=True,
    )
