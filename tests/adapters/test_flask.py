"""Flask: one call, or an extension object for application factories; with Flask's test client."""

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
from tests.adapters.service import Service

CLIENT = Noukai(api_key="nk_test")


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    assert current_scope() is None


@pytest.fixture
def app(sync_noukai: Noukai) -> Flask:
    app = Flask(__name__)
    init_noukai_trace(app, client=sync_noukai)
    add_routes(app, sync_noukai)
    return app


def add_routes(app: Flask, noukai: Noukai) -> None:  # a list of routes
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
        with ContextThreadPoolExecutor() as pool:
            running = [
                pool.submit(noukai.flow(f"grade-{number}").execute, message=str(number))
                for number in range(5)
            ]
            return jsonify([future.result().result for future in running])

    @app.get("/calls/<int:count>")
    def calls(count: int) -> Any:
        return jsonify([flow.execute(message=str(number)).result for number in range(count)])

    @app.get("/swallows/<int:count>")
    def swallows(count: int) -> str:
        try:
            calls(count)
        except Exception:  # noqa: BLE001  # as an application does that wants to stay up
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


@pytest.mark.parametrize("route", ["plain", "stream", "threads"])
def test_a_replay_equals_its_capture_with_no_call_paid(
    app: Flask, service: Service, replay_enabled: None, route: str
) -> None:
    http = app.test_client()
    captured = http.post(f"/{route}", json={"text": "The cat sat."})
    session = captured.headers["X-Noukai-Session"]
    assert captured.status_code == 200
    assert captured.data  # the test client reads a stream no earlier
    assert {call[0] for call in service.calls} == {session}
    paid = len(service.calls)

    headers = {"X-Noukai-Replay": session}
    replayed = http.post(f"/{route}", json={"text": "The cat sat."}, headers=headers)
    assert (replayed.status_code, replayed.data) == (200, captured.data)
    assert replayed.headers["X-Noukai-Session"] == session
    assert "misses=0; drift=0" in replayed.headers["X-Noukai-Replay-Report"]
    assert len(service.calls) == paid
    assert service.fetched == [session]


@pytest.mark.parametrize(("path", "status"), [("/teapot", 418), ("/nowhere", 404), ("/fails", 500)])
def test_every_error_answer_carries_the_session(app: Flask, path: str, status: int) -> None:
    http = app.test_client()
    for method in (http.get, http.head):
        answer = method(path)
        assert answer.status_code == status
        assert answer.headers["X-Noukai-Session"]


@pytest.mark.parametrize("path", ["calls", "swallows", "wraps"])
@pytest.mark.parametrize("count", [1, 3])
def test_fewer_and_more_calls_than_recorded(
    app: Flask, service: Service, replay_enabled: None, path: str, count: int
) -> None:
    http = app.test_client()
    session = http.get("/calls/2").headers["X-Noukai-Session"]
    answer = http.get(f"/{path}/{count}", headers={"X-Noukai-Replay": session})
    assert (answer.status_code, answer.json["error"]) == (500, "replay_error")
    assert "grade-3" in answer.json["message"]
    assert "application" not in answer.json["message"]
    assert answer.headers["X-Noukai-Session"] == session
    report = answer.json["report"]
    assert [len(report["misses"]), len(report["leftovers"])] == ([0, 1] if count == 1 else [1, 0])
    assert len(service.calls) == 2


def test_a_replay_error_that_a_view_raises_in_capture_mode_is_answered_too(app: Flask) -> None:
    @app.get("/own-replay")
    def own_replay() -> Any:
        raise ReplayMissError("of an own replay")

    answer = app.test_client().get("/own-replay")
    assert (answer.status_code, answer.json["message"]) == (500, "of an own replay")
    assert answer.headers["X-Noukai-Session"]


def test_a_file(app: Flask, replay_enabled: None) -> None:
    @app.get("/file")
    def file() -> Any:
        app.view_functions["calls"](1)
        return send_file(io.BytesIO(b"content"), mimetype="text/plain")

    http = app.test_client()
    captured = http.get("/file")
    headers = {"X-Noukai-Replay": captured.headers["X-Noukai-Session"]}
    replayed = http.get("/file", headers=headers)
    assert (replayed.status_code, replayed.data) == (200, b"content")


def test_an_abandoned_stream_leaves_the_thread_clean(app: Flask) -> None:
    answer = app.test_client().post("/stream", buffered=False)
    next(answer.iter_encoded())
    assert current_scope() is None
    answer.close()
    assert current_scope() is None


def test_a_stream_that_is_dropped_is_closed_silently(app: Flask) -> None:
    answer = app.test_client().post("/stream", buffered=False)
    next(answer.iter_encoded())
    del answer
    assert current_scope() is None


def test_what_a_request_leaves_open_does_not_reach_the_next(app: Flask) -> None:
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


def test_the_factory_pattern() -> None:
    extension = NoukaiTrace(client=CLIENT)
    apps = [Flask("one"), Flask("two")]
    for app in apps:
        extension.init_app(app)
        assert app.extensions["noukai_trace"] is extension
        assert app.test_client().get("/").headers["X-Noukai-Session"]


def test_a_client_may_come_with_the_application() -> None:
    app = Flask("late")
    extension = NoukaiTrace()
    extension.init_app(app, client=AsyncNoukai(api_key="nk_test"))
    assert app.test_client().get("/").headers["X-Noukai-Session"]


def test_a_second_time_does_nothing() -> None:
    app = Flask("twice")
    NoukaiTrace(app, client=CLIENT)
    wrapped = app.wsgi_app
    init_noukai_trace(app, client=CLIENT)
    assert app.wsgi_app is wrapped
    assert isinstance(wrapped, NoukaiTraceMiddleware)


def test_it_needs_a_client() -> None:
    app = Flask("none")
    with pytest.raises(TypeError, match="client="):
        NoukaiTrace().init_app(app)
    with pytest.raises(TypeError, match="client="):
        init_noukai_trace(app, client="nk_key")  # type: ignore[arg-type]  # on purpose
    assert "noukai_trace" not in app.extensions
    assert "X-Noukai-Session" not in app.test_client().get("/").headers


def test_1000_interleaved_captures_and_replays_do_not_mix(
    app: Flask, service: Service, replay_enabled: None
) -> None:
    def capture(number: int) -> tuple[str, Any]:
        answer = app.test_client().post("/plain", json={"text": f"text {number}"})
        return answer.headers["X-Noukai-Session"], answer.json

    def either(number: int) -> None:
        if number % 2:
            session, answer = capture(number)
            assert answer == {"output": f"grade-3: text {number}"}
            assert session not in recorded
            return
        session, expected = list(recorded.items())[number % 100]
        headers = {"X-Noukai-Replay": session}
        replayed = app.test_client().post("/plain", json={"text": "x"}, headers=headers)
        assert (replayed.json, replayed.headers["X-Noukai-Session"]) == (expected, session)

    with ThreadPoolExecutor(16) as pool:
        recorded = dict(pool.map(capture, range(100)))
        assert len(recorded) == 100
        list(pool.map(either, range(1000)))
    assert len(service.calls) == 600


def test_what_is_no_flask_application_is_refused() -> None:
    with pytest.raises(TypeError, match="app must be a Flask application, not <"):
        init_noukai_trace(object(), client=CLIENT)  # type: ignore[arg-type]  # on purpose
