"""Nothing stays behind when clients come and go as they like."""

from __future__ import annotations

import asyncio
import gc
import importlib
import random

import httpx
import pytest

from noukai_sdk import Noukai
from noukai_sdk.session.lost_scope import LostScopeWarning
from noukai_sdk.session.scope import Scope
from tests.adapters.service import Service
from tests.support.servers import serve_app, wait_until

REQUESTS = 400


def living_scopes() -> int:
    gc.collect()
    return sum(isinstance(thing, Scope) for thing in gc.get_objects())


async def leave_early(http: httpx.AsyncClient, chance: random.Random, session: str) -> None:
    """One request, captured or replayed, whose client leaves at any time."""
    headers = {"X-Noukai-Replay": session} if chance.random() < 0.5 else {}
    parts = chance.randrange(4)
    if chance.random() < 0.5:
        async with http.stream("GET", "/endless", headers=headers) as answer:
            async for _ in answer.aiter_bytes():
                parts -= 1
                if parts < 0:
                    return
    patience = chance.choice([0.001, 0.01, 20])
    post = http.post("/grade", json={"text": "a"}, headers=headers)
    try:
        await asyncio.wait_for(post, patience)
    except (asyncio.TimeoutError, httpx.TransportError):
        return


async def come_and_go(url: str) -> None:
    chance = random.Random(20261120)
    places = asyncio.Semaphore(32)
    async with httpx.AsyncClient(base_url=url, timeout=30, trust_env=False) as http:
        async with http.stream("GET", "/endless") as answer:
            await anext(answer.aiter_bytes())
            session = answer.headers["X-Noukai-Session"]

        async def one() -> None:
            async with places:
                await leave_early(http, chance, session)

        await asyncio.gather(*(one() for _ in range(REQUESTS)))


def no_replay_is_under_way(noukai: Noukai) -> bool:
    try:
        noukai.flow("grade-3").execute(message="outside of every scope")
    except LostScopeWarning:  # warnings are errors here
        return False
    return True


@pytest.mark.usefixtures("replay_enabled")
def test_random_disconnects_leave_nothing_behind(
    sync_noukai: Noukai, service: Service, caplog: pytest.LogCaptureFixture
) -> None:
    app = importlib.import_module("tests.adapters.apps.on_fastapi").app
    before = living_scopes()
    # uvicorn logs an error where a client leaves before its request was read.
    with serve_app(app, log_level="critical") as url:
        asyncio.run(come_and_go(url))
        wait_until(lambda: no_replay_is_under_way(sync_noukai), what="the end of every replay")
        # asyncio's timers and pooled connections hold the context that they were made in a while.
        assert living_scopes() - before < REQUESTS / 4
    assert not [record for record in caplog.records if record.name == "noukai_sdk"]
    assert None in {session for session, _, _ in service.calls}
