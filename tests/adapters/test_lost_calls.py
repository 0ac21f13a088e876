"""Test requests whose calls are made in threads, in pools, and after the response, on real servers."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from noukai_sdk import AsyncNoukai, LostScopeWarning, ReplayError, detached
from noukai_sdk.session import lost_scope
from tests.adapters.apps import in_threads
from tests.adapters.apps.in_threads import Routes, ask
from tests.support.servers import serve_app, serve_wsgi, wait_until
from tests.support.sessions import RecordedSessions

pytestmark = pytest.mark.usefixtures("replay_enabled")

CLEAN = "misses=0; drift=0; leftovers=0"


@pytest.fixture(params=["uvicorn", "flask"])
def app(
    request: pytest.FixtureRequest, sessions: RecordedSessions
) -> Iterator[tuple[httpx.Client, Routes]]:
    """A server whose flows answer differently at each live call, and what its routes share."""
    sessions.numbered = True
    if request.param == "uvicorn":
        asgi, routes = in_threads.fastapi_app()
        serve = serve_app(asgi)
    else:
        wsgi, routes = in_threads.flask_app()
        serve = serve_wsgi(wsgi)
    try:
        with serve as url, httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
            yield http, routes
    finally:
        routes.pool.shutdown()


def replay(http: httpx.Client, route: str, captured: httpx.Response) -> httpx.Response:
    headers = {"X-Noukai-Replay": captured.headers["X-Noukai-Session"]}
    return http.get(route, headers=headers)


def test_calls_in_threads_and_pools_are_captured_and_replay_unchanged(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions, request: pytest.FixtureRequest
) -> None:
    http, _ = app
    is_async = request.node.callspec.params["app"] == "uvicorn"
    for route in in_threads.ASYNC_ROUTES if is_async else in_threads.ROUTES:
        sessions.calls.clear()
        captured = http.get(f"/{route}")
        assert captured.status_code == 200, (route, captured.text)
        wait_until(lambda: not lost_scope.open_captures, what="the end of the request")
        assert {call[0] for call in sessions.calls} == {captured.headers["X-Noukai-Session"]}, route
        paid = len(sessions.calls)
        for _ in range(5):
            replayed = replay(http, f"/{route}", captured)
            assert (replayed.status_code, replayed.content) == (200, captured.content), route
            assert f"; {CLEAN}" in replayed.headers["X-Noukai-Replay-Report"]
            assert "lost" not in replayed.headers["X-Noukai-Replay-Report"]
        assert len(sessions.calls) == paid


def test_concurrent_requests_over_one_pool_do_not_mix(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions
) -> None:
    http, _ = app

    def capture(_: int) -> httpx.Response:
        return http.get("/shared-pool")

    def replay_one(captured: httpx.Response) -> bool:
        return replay(http, "/shared-pool", captured).content == captured.content

    with ThreadPoolExecutor(8) as clients:
        captured = list(clients.map(capture, range(40)))
        assert all(clients.map(replay_one, captured))
    ids = {response.headers["X-Noukai-Session"] for response in captured}
    assert {call[0] for call in sessions.calls} == ids
    assert len(ids) == len(sessions.calls) == 40


def test_call_after_captured_request_gets_its_own_session_and_is_no_leftover(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions, caplog: pytest.LogCaptureFixture
) -> None:
    http, routes = app
    captured = http.get("/late")
    session = captured.headers["X-Noukai-Session"]
    wait_until(lambda: not lost_scope.open_captures, what="the end of the request")
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        routes.late.set()
        routes.late_outcome.result(20)
    (first, _, _), (late, _, message) = sessions.calls
    assert (first, message) == (session, "late")
    assert late not in (session, None)
    (record,) = [record for record in caplog.records if record.name == "noukai_sdk"]
    assert session in record.getMessage()
    assert str(late) in record.getMessage()

    replayed = replay(http, "/late", captured)
    assert (replayed.status_code, replayed.content) == (200, captured.content)
    assert replayed.headers["X-Noukai-Replay-Report"] == f"hits=1; {CLEAN}"
    routes.late.set()
    with pytest.raises(ReplayError, match=r"noukai_sdk\.detached\(\)"):
        routes.late_outcome.result(20)
    assert len(sessions.calls) == 2


@pytest.mark.parametrize("app", ["uvicorn"], indirect=True)
def test_replay_waits_for_calls_of_tasks_that_the_request_did_not_await(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions
) -> None:
    http, routes = app
    captured = http.get("/not-awaited")
    assert {call[0] for call in sessions.calls} == {captured.headers["X-Noukai-Session"]}
    routes.replaying = True
    for _ in range(5):
        replayed = replay(http, "/not-awaited", captured)
        assert (replayed.status_code, replayed.content) == (200, captured.content)
        assert replayed.headers["X-Noukai-Replay-Report"] == f"hits=3; {CLEAN}"
    assert len(sessions.calls) == 3


def test_worker_started_by_first_request_keeps_sessions_apart(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions
) -> None:
    http, _ = app
    captured = []
    for _ in range(3):
        captured.append(http.get("/worker"))
        # A WSGI server closes the response after the client has all of it.
        wait_until(lambda: not lost_scope.open_captures, what="the end of the request")
    owners = [call[0] for call in sessions.calls]
    assert owners[0] == captured[0].headers["X-Noukai-Session"]
    assert len(set(owners)) == 3
    # The worker is in no replay, so its call goes live: the report must say so.
    replayed = replay(http, "/worker", captured[0])
    assert replayed.status_code == 500
    assert replayed.json()["error"] == "replay_error"
    assert len(replayed.json()["report"]["lost"]) == 1


def test_detached_worker_serves_captures_and_replays_in_any_order(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions
) -> None:
    http, routes = app
    captured = http.get("/detached-worker")
    routes.detached_worker = in_threads.QueueWorker()  # as after a restart
    for _ in range(2):
        replayed = replay(http, "/detached-worker", captured)
        assert (replayed.status_code, replayed.content) == (200, captured.content)
        later = http.get("/detached-worker")
        assert sessions.calls[-1][0] == later.headers["X-Noukai-Session"]
    assert len(sessions.calls) == 3


def test_server_whose_first_request_is_a_replay_works_afterwards(
    app: tuple[httpx.Client, Routes], sessions: RecordedSessions
) -> None:
    http, routes = app
    captured = http.get("/shared-pool")
    routes.pool = ThreadPoolExecutor(2)  # as after a restart
    for _ in range(2):
        assert replay(http, "/shared-pool", captured).content == captured.content
        later = http.get("/shared-pool")
        assert sessions.calls[-1][0] == later.headers["X-Noukai-Session"]
    assert len(sessions.calls) == 3


def test_call_without_scope_during_replay_is_refused_and_counted(
    app: tuple[httpx.Client, Routes],
    sessions: RecordedSessions,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    http, routes = app
    captured = http.get("/plain")
    outcomes: list[object] = []
    answering, asked = threading.Event(), threading.Event()
    serve = routes.serve

    def serve_while_others_call(name: str) -> object:
        result = serve(name)
        answering.set()
        asked.wait(20)
        return result

    monkeypatch.setattr(routes, "serve", serve_while_others_call)

    def call_without_scope() -> None:
        answering.wait(20)
        try:
            ask(routes.noukai, "lost")
        except ReplayError as error:
            outcomes.append(str(error))
        with detached():
            outcomes.append(ask(routes.noukai, "apart"))
        asked.set()

    thread = threading.Thread(target=call_without_scope)
    thread.start()
    replayed = replay(http, "/plain", captured)
    thread.join()
    refused, apart = outcomes
    assert "carries no scope while a replay is under way" in str(refused)
    assert "noukai_sdk.detached()" in str(refused)
    assert apart == "grade-3: apart #2"
    assert replayed.content == captured.content
    assert replayed.headers["X-Noukai-Replay-Report"] == f"hits=1; {CLEAN}; lost=1"
    assert [call[2] for call in sessions.calls] == ["plain", "apart"]


def test_call_without_scope_during_capture_warns_once_for_each_call_site(
    app: tuple[httpx.Client, Routes], monkeypatch: pytest.MonkeyPatch
) -> None:
    http, routes = app
    monkeypatch.setattr(lost_scope, "_warned", set())
    answering, asked = threading.Event(), threading.Event()

    def serve(name: str) -> str:
        answering.set()
        asked.wait(20)
        return name

    monkeypatch.setattr(routes, "serve", serve)
    with ThreadPoolExecutor(1) as client:
        request = client.submit(http.get, "/plain")
        answering.wait(20)
        with pytest.warns(LostScopeWarning, match="so it is in no session") as caught:
            [ask(routes.noukai, "lost") for _ in range(3)]
        asked.set()
        assert request.result().status_code == 200
    assert len(caught) == 1
    wait_until(lambda: not lost_scope.open_captures, what="the end of the request")
    ask(routes.noukai, "no request is under way")


@pytest.fixture(params=["uvicorn", "flask"])
def app_in_middleware(
    request: pytest.FixtureRequest, sessions: RecordedSessions
) -> Iterator[httpx.Client]:
    """A server whose app is inside of a middleware that makes a call for each request."""
    sessions.numbered = True
    if request.param == "uvicorn":
        asgi, routes = in_threads.fastapi_app()
        flow = AsyncNoukai(org="acme", project="spelling").flow("grade-3")

        async def asgi_middleware(scope: Any, receive: Any, send: Any) -> None:
            if scope["type"] == "http":
                await flow.execute(message="outside")
            await asgi(scope, receive, send)

        serve = serve_app(asgi_middleware)
    else:
        wsgi, routes = in_threads.flask_app()

        def wsgi_middleware(environ: Any, start_response: Any) -> Any:
            ask(routes.noukai, "outside")
            return wsgi(environ, start_response)

        serve = serve_wsgi(wsgi_middleware)
    with serve as url, httpx.Client(base_url=url, timeout=20, trust_env=False) as http:
        yield http
    routes.pool.shutdown()


def test_call_of_middleware_outside_of_ours_is_lost_and_reported(
    app_in_middleware: httpx.Client, sessions: RecordedSessions
) -> None:
    with pytest.warns(LostScopeWarning, match="before its request reached") as caught:
        captured = [app_in_middleware.get("/plain") for _ in range(3)][-1]
    assert len(caught) == 1
    assert [call[0] is None for call in sessions.calls] == [True, False] * 3

    replayed = replay(app_in_middleware, "/plain", captured)
    assert replayed.content == captured.content
    assert replayed.headers["X-Noukai-Replay-Report"] == f"hits=1; {CLEAN}; lost=1"
