"""``running_app``: many replays at once through an app in this process, whatever the app does."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import pytest
from fastapi import FastAPI
from flask import Flask, request

from noukai_sdk import AsyncNoukai, CapturedRequestError, Noukai, NoukaiError
from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware
from noukai_sdk.adapters.flask import init_noukai_trace
from noukai_sdk.replay.cassette_file import CassetteFile
from noukai_sdk.replaying.app_runner import running_app
from noukai_sdk.session.threads import detached
from noukai_sdk.testing import AppError
from tests.support.captured import CALLS, captured


@pytest.fixture
def anyio_backend() -> str:
    """The runner is the command line's, which runs on asyncio."""
    return "asyncio"


def fastapi_app(events: list[str], *, adapter: bool) -> FastAPI:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        events.append("start")
        yield
        await noukai.aclose()
        events.append("stop")

    app = FastAPI(lifespan=lifespan)
    noukai = AsyncNoukai(org="acme", project="p", api_key="nk_x")
    flow = noukai.flow("upper")
    if adapter:
        app.add_middleware(NoukaiTraceMiddleware, client=noukai, capture_requests=True)

    @app.post("/all")
    async def all_texts(body: dict[str, list[str]]) -> dict[str, Any]:
        results = await asyncio.gather(*(flow.execute(message=text) for text in body["texts"]))
        return {"results": [each.result for each in results]}

    @app.post("/fails")
    async def fails(body: dict[str, list[str]]) -> None:
        await all_texts(body)
        raise ValueError("no such grade")

    @app.post("/cancels")
    async def cancels(body: dict[str, list[str]]) -> None:
        await all_texts(body)
        raise asyncio.CancelledError

    @app.post("/hangs")
    async def hangs(body: dict[str, list[str]]) -> None:
        try:
            await all_texts(body)
            await asyncio.Event().wait()
        finally:
            events.append("cancelled")

    @app.post("/escapes")
    async def escapes(body: dict[str, list[str]]) -> dict[str, Any]:
        with detached():
            try:
                await flow.execute(message="live")
            except NoukaiError as error:
                refusal = type(error).__name__
        return {**await all_texts(body), "live": refusal}

    return app


def flask_app(*, adapter: bool, hang: threading.Event) -> Flask:
    app = Flask("grader")
    noukai = Noukai(org="acme", project="p", api_key="nk_x")
    if adapter:
        init_noukai_trace(app, client=noukai)

    def one(text: str) -> Any:
        return noukai.flow("upper").execute(message=text).result

    @app.post("/all")
    def all_texts() -> dict[str, Any]:
        texts = request.get_json()["texts"]
        if not adapter:  # nothing carries the scope into threads
            return {"results": [one(text) for text in texts]}
        with ThreadPoolExecutor(CALLS) as pool:
            return {"results": list(pool.map(one, texts))}

    @app.post("/hangs")
    def hangs() -> dict[str, Any]:
        hang.wait()
        return {}

    return app


@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
async def test_app_replays_100_requests_at_once_and_mixes_none(kind: str, adapter: bool) -> None:
    events: list[str] = []
    release = threading.Event()
    app: Any = (
        fastapi_app(events, adapter=adapter)
        if kind == "asgi"
        else flask_app(adapter=adapter, hang=release)
    )
    async with running_app(app) as running:
        # Every tenth has another answer than the app gives now.
        files = [captured(n, answer={"results": []} if n % 10 == 0 else None) for n in range(100)]
        outcomes = await asyncio.gather(*(running.replay(file) for file in files))
        one = await running.replay(captured(0, answer={"results": []}), ignore=["$.results"])
    for number, outcome in enumerate(outcomes):
        assert outcome.session_id == f"s-{number}"
        assert json.loads(outcome.body)["results"] == [f"R{number}-{n}" for n in range(CALLS)]
        assert (outcome.result, outcome.problems) == ("clean", []), outcome.problems
        assert outcome.exit_code == (1 if number % 10 == 0 else 0)
    assert one.exit_code == 0
    assert events == (["start", "stop"] if kind == "asgi" else [])


async def test_app_that_raises_has_its_exception_in_the_outcome() -> None:
    async with running_app(fastapi_app([], adapter=True)) as running:
        outcome = await running.replay(captured(1, "/fails"))
    assert (outcome.status, outcome.exit_code) == (500, 1)
    exception = outcome.exception
    assert exception is not None
    assert exception.site is not None
    assert (exception.type, exception.message) == ("ValueError", "no such grade")
    assert exception.site.function == "fails"
    assert exception.lines[-1] == "ValueError: no such grade"
    assert outcome.differences
    assert outcome.as_dict()["exception"]["site"] == str(exception.site)


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
async def test_request_that_hangs_times_out_alone(kind: str) -> None:
    events: list[str] = []
    release = threading.Event()
    app: Any = (
        fastapi_app(events, adapter=True)
        if kind == "asgi"
        else flask_app(adapter=True, hang=release)
    )
    try:
        async with running_app(app) as running:
            hanging, other = await asyncio.gather(
                running.replay(captured(1, "/hangs"), timeout=0.3), running.replay(captured(2))
            )
    finally:
        release.set()
    assert (hanging.result, hanging.exit_code, other.exit_code) == ("timed out", 1, 0)
    assert hanging.headline == "the app did not respond within 0.3 seconds"
    assert "cancelled" in events or kind == "wsgi"


async def test_cancelled_replay_cancels_the_request_and_stops_the_app() -> None:
    events: list[str] = []

    async def replay() -> None:
        async with running_app(fastapi_app(events, adapter=True)) as running:
            task.cancel()
            await running.replay(captured(1, "/hangs"))

    task = asyncio.ensure_future(replay())
    with pytest.raises(asyncio.CancelledError):
        await task
    assert events == ["start", "cancelled", "stop"]


async def test_app_that_cancels_its_own_request_has_failed() -> None:
    async with running_app(fastapi_app([], adapter=True)) as running:
        outcome = await running.replay(captured(1, "/cancels"))
    assert (outcome.status, outcome.result, outcome.exit_code) == (500, "clean", 1)
    assert outcome.problems == ["RuntimeError: the app cancelled its own request"]


async def test_live_call_outside_of_the_request_is_refused() -> None:
    async with running_app(fastapi_app([], adapter=True)) as running:
        outcome = await running.replay(captured(1, "/escapes"))
    assert json.loads(outcome.body)["live"] == "ReplayDisabledError"


async def test_app_that_closed_its_client_when_it_stopped_replays_again() -> None:
    app = fastapi_app([], adapter=True)
    for _ in range(2):
        async with running_app(app) as running:
            outcome = await running.replay(captured(1, "/escapes"))
        answer = json.loads(outcome.body)
        assert answer == {
            "results": [f"R1-{n}" for n in range(CALLS)],
            "live": "ReplayDisabledError",
        }


async def test_file_without_request_and_app_that_is_none_are_refused() -> None:
    async with running_app(flask_app(adapter=False, hang=threading.Event())) as running:
        with pytest.raises(CapturedRequestError, match="session s has no captured request"):
            await running.replay(CassetteFile("s"))
    with pytest.raises(AppError, match="neither an ASGI nor a WSGI app"):
        async with running_app(7):
            pass
