"""Test that no scope is left when clients disconnect at any time."""

from __future__ import annotations

import asyncio
import gc
import importlib
import random

import httpx
import pytest

from noukai_sdk import Noukai, ReplayError
from noukai_sdk.session.lost_scope import LostScopeWarning
from noukai_sdk.session.scope import Scope
from tests.support.servers import serve_app, wait_until
from tests.support.sessions import RecordedSessions

REQUESTS = 400


def count_scopes() -> int:
    gc.collect()
    return sum(isinstance(thing, Scope) for thing in gc.get_objects())


async def leave_early(http: httpx.AsyncClient, rng: random.Random, session: str) -> None:
    """Send one request, captured or replayed, and disconnect at a random time."""
    headers = {"X-Noukai-Replay": session} if rng.random() < 0.5 else {}
    parts = rng.randrange(4)
    if rng.random() < 0.5:
        async with http.stream("GET", "/endless", headers=headers) as response:
            async for _ in response.aiter_bytes():
                parts -= 1
                if parts < 0:
                    return
    patience = rng.choice([0.001, 0.01, 20])
    post = http.post("/grade", json={"text": "a"}, headers=headers)
    try:
        await asyncio.wait_for(post, patience)
    except (asyncio.TimeoutError, httpx.TransportError):
        return


async def send_requests(url: str) -> None:
    rng = random.Random(20261120)
    slots = asyncio.Semaphore(32)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        async with http.stream("GET", "/endless") as response:
            await anext(response.aiter_bytes())
            session = response.headers["X-Noukai-Session"]

        async def send_one() -> None:
            async with slots:
                await leave_early(http, rng, session)

        await asyncio.gather(*(send_one() for _ in range(REQUESTS)))


def all_replays_ended(noukai: Noukai) -> bool:
    try:
        noukai.flow("grade-3").execute(message="outside of every scope")
    except (LostScopeWarning, ReplayError):  # warnings are errors here
        return False
    return True


@pytest.mark.usefixtures("replay_enabled")
def test_random_disconnects_leave_no_scope(
    sync_noukai: Noukai, sessions: RecordedSessions, caplog: pytest.LogCaptureFixture
) -> None:
    app = importlib.import_module("tests.adapters.apps.on_fastapi").app
    before = count_scopes()
    # uvicorn logs an error if a client disconnects before its request was read.
    with serve_app(app, log_level="critical") as url:
        asyncio.run(send_requests(url))
        wait_until(lambda: all_replays_ended(sync_noukai), what="the end of every replay")
        # Timers of asyncio and pooled connections keep their contexts, and so some scopes, alive.
        assert count_scopes() - before < REQUESTS / 4
    # A replay of /endless by /grade drifts.
    messages = [record.message for record in caplog.records if record.name == "noukai_sdk"]
    assert not [message for message in messages if "differs from its recording" not in message]
    assert None in {session for session, _, _ in sessions.calls}
