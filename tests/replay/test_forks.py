"""Forks: the first calls from the recording, the rest live, in a session of their own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    AsyncNoukai,
    Noukai,
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
)
from noukai_sdk.adapters.responses import refuse_replay
from noukai_sdk.protocol.jobs import LiveJob
from noukai_sdk.session.options import ReplayRequest, encode_edit, requested_replay
from noukai_sdk.transport import background
from tests.support.replays import AsyncSide, SessionService, SyncSide, outcome
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


def test_header_with_edit_replaces_the_input_of_the_first_live_call(
    app: str, backend: Server
) -> None:
    session = get(app).headers["x-noukai-session"]
    edit, replay_id = encode_edit({"message": "The sow; sät."}), str(uuid.uuid4())
    header = f"{session}; live-from=1; edit={edit}; id={replay_id}"
    fork = get(app, {"X-Noukai-Replay": header})
    assert messages_of(backend, fork.headers["x-noukai-session"]) == ["The sow; sät.", MESSAGES[2]]
    assert fork.headers["x-noukai-replay-id"] == replay_id
    report = get(app, {"X-Noukai-Replay-Report": replay_id}).json()
    details = [entry["detail"] for entry in report["report"]["live"]]
    assert details == ["with another message", ""]
    # The code sends what was replaced, and the fork replays as equal, by its own id and whole.
    child = fork.headers["x-noukai-session"]
    again = get(app, {"X-Noukai-Replay": f"{child}; strict"})
    assert again.headers["x-noukai-replay-report"] == "hits=3; misses=0; drift=0; leftovers=0"
    assert again.json() == fork.json()
    # The id is taken: the report that it names stays.
    assert get(app, {"X-Noukai-Replay": header}).headers["x-noukai-replay-id"] != replay_id


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


ECHO = "acme/tests/echo"


async def forked(
    live: SyncSide, parent: str, texts: str, **options: Any
) -> tuple[str, list[Any], Any]:
    """Replay ``parent`` with calls of these letters; return the fork's id, results and report."""
    async with live.scope(parent, **options) as scope:
        results = await live.ask(*texts, slug=ECHO)
    assert background.flush(10)
    assert scope.session_id is not None
    return scope.session_id, results, scope.report


async def captured(live: SyncSide, texts: str) -> tuple[str, list[Any]]:
    async with live.scope() as scope:
        results = await live.ask(*texts, slug=ECHO)
    assert scope.session_id is not None
    return scope.session_id, results


async def test_fork_replays_whole_with_its_parents_calls_and_so_does_its_own_fork(
    live: SyncSide,
) -> None:
    parent, _ = await captured(live, "abc")
    fork, results, _ = await forked(live, parent, "abxy", live_from=2)
    again = await forked(live, fork, "abxy", strict_inputs=True, live_from=9)
    assert again[1:] == (results, again[2])
    assert again[2].summary() == "hits=4; misses=0; drift=0; leftovers=0"
    for each in (fork, again[0]):  # the second one made no live call
        async with live.scope(each, strict_inputs=True) as scope:
            assert await live.ask(*"abxy", slug=ECHO) == results
        assert scope.report.clean

    second, results, _ = await forked(live, again[0], "abxzz", live_from=3)
    async with live.scope(second, strict_inputs=True) as scope:
        assert await live.ask(*"abxzz", slug=ECHO) == results
    assert scope.report.clean
    with pytest.raises(ReplayLeftoverError):
        async with live.scope(second):
            await live.ask(*"abxz", slug=ECHO)
    with pytest.raises(ReplayMissError):
        async with live.scope(second):
            await live.ask(*"abxzzz", slug=ECHO)


async def test_calls_of_a_fork_keep_their_order_where_misses_went_live(live: SyncSide) -> None:
    parent, _ = await captured(live, "ab")
    slugs = (ECHO, "acme/spelling/grade-3", ECHO, "acme/spelling/grade-3", ECHO)
    async with live.scope(parent, on_miss="live") as scope:
        results = [(await live.execute("text", slug=slug)).result for slug in slugs]
    assert len(scope.report.live) == 3
    async with live.scope(scope.session_id) as replay:
        assert [(await live.execute("text", slug=slug)).result for slug in slugs] == results
    assert replay.report.summary().startswith("hits=5; misses=0; drift=2; leftovers=0")


async def test_failures_of_a_forks_live_calls_replay(live: SyncSide) -> None:
    async def body(**options: Any) -> list[Any]:
        results = await live.ask("a", slug=ECHO)
        error = await outcome(live.execute("x", slug="acme/tests/unknown"))
        return [*results, error, *await live.ask("b", slug=ECHO)]

    parent, _ = await captured(live, "a")
    async with live.scope(parent, live_from=1) as scope:
        results = await body()
    async with live.scope(scope.session_id) as replay:
        assert await body() == results
    assert replay.report.clean


@pytest.mark.parametrize(
    ("sessions", "kind", "text"),
    [
        ({"s-1": "s-2", "s-2": 410}, ReplaySessionExpiredError, "s-1 is a fork of session s-2"),
        ({"s-1": "s-2", "s-2": 403}, ReplayForbiddenError, "s-1 is a fork of session s-2"),
        ({"s-1": "s-2", "s-2": "s-3", "s-3": 404}, ReplaySessionNotFoundError, "s-2 is a fork of"),
        ({"s-1": "s-2", "s-2": "s-1"}, ReplayInvalidSessionError, "one of its own forks"),
        ({"s-1": "s-1"}, ReplayInvalidSessionError, "one of its own forks"),
        ({"s-1": "../x"}, ReplayInvalidSessionError, "session"),
        ({f"s-{n}": f"s-{n + 1}" for n in range(1, 50)}, ReplayInvalidSessionError, "too far"),
    ],
)
async def test_fork_without_its_parent_is_an_error_that_names_it(
    side: SyncSide,
    service: SessionService,
    sessions: dict[str, Any],
    kind: type[ReplayError],
    text: str,
) -> None:
    for session_id, parent in sessions.items():
        if isinstance(parent, int):
            service.sessions[session_id] = lambda status=parent: httpx.Response(status, json={})
            continue
        served = [{"order": 0, "index": 0, "executionId": "exec-0"}]
        service.record(session_id=session_id)
        service.sessions[session_id]["parent"] = {"sessionId": parent, "served": served}
    with pytest.raises(kind, match=text) as caught:
        async with side.scope():
            pass
    if kind is not ReplayInvalidSessionError:
        assert caught.value.parent_session_id in sessions
        response = refuse_replay(caught.value, ReplayRequest("s-1"), "GET /")
        assert str(caught.value.parent_session_id) in response.body.decode()
