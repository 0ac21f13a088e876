"""Test what the ASGI and the WSGI middleware have in common: capture, replay and refusals."""

from __future__ import annotations

import json
import logging
import uuid
from contextlib import nullcontext, suppress
from typing import Any

import anyio
import anyio.to_thread
import pytest

from noukai_sdk import (
    APIConnectionError,
    AsyncNoukai,
    Noukai,
    ReplayMissError,
    current_session_id,
    trace_scope,
)
from noukai_sdk.adapters import asgi, wsgi
from tests.support.asgi_driver import Connection, http_scope
from tests.support.sessions import RecordedSessions
from tests.support.wsgi_driver import Exchange

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("no_scope_leaks")]


class App:
    """An application that calls a flow, and then responds with its session id.

    Attributes:
        calls: How many calls a request makes.
        catches_miss: The application ignores a ReplayMissError.
        failure: An exception to raise after the calls.
        responds: False for an application that ends without a response.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.catches_miss = False
        self.failure: Exception | None = None
        self.responds = True
        self.status = 200
        self.headers = [("a", "b")]
        self.middleware: Any = None

    async def call(self, execute: Any) -> None:
        """Make the calls; ``execute`` makes one."""
        for number in range(self.calls):
            with suppress(ReplayMissError) if self.catches_miss else nullcontext():
                await execute(f"text {number}")
        if self.failure is not None:
            raise self.failure

    @property
    def body(self) -> bytes:
        return str(current_session_id()).encode()


class AsgiApp(App):
    name = "asgi"

    def __init__(self, noukai: AsyncNoukai, _: Noukai) -> None:
        super().__init__()
        self.flow = noukai.flow("grade-3")
        self.client: Any = noukai
        self.wrap(self)

    def wrap(self, app: Any, client: Any = None) -> None:
        self.middleware = asgi.NoukaiTraceMiddleware(app, client=client or self.client)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = self.body
        await self.call(lambda text: self.flow.execute(message=text))
        await anyio.lowlevel.checkpoint()
        if self.responds:
            assert self.body == body
            headers = [(name.encode(), value.encode()) for name, value in self.headers]
            start = {"type": "http.response.start", "status": self.status, "headers": headers}
            await send(start)
            await send({"type": "http.response.body", "body": body})

    async def request(self, replay: str | None = None) -> Connection:
        return await Connection(self.middleware, http_scope(replay=replay)).run()

    async def request_twice_with_same_scope(self) -> list[bytes]:
        scope = http_scope()
        return [(await Connection(self.middleware, scope).run()).body for _ in range(2)]


class WsgiApp(App):
    name = "wsgi"

    def __init__(self, _: AsyncNoukai, noukai: Noukai) -> None:
        super().__init__()
        self.flow = noukai.flow("grade-3")
        self.client: Any = noukai
        self.wrap(self)

    def wrap(self, app: Any, client: Any = None) -> None:
        self.middleware = wsgi.NoukaiTraceMiddleware(app, client=client or self.client)

    def __call__(self, environ: Any, start_response: Any) -> list[bytes]:
        async def execute(text: str) -> None:
            self.flow.execute(message=text)

        calling = self.call(execute)
        with pytest.raises(StopIteration):  # it never waits
            calling.send(None)
        if not self.responds:
            return []
        start_response(f"{self.status} Reason", list(self.headers))
        return [self.body]

    async def request(self, replay: str | None = None) -> Exchange:
        return await anyio.to_thread.run_sync(Exchange(self.middleware, replay=replay).run)

    async def request_twice_with_same_scope(self) -> list[bytes]:
        exchange = Exchange(self.middleware)
        first = (await anyio.to_thread.run_sync(exchange.run)).body
        exchange.starts.clear()
        exchange.written.clear()
        return [first, (await anyio.to_thread.run_sync(exchange.run)).body]


@pytest.fixture(params=[AsgiApp, WsgiApp], ids=["asgi", "wsgi"])
def app(request: pytest.FixtureRequest, noukai: AsyncNoukai, sync_noukai: Noukai) -> Any:
    return request.param(noukai, sync_noukai)


async def capture(app: Any, calls: int = 1) -> str:
    """Capture a request and return its session id."""
    app.calls = calls
    return str((await app.request()).headers["x-noukai-session"])


def error_of(response: Any) -> tuple[int, str]:
    return response.status, json.loads(response.body)["error"]


async def test_request_without_scope_gets_session_of_its_own(app: Any) -> None:
    responses = [await app.request() for _ in range(10)]
    assert len({response.body for response in responses}) == 10
    for response in responses:
        session = response.headers["x-noukai-session"]
        assert response.body.decode() == session
        assert uuid.UUID(session).version == 4
        assert response.headers["a"] == "b"
        assert "x-noukai-replay-report" not in response.headers


async def test_log_handler_hears_scope_of_each_request(
    app: Any, noukai: AsyncNoukai, sync_noukai: Noukai, replay_enabled: None
) -> None:
    events: list[tuple[str, str, str]] = []

    def hear(event: dict[str, Any]) -> None:
        if event["phase"].startswith("scope"):
            events.append((event["phase"], event["session_id"], event["mode"]))

    with Noukai(log_handler=hear) as client:
        app.wrap(app, client)
        session = await capture(app)
        assert events == [("scope_open", session, "capture"), ("scope_close", session, "capture")]
        events.clear()
        assert (await app.request(session)).status == 200
        assert events == [("scope_open", session, "replay"), ("scope_close", session, "replay")]
        events.clear()
        async with trace_scope():
            await app.request()
        assert events == []
        app.failure = KeyError("mine")
        with pytest.raises(KeyError):
            await app.request()
        assert [phase for phase, *_ in events] == ["scope_open", "scope_close"]


async def test_request_with_reused_scope_gets_new_session(app: Any) -> None:
    first, second = await app.request_twice_with_same_scope()
    assert len({first, second, b"None"}) == 3


async def test_request_inside_scope_joins_it(app: Any) -> None:
    async with trace_scope() as scope:
        response = await app.request()
    assert response.headers["x-noukai-session"] == response.body.decode() == scope.session_id

    async with trace_scope(capture=False):
        response = await app.request()
    assert response.body == b"None"
    assert "x-noukai-session" not in response.headers


async def test_response_with_foreign_session_headers_has_only_ours(app: Any) -> None:
    app.headers = [("X-NOUKAI-Session", "theirs"), ("x-noukai-replay-report", "hits=1")]
    headers = (await app.request()).headers
    assert list(headers) == ["x-noukai-session"]
    assert headers["x-noukai-session"] != "theirs"


async def test_middleware_installed_twice_acts_once(
    app: Any, sessions: RecordedSessions, replay_enabled: None
) -> None:
    app.wrap(app.middleware)
    session = await capture(app)
    assert sessions.calls == [(session, "grade-3", "text 0")]
    assert (await app.request(session)).status == 200
    assert sessions.fetched == [session]


@pytest.mark.parametrize("client", [None, "nk_key", Noukai])
async def test_middleware_without_client_raises(client: Any) -> None:
    for middleware in (asgi.NoukaiTraceMiddleware, wsgi.NoukaiTraceMiddleware):
        with pytest.raises(TypeError, match="client="):
            middleware(None, client=client)  # type: ignore[arg-type]  # on purpose


async def test_1000_concurrent_requests_have_different_sessions(app: Any) -> None:
    responses: list[Any] = []

    async def request() -> None:
        responses.append(await app.request())

    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(request)
    assert len({response.body for response in responses}) == 1000
    assert all(r.body.decode() == r.headers["x-noukai-session"] for r in responses)


async def test_replay_serves_recorded_calls(
    app: Any, sessions: RecordedSessions, replay_enabled: None
) -> None:
    session = await capture(app)
    response = await app.request(session)
    assert (response.status, response.body) == (200, session.encode())
    assert response.headers["a"] == "b"
    assert response.headers["x-noukai-session"] == session
    assert response.headers["x-noukai-replay-report"] == "hits=1; misses=0; drift=0; leftovers=0"
    assert len(sessions.calls) == 1
    assert sessions.fetched == [session]


async def test_replay_through_client_of_other_kind_works(
    app: Any, noukai: AsyncNoukai, sync_noukai: Noukai, replay_enabled: None
) -> None:
    session = await capture(app)
    app.middleware.client = noukai if app.name == "wsgi" else sync_noukai
    for _ in range(3):
        assert (await app.request(session)).status == 200


async def test_replay_header_with_replay_disabled_is_ignored(
    app: Any, sessions: RecordedSessions
) -> None:
    session = await capture(app)
    for header in (session, "../../etc/passwd"):
        response = await app.request(header)
        assert response.status == 200
        assert response.headers["x-noukai-session"] not in (session, header)
    assert len(sessions.calls) == 3
    assert sessions.fetched == []


async def test_replay_with_live_from_responds_with_child_session(
    app: Any, sessions: RecordedSessions, replay_enabled: None
) -> None:
    session = await capture(app, calls=3)
    response = await app.request(f"{session};live-from=2")
    child = response.headers["x-noukai-session"]
    assert response.status == 200
    assert child != session
    assert [call[0] for call in sessions.calls] == [session, session, session, child]


@pytest.mark.parametrize("header", ["", "..", "a/b", "a b", "a%2Fb", "é", "x" * 129, "a,b"])
async def test_replay_with_invalid_session_id_is_refused_without_request(
    app: Any, sessions: RecordedSessions, replay_enabled: None, header: str
) -> None:
    app.calls = 1
    response = await app.request(header)
    assert error_of(response) == (400, "replay_invalid_session")
    assert "x-noukai-session" not in response.headers
    assert sessions.calls == []
    assert sessions.fetched == []


@pytest.mark.parametrize(
    ("service_status", "status", "code"),
    [
        (403, 403, "replay_forbidden"),
        (404, 404, "replay_not_found"),
        (410, 410, "replay_expired"),
        (400, 400, "replay_invalid_session"),
        (401, 502, "replay_unavailable"),
        (402, 502, "replay_unavailable"),
    ],
)
async def test_replay_of_session_that_cannot_be_fetched_is_refused(
    app: Any,
    sessions: RecordedSessions,
    replay_enabled: None,
    service_status: int,
    status: int,
    code: str,
) -> None:
    sessions.refusals["abc-123"] = service_status
    app.calls = 1
    response = await app.request("abc-123")
    assert error_of(response) == (status, code)
    assert response.headers["x-noukai-session"] == "abc-123"
    assert response.headers["content-length"] == str(len(response.body))
    assert b"secret" not in response.body
    assert b"nk_dev" not in response.body
    assert sessions.calls == []


async def test_replay_of_session_without_snapshots_is_refused(
    app: Any, sessions: RecordedSessions, replay_enabled: None
) -> None:
    sessions.capture_mode = "off"
    assert error_of(await app.request(await capture(app))) == (409, "replay_no_snapshots")


async def test_replay_with_unreachable_service_is_refused(
    app: Any, replay_enabled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_sync(*_: Any) -> Any:
        raise APIConnectionError("connection to http://secret refused")

    async def fail(*_: Any) -> Any:
        fail_sync()

    monkeypatch.setattr(asgi, "open_replay", fail)
    monkeypatch.setattr(wsgi, "open_replay_sync", fail_sync)
    response = await app.request("abc-123")
    assert error_of(response) == (502, "replay_unavailable")
    assert b"could not be reached" in response.body
    assert b"secret" not in response.body


@pytest.mark.parametrize(
    ("calls", "kind", "report", "finding"),
    [
        (0, "leftovers", "hits=0; misses=0; drift=0; leftovers=1", "removed"),
        (2, "misses", "hits=1; misses=1; drift=0; leftovers=0", "added"),
    ],
)
async def test_replay_with_other_number_of_calls_fails(
    app: Any, replay_enabled: None, calls: int, kind: str, report: str, finding: str
) -> None:
    session = await capture(app)
    app.calls = calls
    response = await app.request(session)
    assert error_of(response) == (500, "replay_error")
    content = json.loads(response.body)
    assert "grade-3" in content["message"]
    assert [each["what"] for each in content["report"]["findings"]] == [finding]
    assert content["report"]["findings"][0]["text"] in content["message"]
    [entry] = content["report"][kind]
    assert entry["slug"] == "grade-3"
    assert response.headers["x-noukai-session"] == session
    assert response.headers["x-noukai-replay-report"] == report


async def test_replay_with_leftovers_names_status_of_error_response(
    app: Any, replay_enabled: None
) -> None:
    session = await capture(app)
    app.calls, app.status = 0, 422
    message = json.loads((await app.request(session)).body)["message"]
    assert "responded with 422" in message


async def test_replay_with_caught_miss_fails(app: Any, replay_enabled: None) -> None:
    session = await capture(app)
    app.calls, app.catches_miss = 2, True
    response = await app.request(session)
    assert error_of(response) == (500, "replay_error")
    assert len(json.loads(response.body)["report"]["misses"]) == 1


async def test_replay_with_miss_behind_other_error_fails(app: Any, replay_enabled: None) -> None:
    session = await capture(app)
    app.failure = RuntimeError("mine")
    app.failure.__cause__ = ReplayMissError("no recording")
    app.calls = 0
    response = await app.request(session)
    assert error_of(response) == (500, "replay_error")
    assert "leftovers=1" in response.headers["x-noukai-replay-report"]
    assert len(json.loads(response.body)["report"]["leftovers"]) == 1


async def test_error_of_application_is_raised_again(
    app: Any, replay_enabled: None, caplog: pytest.LogCaptureFixture
) -> None:
    session = await capture(app)
    app.failure = KeyError("mine")
    for replay in (None, session):
        with caplog.at_level(logging.WARNING, "noukai_sdk"), pytest.raises(KeyError, match="mine"):
            await app.request(replay)
    assert not caplog.records


async def test_replay_of_application_without_response_sends_nothing(
    app: Any, replay_enabled: None
) -> None:
    session = await capture(app)
    app.responds = False
    response = await app.request(session)
    assert (response.sent if app.name == "asgi" else response.starts) == []
