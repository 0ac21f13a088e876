"""Forks: the first calls from the recording, the rest live, in a session of their own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, Noukai, ReplayError, ReplayLeftoverError, ReplayMissError
from noukai_sdk.protocol.jobs import LiveJob
from noukai_sdk.session.options import ReplayRequest, requested_replay
from tests.replay.echo import Echo, EchoAsync, EchoSide, EchoSync
from tests.support.servers import Server, serve_app, serve_wsgi

pytestmark = pytest.mark.anyio

OTHER = "acme/spelling/grade-4"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture(params=[EchoSync, EchoAsync])
def side(request: Any, echo: Echo) -> EchoSide:
    made: EchoSide = request.param(echo)
    return made


@pytest.fixture
async def path(side: EchoSide, echo: Echo, tmp_path: Path) -> Path:
    async with side.scope(record=tmp_path / "c.jsonl"):
        assert await side.ask("a", "b", "c") == ["a 1", "b 2", "c 3"]
    echo.calls.clear()
    return tmp_path / "c.jsonl"


async def test_a_miss_goes_live_in_a_child_session(side: EchoSide, echo: Echo, path: Path) -> None:
    before = path.read_bytes()
    async with side.scope(cassette=path, on_miss="live") as scope:
        assert await side.ask("a", "b", "c", "d") == ["a 1", "b 2", "c 3", "d 1"]
        assert await side.ask("e", slug=OTHER) == ["e 2"]
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


@pytest.mark.parametrize("number", [0, 1, 2, 3, 9])
async def test_the_first_calls_from_the_cassette_and_the_rest_live(
    side: EchoSide, echo: Echo, path: Path, number: int
) -> None:
    texts = ["a", "b", "c"]
    async with side.scope(cassette=path, live_from=number) as scope:
        answers = await side.ask(*texts)
    assert answers[:number] == ["a 1", "b 2", "c 3"][:number]
    assert echo.calls == [(text, scope.session_id) for text in texts[number:]]
    assert [entry.position for entry in scope.report.live] == list(range(3))[number:]
    assert scope.report.clean == (number >= 3)  # what was not played is said, and is no error


async def test_all_calls_count_whatever_they_call(side: EchoSide, echo: Echo, path: Path) -> None:
    async with side.scope(cassette=path, live_from=1):
        assert await side.ask("a") == ["a 1"]
        await side.ask("x", slug=OTHER)
        await side.ask("b")
    assert echo.messages == ["x", "b"]


async def test_up_to_there_a_miss_is_a_miss(side: EchoSide, echo: Echo, path: Path) -> None:
    with pytest.raises(ReplayMissError):
        async with side.scope(cassette=path, live_from=2):
            await side.ask("x", slug=OTHER)
    assert echo.calls == []


async def test_unless_misses_go_live_as_well(side: EchoSide, echo: Echo, path: Path) -> None:
    async with side.scope(cassette=path, live_from=2, on_miss="live") as scope:
        assert await side.ask("x", slug=OTHER) == ["x 1"]
        assert await side.ask("a", "b") == ["a 1", "b 2"]
    assert echo.messages == ["x", "b"]
    assert [(entry.slug, entry.position) for entry in scope.report.live] == [
        ("grade-4", 0),
        ("grade-3", 1),
    ]


async def test_without_a_word_nothing_goes_live(side: EchoSide, echo: Echo, path: Path) -> None:
    with pytest.raises(ReplayMissError):
        async with side.scope(cassette=path):
            await side.ask("a", "b", "c", "d")
    with pytest.raises(ReplayLeftoverError):
        async with side.scope(cassette=path):
            await side.ask("a")
    assert echo.calls == []


async def test_a_live_call_never_lands_in_the_recorded_session(
    side: EchoSide, echo: Echo, path: Path
) -> None:
    async with side.scope(cassette=path) as scope:
        await side.ask("a", "b", "c")
    recorded = scope.session_id
    async with side.scope(cassette=path, live_from=1) as scope:
        await side.ask("a")
        await side.ask("b", session_id=recorded)
        await side.ask("c", session_id="s-explicit")
    assert scope.session_id != recorded
    assert echo.calls == [("b", scope.session_id), ("c", "s-explicit")]


async def test_calls_that_run_together(echo: Echo, tmp_path: Path) -> None:
    side, path = EchoAsync(echo), tmp_path / "c.jsonl"
    texts = [str(number) for number in range(6)]
    async with side.scope(record=path):
        recorded = await asyncio.gather(*(side.execute(text) for text in texts))
    echo.calls.clear()
    with pytest.warns(UserWarning, match="concurrent"):
        async with side.scope(cassette=path, live_from=4):
            answers = await asyncio.gather(*(side.execute(text) for text in texts))
    assert [a.result for a in answers[:4]] == [r.result for r in recorded[:4]]
    assert sorted(echo.messages) == texts[4:]


async def test_jobs_of_a_fork_are_live_ones(side: EchoSide, path: Path) -> None:
    async with side.scope(cassette=path, on_miss="live"):
        assert isinstance(side.flow("acme/p/f").job("j")._backend, LiveJob)
    async with side.scope(cassette=path, record_mode="new_episodes"):
        assert isinstance(side.flow("acme/p/f").job("j")._backend, LiveJob)
    async with side.scope():
        assert isinstance(side.flow("acme/p/f").job("j")._backend, LiveJob)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"live_from": -1}, "live_from must be"),
        ({"live_from": "2"}, "live_from must be"),
        ({"on_miss": "maybe"}, "bad on_miss"),
    ],
)
async def test_bad_options(side: EchoSide, path: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        async with side.scope(cassette=path, **options):
            pass


# By header, over real servers.


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


MESSAGES = ["The cat sat.", "The dog sat.", "The cow sat."]


@pytest.fixture(params=["fastapi", "flask"])
def app(request: Any, backend: Server, redirect_dev: Callable[[str], None]) -> Iterator[str]:
    """The root URL of an application that makes three calls."""
    redirect_dev(backend.api)
    if request.param == "fastapi":
        with serve_app(fastapi_app(AsyncNoukai(timeout=20))) as url:
            yield url
        return
    with Noukai(timeout=20) as client, serve_wsgi(flask_app(client)) as url:
        yield url


def get(url: str, **headers: str) -> httpx.Response:
    return httpx.get(url, headers=headers, timeout=60, trust_env=False)


def runs(backend: Server, session_id: str) -> list[str]:
    """What was said in a session."""
    key = {"Authorization": "Bearer nk_dev"}
    answer = get(f"{backend.api}/seq/sessions/{session_id}", **key)
    if answer.status_code == 404:
        return []
    return [each["call"]["request"]["message"] for each in answer.json()["executions"]]


@pytest.mark.parametrize("number", [0, 2, 3])
def test_a_header_forks_a_request(app: str, backend: Server, number: int) -> None:
    first = get(app)
    session = first.headers["x-noukai-session"]
    assert runs(backend, session) == MESSAGES

    fork = get(app, **{"X-Noukai-Replay": f"{session};live-from={number}"})
    assert fork.status_code == 200
    assert fork.json()[:number] == first.json()[:number]
    child = fork.headers["x-noukai-session"]
    assert child != session
    assert runs(backend, child) == MESSAGES[number:]
    assert runs(backend, session) == MESSAGES
    report = fork.headers["x-noukai-replay-report"]
    assert report.startswith(f"hits={number}; misses=0; drift=0; leftovers={3 - number}")
    assert ("live" in report) == (number < 3)


def test_behind_a_closed_gate_the_header_is_nothing(
    app: str, backend: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    answer = get(app, **{"X-Noukai-Replay": "nowhere;live-from=1"})
    assert answer.status_code == 200
    assert runs(backend, answer.headers["x-noukai-session"]) == MESSAGES


@pytest.mark.parametrize("options", ["live-from=x", "live-from=-1", "live-to=1", "", "live-from=²"])
def test_a_header_that_cannot_be_read_is_refused(app: str, options: str) -> None:
    header = f"s-1;{options}".encode()
    answer = httpx.get(app, headers={"X-Noukai-Replay": header}, timeout=60, trust_env=False)
    assert answer.status_code == 400
    assert answer.json()["error"] == "replay_invalid_session"


def test_no_header_is_no_replay() -> None:
    assert requested_replay(None) is None
    assert requested_replay("s-1; live-from=007") == ReplayRequest("s-1", 7)
    with contextlib.suppress(ReplayError):
        assert requested_replay("s-1;live-from=" + "9" * 500) is not None
