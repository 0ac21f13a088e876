"""Forks: the first calls from the recording, the rest live, in a session of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, Noukai, ReplayLeftoverError, ReplayMissError
from noukai_sdk.protocol.jobs import LiveJob
from noukai_sdk.session.options import ReplayRequest, requested_replay
from tests.support.replays import AsyncSide, SessionService, SyncSide
from tests.support.servers import Server, serve_app, serve_wsgi

pytestmark = pytest.mark.anyio

OTHER = "acme/spelling/grade-4"


async def test_on_miss_live_sends_misses_in_a_child_session(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    before = path.read_bytes()
    async with echoed.scope(cassette=path, on_miss="live") as scope:
        assert await echoed.ask("a", "b", "c", "d") == ["a 1", "b 2", "c 3", "d 1"]
        assert await echoed.ask("e", slug=OTHER) == ["e 2"]
    assert scope.mode == "replay"
    assert echo.calls == [("d", scope.session_id), ("e", scope.session_id)]
    assert scope.report.summary() == "hits=3; misses=0; drift=0; leftovers=0; live=2"
    assert [(entry.slug, entry.position) for entry in scope.report.live] == [
        ("grade-3", 3),
        ("grade-4", 0),
    ]
    assert scope.report.live[0].call_site is not None
    assert scope.report.clean
    assert len(scope.report.as_dict()["live"]) == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("number", [0, 1, 3, 9])
async def test_live_from_serves_the_first_calls_and_sends_the_rest(
    echoed: SyncSide, echo: SessionService, path: Path, number: int
) -> None:
    texts = ["a", "b", "c"]
    async with echoed.scope(cassette=path, live_from=number) as scope:
        results = await echoed.ask(*texts)
    assert results[:number] == ["a 1", "b 2", "c 3"][:number]
    assert echo.calls == [(text, scope.session_id) for text in texts[number:]]
    assert [entry.position for entry in scope.report.live] == list(range(3))[number:]
    assert scope.report.clean == (number >= 3)  # leftovers are reported, but are not an error


async def test_live_from_counts_all_calls_and_raises_misses_before_it(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    async with echoed.scope(cassette=path, live_from=1):
        assert await echoed.ask("a") == ["a 1"]
        await echoed.ask("x", slug=OTHER)
        await echoed.ask("b")
    assert echo.messages == ["x", "b"]

    echo.calls.clear()
    with pytest.raises(ReplayMissError):
        async with echoed.scope(cassette=path, live_from=2):
            await echoed.ask("x", slug=OTHER)
    assert echo.calls == []

    async with echoed.scope(cassette=path, live_from=2, on_miss="live") as scope:
        assert await echoed.ask("x", slug=OTHER) == ["x 1"]
        assert await echoed.ask("a", "b") == ["a 1", "b 2"]
    assert echo.messages == ["x", "b"]
    assert [(entry.slug, entry.position) for entry in scope.report.live] == [
        ("grade-4", 0),
        ("grade-3", 1),
    ]


async def test_replay_without_fork_options_never_goes_live(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    for texts, kind in (("abcd", ReplayMissError), ("a", ReplayLeftoverError)):
        with pytest.raises(kind):
            async with echoed.scope(cassette=path):
                await echoed.ask(*texts)
    assert echo.calls == []


async def test_live_call_never_goes_to_the_recorded_session(
    echoed: SyncSide, echo: SessionService, path: Path
) -> None:
    async with echoed.scope(cassette=path) as scope:
        await echoed.ask("a", "b", "c")
    recorded = scope.session_id
    async with echoed.scope(cassette=path, live_from=1) as scope:
        await echoed.ask("a")
        await echoed.ask("b", session_id=recorded)
        await echoed.ask("c", session_id="s-explicit")
    assert scope.session_id != recorded
    assert echo.calls == [("b", scope.session_id), ("c", "s-explicit")]


async def test_live_from_with_concurrent_calls(echo: SessionService, tmp_path: Path) -> None:
    side, path = AsyncSide(echo), tmp_path / "c.jsonl"
    texts = [str(number) for number in range(6)]
    async with side.scope(record=path):
        recorded = await asyncio.gather(*(side.execute(text) for text in texts))
    echo.calls.clear()
    with pytest.warns(UserWarning, match="concurrent"):
        async with side.scope(cassette=path, live_from=4):
            results = await asyncio.gather(*(side.execute(text) for text in texts))
    assert [each.result for each in results[:4]] == [each.result for each in recorded[:4]]
    assert sorted(echo.messages) == texts[4:]


async def test_jobs_of_a_fork_are_live(echoed: SyncSide, path: Path) -> None:
    for options in ({"cassette": path, "on_miss": "live"}, {}):
        async with echoed.scope(**options):
            assert isinstance(echoed.flow("acme/p/f").job("j")._backend, LiveJob)
    async with echoed.scope(cassette=path, record_mode="new_episodes"):
        assert isinstance(echoed.flow("acme/p/f").job("j")._backend, LiveJob)


# By header, over real servers.

MESSAGES = ["The cat sat.", "The dog sat.", "The cow sat."]


def fastapi_app(client: AsyncNoukai) -> Any:
    from fastapi import FastAPI

    from noukai_sdk.adapters.fastapi import NoukaiTraceMiddleware

    app = FastAPI()
    app.add_middleware(NoukaiTraceMiddleware, client=client)

    @app.get("/")
    async def ask() -> list[Any]:
        flow = client.flow("acme/spelling/grade-3")
        return [(await flow.execute(message=text)).result for text in MESSAGES]

    return app


def flask_app(client: Noukai) -> Any:
    from flask import Flask

    from noukai_sdk.adapters.flask import init_noukai_trace

    app = Flask(__name__)
    init_noukai_trace(app, client=client)

    @app.get("/")
    def ask() -> Any:
        flow = client.flow("acme/spelling/grade-3")
        return [flow.execute(message=text).result for text in MESSAGES]

    return app


@pytest.fixture(params=["fastapi", "flask"])
def app(request: Any, backend: Server, use_service: Callable[[str], None]) -> Iterator[str]:
    """The root URL of an application that makes three calls."""
    use_service(backend.api)
    if request.param == "fastapi":
        with serve_app(fastapi_app(AsyncNoukai(timeout=20))) as url:
            yield url
        return
    with Noukai(timeout=20) as client, serve_wsgi(flask_app(client)) as url:
        yield url


def get(url: str, headers: Any = None) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=60, trust_env=False)


def messages_of(backend: Server, session_id: str) -> list[str]:
    """The messages of the calls of a session."""
    url = f"{backend.api}/seq/sessions/{session_id}"
    response = get(url, {"Authorization": "Bearer nk_dev"})
    if response.status_code == 404:
        return []
    return [each["call"]["request"]["message"] for each in response.json()["executions"]]


def test_header_with_live_from_forks_a_request(app: str, backend: Server) -> None:
    first = get(app)
    session = first.headers["x-noukai-session"]
    assert messages_of(backend, session) == MESSAGES
    for number in (0, 2, 3):
        fork = get(app, {"X-Noukai-Replay": f"{session};live-from={number}"})
        assert fork.status_code == 200
        assert fork.json()[:number] == first.json()[:number]
        child = fork.headers["x-noukai-session"]
        assert child != session
        assert messages_of(backend, child) == MESSAGES[number:]
        assert messages_of(backend, session) == MESSAGES
        report = fork.headers["x-noukai-replay-report"]
        assert report.startswith(f"hits={number}; misses=0; drift=0; leftovers={3 - number}")
        assert ("live" in report) == (number < 3)


def test_header_is_ignored_while_replay_is_off_and_refused_if_malformed(
    app: str, backend: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for options in ("live-from=x", "live-from=-1", "live-to=1", "", "live-from=²"):
        response = get(app, {"X-Noukai-Replay": f"s-1;{options}".encode()})
        assert response.status_code == 400
        assert response.json()["error"] == "replay_invalid_session"
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    response = get(app, {"X-Noukai-Replay": "nowhere;live-from=1"})
    assert response.status_code == 200
    assert messages_of(backend, response.headers["x-noukai-session"]) == MESSAGES


def test_header_is_parsed_into_session_and_live_from() -> None:
    assert requested_replay(None) is None
    assert requested_replay("s-1; live-from=007") == ReplayRequest("s-1", 7)
    huge = requested_replay("s-1;live-from=" + "9" * 500)
    assert huge is not None
    assert huge.live_from == 999_999_999
