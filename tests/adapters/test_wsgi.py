"""Test the WSGI middleware step by step: bodies, held responses, streams, files and ``write()``."""

from __future__ import annotations

import contextvars
import gc
import io
import json
import logging
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import pytest

from noukai_sdk import Noukai, ReplayMissError, current_session_id, trace_scope_sync
from noukai_sdk.adapters.wsgi import NoukaiTraceMiddleware
from noukai_sdk.replay.verdicts import stored_report
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import current_scope
from noukai_sdk.transport import background
from tests.support.wsgi_driver import Exchange, FileWrapper

pytestmark = pytest.mark.usefixtures("replay_enabled", "no_scope_leaks")

CLIENT = Noukai(api_key="nk_test")


def session() -> bytes:
    return str(current_session_id()).encode()


def trace(app: Any) -> NoukaiTraceMiddleware:
    return NoukaiTraceMiddleware(app, client=CLIENT)


def respond_with(body: Callable[[], Iterable[bytes]]) -> NoukaiTraceMiddleware:
    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body()

    return trace(app)


class SessionBody:
    """A body of three parts; each part, and the log entry of its close, is the current session."""

    def __init__(self, log: list[bytes]) -> None:
        self.log = log

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(3):
            yield session()

    def close(self) -> None:
        self.log.append(session())


def test_body_of_list_is_passed_on_unwrapped() -> None:
    exchange = Exchange(respond_with(lambda: [session()])).call()
    assert type(exchange.result) is list
    assert exchange.headers["x-noukai-session"].encode() == exchange.result[0]


@pytest.mark.parametrize("wrapper", [FileWrapper, None, lambda file: [file.read()]])
def test_body_of_file_wrapper_class_is_passed_on_unwrapped(wrapper: Any) -> None:
    is_class = wrapper is FileWrapper

    def app(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [])
        return FileWrapper(io.BytesIO(b"content"))

    exchange = Exchange(trace(app))
    exchange.environ["wsgi.file_wrapper"] = wrapper
    exchange.call()
    assert (type(exchange.result) is FileWrapper) == is_class
    assert exchange.headers["x-noukai-session"]
    assert b"".join(exchange.result) == b"content"
    exchange.close()


def test_body_steps_and_close_run_in_session_and_not_in_thread() -> None:
    log: list[bytes] = []
    exchange = Exchange(respond_with(lambda: SessionBody(log))).call()
    assert current_scope() is None
    for part in exchange.result:
        assert current_scope() is None
        exchange.written.append(part)
    exchange.close()
    exchange.close()
    expected = exchange.headers["x-noukai-session"].encode()
    assert exchange.written == [expected] * 3
    assert log == [expected]


def test_bodies_read_in_turn_keep_their_sessions() -> None:
    app = respond_with(lambda: SessionBody([]))
    exchanges = [Exchange(app).call() for _ in range(20)]
    bodies = [iter(exchange.result) for exchange in exchanges]
    for _ in range(3):
        for exchange, body in zip(exchanges, bodies, strict=True):
            exchange.written.append(next(body))
    for exchange in exchanges:
        assert set(exchange.written) == {exchange.headers["x-noukai-session"].encode()}


def test_body_dropped_or_unreadable_is_closed() -> None:
    log: list[bytes] = []
    exchange = Exchange(respond_with(lambda: SessionBody(log))).call()
    first = next(iter(exchange.result))
    exchange.result = ()
    assert log == [first]

    class Unreadable(SessionBody):
        def __iter__(self) -> Any:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        Exchange(respond_with(lambda: Unreadable(log))).call()
    gc.collect()
    assert len(log) == 2


def test_body_that_raises_passes_error_on() -> None:
    def fail() -> Iterator[bytes]:
        yield b"a"
        raise KeyError("stream")

    exchange = Exchange(respond_with(fail))
    with pytest.raises(KeyError, match="stream"):
        exchange.run()
    assert exchange.body == b"a"


def test_context_of_body_does_not_reach_thread() -> None:
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)

    class Body:
        """Sets a variable, and holds a scope open between its steps."""

        def __init__(self) -> None:
            self.token = variable.set(1)

        def __iter__(self) -> Iterator[bytes]:
            yield session()
            with trace_scope_sync(capture=True):
                yield session()
                yield session()
                assert variable.get() == 1

        def close(self) -> None:
            variable.reset(self.token)

    app = respond_with(Body)
    exchange = Exchange(app).call()
    body = iter(exchange.result)
    parts = [next(body) for _ in range(3)]
    assert parts[0] != parts[1] == parts[2]
    assert current_scope() is None
    assert variable.get() == 0
    assert Exchange(app).run().written[0] not in parts
    exchange.close()


def test_generator_application_starts_response_late_in_session() -> None:
    def app(environ: Any, start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield session()

    exchange = Exchange(trace(app)).run()
    assert exchange.headers["x-noukai-session"] == exchange.body.decode()


def test_write_and_exc_info_are_passed_on() -> None:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [("A", "b")])
        try:
            raise KeyError("mine")
        except KeyError:
            write = start_response("500 Oops", [], sys.exc_info())
        write(session())
        return [b"!"]

    exchange = Exchange(trace(app)).run()
    assert [start[0] for start in exchange.starts] == ["200 OK", "500 Oops"]
    assert exchange.starts[1][2][0] is KeyError
    assert exchange.headers.keys() == {"x-noukai-session"}
    assert exchange.body == exchange.headers["x-noukai-session"].encode() + b"!"


