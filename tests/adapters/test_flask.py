"""Test the Flask adapter with Flask's test client: one function, and an extension for factories."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask, Response, abort, jsonify, request, send_file, stream_with_context

import noukai_sdk
from noukai_sdk import (
    AsyncNoukai,
    ContextThreadPoolExecutor,
    Noukai,
    ReplayError,
    ReplayMissError,
    current_session_id,
    trace_scope_sync,
)
from noukai_sdk.adapters.flask import NoukaiTrace, NoukaiTraceMiddleware, init_noukai_trace
from noukai_sdk.session.scope import current_scope
from tests.support.sessions import RecordedSessions

pytestmark = pytest.mark.usefixtures("no_scope_leaks")

CLIENT = Noukai(api_key="nk_test")


@pytest.fixture
def app(sync_noukai: Noukai) -> Flask:
    app = Flask(__name__)
    init_noukai_trace(app, client=sync_noukai)
    add_routes(app, sync_noukai)
    add_failing_routes(app, sync_noukai)
    return app


def add_routes(app: Flask, noukai: Noukai) -> None:
    flow = noukai.flow("grade-3")

    @app.post("/plain")
    @noukai_sdk.trace
    def plain() -> Any:
        return {"output": flow.execute(message=request.get_json()["text"]).result}

    @app.post("/stream")
    @noukai_sdk.trace
    def stream() -> Response:
        return Response(stream_with_context(parts()), mimetype="text/plain")

    def parts() -> Iterator[str]:
        assert request.path == "/stream"
        for step in flow.steps(message="a"):
            yield f"{step.step_id}={step.output};"
        yield str(flow.execute(message="b").result)

    @app.post("/threads")
    @noukai_sdk.trace
    def threads() -> Any:
        def execute(slug: str) -> Any:
            return noukai.flow(slug).execute(message=slug).result

        with ContextThreadPoolExecutor() as pool:
            return jsonify(list(pool.map(execute, [f"grade-{number}" for number in range(5)])))

    @app.post("/file")
    def file() -> Any:
        flow.execute(message="a")
        return send_file(io.BytesIO(b"content"), mimetype="text/plain")


def add_failing_routes(app: Flask, noukai: Noukai) -> None:
    flow = noukai.flow("grade-3")

    @app.get("/calls/<int:count>")
    def calls(count: int) -> Any:
        return jsonify([flow.execute(message=str(number)).result for number in range(count)])

    @app.get("/swallows/<int:count>")
    def swallows(count: int) -> str:
        try:
            calls(count)
        except Exception:  # noqa: BLE001  # as in an application that must not fail
            return "sorry"
        return "fine"

    @app.get("/wraps/<int:count>")
    def wraps(count: int) -> str:
        try:
            calls(count)
        except ReplayError as error:
            raise RuntimeError("mine") from error
        return "fine"

    @app.get("/fails")
    def fails() -> Any:
        raise KeyError("mine")

    @app.get("/teapot")
    def teapot() -> Any:
        abort(418)

    @app.get("/own-replay")
    def own_replay() -> Any:
        raise ReplayMissError("of an own replay")


@pytest.mark.parametrize("route", ["plain", "stream", "threads", "file"])
def test_replay_of_route_equals_capture_without_paid_call(
    app: Flask, sessions: RecordedSessions, replay_enabled: None, route: str
) -> None:
    http = app.test_client()
    captured = http.post(f"/{route}", json={"text": "The cat sat."})
    session = captured.headers["X-Noukai-Session"]
    assert captured.status_code == 200
    assert captured.data  # the test client reads a stream only now
    assert {call[0] for call in sessions.calls} == {session}
    paid = len(sessions.calls)

    headers = {"X-Noukai-Replay": session}
    replayed = http.post(f"/{route}", json={"text": "The cat sat."}, headers=headers)
    assert (replayed.status_code, replayed.data) == (200, captured.data)
    assert replayed.headers["X-Noukai-Session"] == session
    assert "misses=0; drift=0" in replayed.headers["X-Noukai-Replay-Report"]
    assert len(sessions.calls) == paid
    assert sessions.fetched == [session]


def test_error_response_carries_session(app: Flask) -> None:
    http = app.test_client()
    for path, status in (("/teapot", 418), ("/nowhere", 404), ("/fails", 500)):
        for method in (http.get, http.head):
            response = method(path)
            assert response.status_code == status
            assert response.headers["X-Noukai-Session"]


@pytest.mark.parametrize("path", ["calls", "swallows", "wraps"])
@pytest.mark.parametrize(("count", "misses", "leftovers"), [(1, 0, 1), (3, 1, 0)])
def test_replay_with_other_number_of_calls_fails(
    app: Flask,
    sessions: RecordedSessions,
    replay_enabled: None,
    path: str,
    count: int,
    misses: int,
    leftovers: int,
) -> None:
    http = app.test_client()
    session = http.get("/calls/2").headers["X-Noukai-Session"]
    response = http.get(f"/{path}/{count}", headers={"X-Noukai-Replay": session})
    assert (response.status_code, response.json["error"]) == (500, "replay_error")
    assert "grade-3" in response.json["message"]
    assert "application" not in response.json["message"]
    assert response.headers["X-Noukai-Session"] == session
    report = response.json["report"]
    assert (len(report["misses"]), len(report["leftovers"])) == (misses, leftovers)
    assert len(sessions.calls) == 2


def test_replay_error_raised_by_view_in_capture_becomes_json_response(app: Flask) -> None:
    response = app.test_client().get("/own-replay")
    assert (response.status_code, response.json["message"]) == (500, "of an own replay")
    assert response.headers["X-Noukai-Session"]


@pytest.mark.parametrize("closes", [True, False])
def test_stream_closed_or_dropped_half_way_leaves_thread_clean(app: Flask, closes: bool) -> None:
    response = app.test_client().post("/stream", buffered=False)
    next(response.iter_encoded())
    assert current_scope() is None
    if closes:
        response.close()
    del response
    assert current_scope() is None


def test_scope_left_open_by_request_does_not_reach_next_request(app: Flask) -> None:
    opened: list[Any] = []

    @app.get("/careless")
    def careless() -> str:
        opened.append(trace_scope_sync())
        opened[-1].__enter__()
        return str(current_session_id())

    http = app.test_client()
    first, second = http.get("/careless"), http.get("/careless")
    assert current_scope() is None
    assert first.text != second.text
    assert first.headers["X-Noukai-Session"] != second.headers["X-Noukai-Session"]
    assert first.text not in (second.headers["X-Noukai-Session"], second.text)


def test_extension_traces_applications_of_factories() -> None:
    extension = NoukaiTrace(client=CLIENT)
    without_client = NoukaiTrace()
    for app in (Flask("one"), Flask("two")):
        extension.init_app(app)
        assert app.extensions["noukai_trace"] is extension
        assert app.test_client().get("/").headers["X-Noukai-Session"]
        # A second time does nothing.
        traced = app.wsgi_app
        init_noukai_trace(app, client=CLIENT)
        assert app.wsgi_app is traced
        assert isinstance(traced, NoukaiTraceMiddleware)

    late = Flask("late")
    without_client.init_app(late, client=AsyncNoukai(api_key="nk_test"))
    assert late.test_client().get("/").headers["X-Noukai-Session"]
    other = Flask("other")
    NoukaiTrace(other, client=CLIENT)
    assert other.test_client().get("/").headers["X-Noukai-Session"]


def test_init_with_invalid_argument_raises() -> None:
    app = Flask("none")
    with pytest.raises(TypeError, match="client="):
        NoukaiTrace().init_app(app)
    with pytest.raises(TypeError, match="client="):
        init_noukai_trace(app, client="nk_key")  # type: ignore[arg-type]  # on purpose
    with pytest.raises(TypeError, match="app must be a Flask application, not <"):
        init_noukai_trace(object(), client=CLIENT)  # type: ignore[arg-type]  # on purpose
    assert "noukai_trace" not in app.extensions
    assert "X-Noukai-Session" not in app.test_client().get("/").headers


def test_concurrent_captures_and_replays_do_not_mix(
    app: Flask, sessions: RecordedSessions, replay_enabled: None
) -> None:
    def capture(number: int) -> tuple[str, Any]:
        response = app.test_client().post("/plain", json={"text": f"text {number}"})
        return response.headers["X-Noukai-Session"], response.json

    def capture_or_replay(number: int) -> None:
        if number % 2:
            session, body = capture(number)
            assert body == {"output": f"grade-3: text {number}"}
            assert session not in recorded
            return
        session, expected = list(recorded.items())[number % 100]
        headers = {"X-Noukai-Replay": session}
        replayed = app.test_client().post("/plain", json={"text": "x"}, headers=headers)
        assert (replayed.json, replayed.headers["X-Noukai-Session"]) == (expected, session)

    with ThreadPoolExecutor(16) as pool:
        recorded = dict(pool.map(capture, range(100)))
        assert len(recorded) == 100
        list(pool.map(capture_or_replay, range(400)))
    assert len(sessions.calls) == 300
