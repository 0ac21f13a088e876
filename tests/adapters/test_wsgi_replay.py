"""The WSGI middleware in replay mode, step by step."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from noukai_sdk import APIConnectionError, AsyncNoukai, Noukai, ReplayMissError
from noukai_sdk.adapters.wsgi import NoukaiTraceMiddleware
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import current_scope
from tests.adapters.service import Service
from tests.support.wsgi_driver import Exchange, FileWrapper

pytestmark = pytest.mark.usefixtures("replay_enabled")

Respond = Callable[[Any], Iterable[bytes]]


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    assert current_scope() is None


@pytest.fixture(autouse=True)
def warnings_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "noukai_sdk")


class App:
    """Makes ``calls`` flow calls, then answers."""

    def __init__(self, noukai: Noukai, calls: int = 1) -> None:
        self.noukai = noukai
        self.calls = calls
        self.respond: Respond = self.answers
        self.wsgi = NoukaiTraceMiddleware(self, client=noukai)

    def __call__(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        self.environ = environ
        for number in range(self.calls):
            self.call(f"text {number}")
        return self.respond(start_response)

    def call(self, message: str) -> Any:
        return self.noukai.flow("grade-3").execute(message=message).result

    def answers(self, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("A", "b")])
        return [b"answer"]

    def captured(self) -> str:
        return Exchange(self.wsgi).run().headers["x-noukai-session"]

    def replay(self, session: str, method: str = "GET") -> Exchange:
        return Exchange(self.wsgi, replay=session, method=method)


@pytest.fixture
def app(sync_noukai: Noukai) -> App:
    return App(sync_noukai)


def said(answer: Exchange) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(answer.body)
    return content


def test_a_replayed_answer_equals_the_captured_one(app: App, service: Service) -> None:
    session = app.captured()
    answer = app.replay(session).run()
    assert (answer.status, answer.body, answer.headers["a"]) == (200, b"answer", "b")
    assert answer.headers["x-noukai-session"] == session
    assert answer.headers["x-noukai-replay-report"] == "hits=1; misses=0; drift=0; leftovers=0"
    assert len(service.calls) == 1
    assert service.fetched == [session]


def test_the_async_client_fetches_here_too(app: App, service: Service) -> None:
    session = app.captured()
    app.wsgi.client = AsyncNoukai(org="acme", project="spelling")
    for _ in range(3):
        assert app.replay(session).run().status == 200
    assert service.fetched == [session] * 3


def test_installed_twice_it_fetches_once(app: App, service: Service) -> None:
    session = app.captured()
    app.wsgi = NoukaiTraceMiddleware(app.wsgi, client=app.noukai)
    assert app.replay(session).run().status == 200
    assert service.fetched == [session]


def test_with_the_gate_closed_the_header_changes_nothing(
    app: App, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = app.captured()
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    for header in (session, "../../etc/passwd"):
        answer = app.replay(header).run()
        assert answer.status == 200
        assert answer.headers["x-noukai-session"] not in (session, header)
    assert len(service.calls) == 3
    assert service.fetched == []


def test_a_fork_answers_under_its_child_session(app: App, service: Service) -> None:
    app.calls = 3
    session = app.captured()
    answer = app.replay(f"{session};live-from=2").run()
    child = answer.headers["x-noukai-session"]
    assert answer.status == 200
    assert child != session
    assert [call[0] for call in service.calls] == [session, session, session, child]


@pytest.mark.parametrize("header", ["", "..", "a/b", "a b", "a%2Fb", "é", "x" * 129, "a,b"])
def test_a_hostile_id_is_refused_before_anything_is_asked(
    app: App, service: Service, header: str
) -> None:
    answer = app.replay(header).run()
    assert (answer.status, said(answer)["error"]) == (400, "replay_invalid_session")
    assert "x-noukai-session" not in answer.headers
    assert service.calls == []
    assert service.fetched == []


@pytest.mark.parametrize(
    ("served", "status", "code"),
    [
        (403, 403, "replay_forbidden"),
        (404, 404, "replay_not_found"),
        (410, 410, "replay_expired"),
        (401, 502, "replay_unavailable"),
    ],
)
def test_a_session_that_cannot_be_had_is_refused(
    app: App, service: Service, served: int, status: int, code: str
) -> None:
    service.refusals["abc-123"] = served
    answer = app.replay("abc-123").run()
    assert (answer.status, said(answer)["error"]) == (status, code)
    assert answer.headers["x-noukai-session"] == "abc-123"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert b"secret" not in answer.body
    assert service.calls == []


def test_a_head_request_gets_headers_only(app: App) -> None:
    answer = app.replay("unknown-id", "HEAD").run()
    assert (answer.status, answer.body) == (404, b"")
    assert int(answer.headers["content-length"]) > 0


def test_a_service_that_cannot_be_reached(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(session_id: str, source: Any) -> Any:
        raise APIConnectionError("connection to http://secret refused")

    monkeypatch.setattr("noukai_sdk.adapters.wsgi.open_replay_sync", unreachable)
    answer = app.replay("abc-123").run()
    assert (answer.status, said(answer)["error"]) == (502, "replay_unavailable")
    assert b"secret" not in answer.body


@pytest.mark.parametrize("calls", [0, 2])
def test_one_call_fewer_and_one_more_are_errors(app: App, calls: int) -> None:
    session = app.captured()
    app.calls = calls
    answer = app.replay(session).run()
    content = said(answer)
    assert (answer.status, content["error"]) == (500, "replay_error")
    assert "grade-3" in content["message"]
    assert content["report"]["misses" if calls else "leftovers"][0]["slug"] == "grade-3"
    assert answer.headers["x-noukai-session"] == session
    assert len(answer.starts) == 1


def test_a_leftover_behind_an_error_answer_says_so(app: App) -> None:
    session = app.captured()

    def unprocessable(start_response: Any) -> Iterable[bytes]:
        start_response("422 Unprocessable Content", [])
        return []

    app.calls, app.respond = 0, unprocessable
    assert "responded with 422" in said(app.replay(session).run())["message"]


def test_a_swallowed_miss_is_still_an_error(app: App) -> None:
    session = app.captured()

    def swallows(start_response: Any) -> Iterable[bytes]:
        with pytest.raises(ReplayMissError):
            app.call("one more")
        return app.answers(start_response)

    app.respond = swallows
    answer = app.replay(session).run()
    assert (answer.status, said(answer)["error"]) == (500, "replay_error")


def test_an_error_of_the_application_is_raised_again(app: App) -> None:
    session = app.captured()

    def fails(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        raise KeyError("mine")

    app.respond = fails
    exchange = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        exchange.run()
    assert exchange.starts == []


class Body:
    """Parts that make a flow call where one is None; remembers whether it was closed."""

    def __init__(self, app: App, *parts: bytes | None, at_close: str | None = None) -> None:
        self.app = app
        self.parts = parts
        self.at_close = at_close
        self.closed = 0

    def __iter__(self) -> Iterator[bytes]:
        for part in self.parts:
            yield self.app.call("text 0").encode() if part is None else part

    def close(self) -> None:
        self.closed += 1
        if self.at_close is not None:
            self.app.call(self.at_close)


def responding(app: App, body: Iterable[bytes]) -> None:
    def respond(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return body

    app.respond = respond


def test_calls_in_the_body_are_served_before_anything_goes_out(app: App) -> None:
    session = app.captured()
    body = Body(app, b"", None, b"")
    app.calls = 0
    responding(app, body)
    answer = app.replay(session).call()
    assert body.closed == 1
    assert answer.status == 200
    assert b"".join(answer.result) == b"grade-3: text 0"


@pytest.mark.parametrize("at_close", [None, "one more"])
def test_a_miss_in_the_body_or_at_its_close_is_the_answer(app: App, at_close: str | None) -> None:
    session = app.captured()
    body = Body(app, *([None, None] if at_close is None else [None]), at_close=at_close)
    app.calls = 0
    responding(app, body)
    if at_close is None:
        body.parts = (b"", None, None)
        app.calls = 1
    answer = app.replay(session).run()
    assert (answer.status, said(answer)["error"]) == (500, "replay_error")
    assert body.closed == 1


def test_a_stream_goes_through_from_its_second_part_on(app: App, caplog: Any) -> None:
    session = app.captured()
    body = Body(app, b"a", b"", b"b", None, b"c")
    app.calls = 0
    responding(app, body)
    exchange = app.replay(session).call()
    assert exchange.headers["x-noukai-replay-report"].startswith("hits=0")
    parts = iter(exchange.result)
    assert [next(parts) for _ in range(3)] == [b"a", b"", b"b"]
    assert current_scope() is None
    assert list(parts) == [b"grade-3: text 0", b"c"]
    assert body.closed == 0
    exchange.close()
    exchange.close()
    assert body.closed == 1
    assert not caplog.records


def test_the_verdict_on_a_stream_goes_to_the_log_at_its_close(app: App, caplog: Any) -> None:
    session = app.captured()
    app.calls = 0
    responding(app, Body(app, b"a", b"b"))
    exchange = app.replay(session).call()
    assert list(exchange.result) == [b"a", b"b"]
    assert not caplog.records
    exchange.close()
    exchange.close()
    [record] = caplog.records
    assert "grade-3" in record.getMessage()
    assert len(exchange.starts) == 1


def test_a_miss_in_mid_stream_is_raised_and_logged(app: App, caplog: Any) -> None:
    session = app.captured()
    responding(app, Body(app, b"a", b"b", None))
    exchange = app.replay(session)
    with pytest.raises(ReplayMissError):
        exchange.run()
    assert exchange.body == b"ab"
    assert len(exchange.starts) == 1
    assert "grade-3" in caplog.text


def test_a_client_that_leaves_is_no_error(
    app: App, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = app.captured()
    ended: list[Any] = []
    monkeypatch.setattr(ReplayScope, "end", lambda scope: ended.append(scope.session_id))
    app.calls = 0
    body = Body(app, b"a", b"b", None)
    responding(app, body)
    exchange = app.replay(session).call()
    next(iter(exchange.result))
    assert ended == []
    exchange.close()
    assert body.closed == 1
    assert ended == [session]
    assert not caplog.records


@pytest.mark.parametrize("calls", [0, 1])
def test_a_file_passes_as_it_is(app: App, calls: int) -> None:
    session = app.captured()
    file = io.BytesIO(b"content")

    def sends_file(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return app.environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]  # WSGI's environ holds anything

    app.calls, app.respond = calls, sends_file
    exchange = app.replay(session).call()
    assert isinstance(exchange.result, FileWrapper) == bool(calls)
    assert file.closed != bool(calls)
    assert exchange.status == (200 if calls else 500)


def test_what_is_written_waits_as_well(app: App) -> None:
    session = app.captured()
    exchange = app.replay(session)

    def writes(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])(b"written")
        assert exchange.starts == []
        return []

    app.respond = writes
    assert exchange.run().body == b"written"
    app.calls = 0
    exchange = app.replay(session)
    assert exchange.run().status == 500


def test_a_second_write_makes_it_a_stream(app: App, caplog: Any) -> None:
    session = app.captured()
    exchange = app.replay(session)

    def writes(start_response: Any) -> Iterable[bytes]:
        write = start_response("200 OK", [])
        for part in (b"a", b"b", b"c"):
            write(part)
        assert exchange.written == [b"a", b"b", b"c"]
        return [b"d"]

    app.respond = writes
    assert exchange.run().body == b"abcd"
    assert len(exchange.starts) == 1
    app.calls = 0
    exchange = app.replay(session)
    exchange.run()
    assert "grade-3" in caplog.text


def test_an_answer_may_be_replaced_while_it_waits(app: App) -> None:
    session = app.captured()

    def replaces(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        with pytest.raises(AssertionError, match="second time"):
            start_response("200 OK", [])
        try:
            raise KeyError("mine")
        except KeyError:
            start_response("503 Busy", [("A", "c")], sys.exc_info())
        return [b"busy"]

    app.respond = replaces
    answer = app.replay(session).run()
    assert (answer.status, answer.body, answer.headers["a"]) == (503, b"busy", "c")
    assert len(answer.starts) == 1


def test_a_stream_that_fails_tells_the_server_so(app: App) -> None:
    session = app.captured()

    def replaces(start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])

        def parts() -> Iterator[bytes]:
            yield b"a"
            yield b"b"
            try:
                raise KeyError("mine")
            except KeyError:
                start_response("500 Oops", [], sys.exc_info())

        return parts()

    app.respond = replaces
    exchange = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        exchange.run()
    assert exchange.body == b"ab"


def test_an_application_that_never_starts_is_left_to_the_server(app: App) -> None:
    session = app.captured()
    app.respond = lambda start_response: []
    assert app.replay(session).run().starts == []
    app.respond = lambda start_response: [b"a", b"b"]
    assert app.replay(session).run().starts == []