class App:
    """An application that makes ``calls`` flow calls, and then runs ``respond``."""

    def __init__(self, noukai: Noukai) -> None:
        self.noukai = noukai
        self.calls = 1
        self.respond: Callable[[Any], Iterable[bytes]] = lambda start: self.start(start, [b"ok"])
        self.middleware = NoukaiTraceMiddleware(self, client=noukai)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        for number in range(self.calls):
            self.call(f"text {number}")
        return self.respond(start_response)

    def call(self, message: str) -> Any:
        return self.noukai.flow("grade-3").execute(message=message).result

    def start(self, start_response: Any, body: Iterable[bytes]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    def capture(self) -> str:
        return Exchange(self.middleware).run().headers["x-noukai-session"]

    def replay(self, session: str, method: str = "GET") -> Exchange:
        return Exchange(self.middleware, replay=session, method=method)

    def capture_then_respond(self, body: Iterable[bytes], *, calls: int = 0) -> str:
        """Capture one call; later requests make ``calls`` calls and respond with ``body``."""
        session = self.capture()
        self.calls, self.respond = calls, lambda start: self.start(start, body)
        return session


@pytest.fixture
def app(sync_noukai: Noukai) -> App:
    return App(sync_noukai)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    return caplog


class Body:
    """A body of ``parts``, with a flow call for each None, and one at its close if asked for."""

    def __init__(self, app: App, *parts: bytes | None, calls_at_close: bool = False) -> None:
        self.app = app
        self.parts = parts
        self.calls_at_close = calls_at_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield self.app.call("text 0").encode() if part is None else part

    def close(self) -> None:
        self.closed += 1
        if self.calls_at_close:
            self.app.call("at close")


def error_of(exchange: Exchange) -> tuple[int, str]:
    return exchange.status, json.loads(exchange.body)["error"]


def test_refused_replay_of_head_request_has_no_body(app: App) -> None:
    exchange = app.replay("unknown-id", "HEAD").run()
    assert (exchange.status, exchange.body) == (404, b"")
    assert exchange.starts[0][0] == "404 Not Found"
    assert int(exchange.headers["content-length"]) > 0


def test_replay_makes_calls_of_body_before_it_starts_response(app: App) -> None:
    body = Body(app, b"", None, b"")
    exchange = app.replay(app.capture_then_respond(body)).call()
    assert body.closed == 1
    assert exchange.status == 200
    assert exchange.headers["x-noukai-replay-report"].startswith("hits=1")
    assert b"".join(exchange.result) == b"grade-3: text 0"


@pytest.mark.parametrize("calls_at_close", [False, True])
def test_replay_with_miss_in_body_or_at_close_fails(app: App, calls_at_close: bool) -> None:
    parts = [None] if calls_at_close else [b"", None, None]
    body = Body(app, *parts, calls_at_close=calls_at_close)
    exchange = app.replay(app.capture_then_respond(body, calls=0 if calls_at_close else 1)).run()
    assert error_of(exchange) == (500, "replay_error")
    assert len(exchange.starts) == 1
    assert body.closed == 1


def test_replay_error_before_body_starts_no_response(app: App) -> None:
    session = app.capture()

    def fail(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise KeyError("mine")

    app.respond = fail
    exchange = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        exchange.run()
    assert exchange.starts == []


def test_replayed_stream_is_sent_from_second_part_on(app: App, log: Any) -> None:
    body = Body(app, b"a", b"", b"b", None, b"c")
    exchange = app.replay(app.capture_then_respond(body)).call()
    assert exchange.headers["x-noukai-replay-report"].startswith("hits=0")
    parts = iter(exchange.result)
    assert [next(parts) for _ in range(3)] == [b"a", b"", b"b"]
    assert current_scope() is None
    assert list(parts) == [b"grade-3: text 0", b"c"]
    assert body.closed == 0
    exchange.close()
    exchange.close()
    assert body.closed == 1
    assert not log.records


def test_replayed_stream_with_leftover_is_logged_at_its_close(app: App, log: Any) -> None:
    exchange = app.replay(app.capture_then_respond(Body(app, b"a", b"b"))).call()
    assert list(exchange.result) == [b"a", b"b"]
    assert not log.records
    exchange.close()
    exchange.close()
    [record] = log.records
    assert "grade-3" in record.getMessage()
    assert len(exchange.starts) == 1


def test_replayed_stream_with_miss_raises_and_logs_it(app: App, log: Any) -> None:
    exchange = app.replay(app.capture_then_respond(Body(app, b"a", b"b", None), calls=1))
    with pytest.raises(ReplayMissError):
        exchange.run()
    assert exchange.body == b"ab"
    assert len(exchange.starts) == 1
    assert "grade-3" in log.text


@pytest.mark.parametrize("client", ["leaves earlier", "leaves there", "reads on"])
def test_stream_that_its_client_left_replays_to_that_point(
    app: App, log: Any, monkeypatch: pytest.MonkeyPatch, client: str
) -> None:
    app.middleware = NoukaiTraceMiddleware(app, client=app.noukai, capture_requests=True)
    app.calls, app.respond = 0, lambda start: app.start(start, Body(app, b"a", b"b", None, None))
    captured = Exchange(app.middleware).call()
    assert list(islice(captured.result, 3)) == [b"a", b"b", b"grade-3: text 0"]
    captured.close()
    background.flush(10)

    edit = ", please" if client == "leaves there" else ""
    monkeypatch.setattr(app, "call", lambda text: type(app).call(app, text + edit))
    monkeypatch.setattr("noukai_sdk.adapters.wsgi.LONGEST_LEAVING", 0.02)
    replay = app.replay(captured.headers["x-noukai-session"])
    ours, theirs = socket.socketpair()
    replay.environ["gunicorn.socket"] = ours
    with ours, theirs:
        replay.call()
        if client == "reads on":
            with pytest.raises(ReplayMissError, match="In production the client left"):
                list(replay.result)
        elif client == "leaves there":  # the server does not notice before it sends the next part
            theirs.close()
            assert list(replay.result) == [b"a", b"b", b"grade-3: text 0"]
        replay.close()
    report = stored_report(replay.headers["x-noukai-replay-id"])
    assert report is not None
    verdicts = {"leaves earlier": "clean", "leaves there": "differs", "reads on": "failed"}
    assert report.verdict == verdicts[client]
    # The call past the end is not called an added one.
    assert [finding["what"] for finding in report.report["findings"]] == ["changed"] * bool(edit)
    assert len(log.records) == (client != "leaves earlier")


def test_replayed_stream_closed_half_way_ends_scope_without_error(
    app: App, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Body(app, b"a", b"b", None)
    session = app.capture_then_respond(body)
    ended: list[Any] = []
    monkeypatch.setattr(ReplayScope, "end", lambda scope: ended.append(scope.session_id))
    exchange = app.replay(session).call()
    next(iter(exchange.result))
    assert ended == []
    exchange.close()
    assert body.closed == 1
    assert set(ended) == {session}
    assert not log.records


def test_replayed_response_that_fails_half_way_is_cut_off_as_when_captured(app: App) -> None:
    session = app.capture()

    def fail_half_way(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        yield b"half"
        raise KeyError("mine")

    app.respond = fail_half_way
    exchange = app.replay(session).call()
    assert (exchange.status, next(iter(exchange.result))) == (200, b"half")
    with pytest.raises(KeyError, match="mine"):
        next(iter(exchange.result))
    exchange.close()


def test_replayed_stream_that_restarts_response_raises(app: App) -> None:
    session = app.capture()

    def restart(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])

        def parts() -> Iterator[bytes]:
            yield b"a"
            yield b"b"
            try:
                raise KeyError("mine")
            except KeyError:
                start_response("500 Oops", [], sys.exc_info())

        return parts()

    app.respond = restart
    exchange = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        exchange.run()
    assert exchange.body == b"ab"


@pytest.mark.parametrize("calls", [0, 1])
def test_replayed_file_is_passed_on_unwrapped_or_closed(app: App, calls: int) -> None:
    file = io.BytesIO(b"content")
    exchange = app.replay(app.capture_then_respond(FileWrapper(file), calls=calls)).call()
    assert isinstance(exchange.result, FileWrapper) == bool(calls)
    assert file.closed != bool(calls)
    assert exchange.status == (200 if calls else 500)


def test_replayed_write_is_held_until_second_part(app: App, log: Any) -> None:
    session = app.capture()
    parts = [b"a"]

    def write_parts(start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        for part in parts:
            write(part)
        assert exchange.written == (parts if len(parts) > 1 else [])
        return [b"!"] if len(parts) > 1 else []

    app.respond = write_parts
    exchange = app.replay(session)
    assert exchange.run().body == b"a"
    app.calls = 0
    exchange = app.replay(session)
    assert error_of(exchange.run()) == (500, "replay_error")

    parts[:] = [b"a", b"b", b"c"]
    log.clear()
    exchange = app.replay(session)
    assert exchange.run().body == b"abc!"
    assert len(exchange.starts) == 1
    assert "grade-3" in log.text


def test_replayed_response_may_be_started_again_with_exc_info(app: App) -> None:
    session = app.capture()

    def start_twice(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        with pytest.raises(AssertionError, match="second time"):
            start_response("200 OK", [])
        try:
            raise KeyError("mine")
        except KeyError:
            start_response("503 Busy", [("A", "c")], sys.exc_info())
        return [b"busy"]

    app.respond = start_twice
    exchange = app.replay(session).run()
    assert (exchange.status, exchange.body, exchange.headers["a"]) == (503, b"busy", "c")
    assert len(exchange.starts) == 1


def test_replayed_body_without_start_response_is_left_to_server(app: App) -> None:
    session = app.capture()
    app.respond = lambda _: [b"a", b"b"]
    assert app.replay(session).run().starts == []
