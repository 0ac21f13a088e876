"""Test the ASGI middleware message by message: capture, held responses, streams and websockets."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from noukai_sdk import AsyncNoukai, ReplayMissError, current_session_id
from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from noukai_sdk.session.replay_scope import ReplayScope
from tests.support.asgi_driver import Connection, Message, http_scope, websocket_scope
from tests.support.sessions import RecordedSessions

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("replay_enabled", "no_scope_leaks")]

Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
DISCONNECT: Message = {"type": "http.disconnect"}


def part(body: bytes, *, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def send_all(send: Send, *messages: Message) -> None:
    for message in messages:
        await send(message)


class App:
    """An application that makes ``calls`` flow calls, and then runs ``respond``."""

    def __init__(self, noukai: AsyncNoukai) -> None:
        self.noukai = noukai
        self.calls = 1
        self.respond: Callable[[Receive, Send], Awaitable[None]] = self.respond_ok
        self.middleware = NoukaiTraceMiddleware(self, client=noukai)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for number in range(self.calls):
            await self.call(f"text {number}")
        await self.respond(receive, send)

    async def call(self, message: str) -> Any:
        return (await self.noukai.flow("grade-3").execute(message=message)).result

    async def respond_ok(self, _: Receive, send: Send) -> None:
        await send_all(send, START, part(b"ok", more=False))

    async def capture(self) -> str:
        connection = await Connection(self.middleware, http_scope()).run()
        return connection.headers["x-noukai-session"]

    def replay(self, session: str, *incoming: Message) -> Connection:
        return Connection(self.middleware, http_scope(replay=session), incoming)


@pytest.fixture
def app(noukai: AsyncNoukai) -> App:
    return App(noukai)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    return caplog


def error_of(connection: Connection) -> tuple[int, str]:
    return connection.status, json.loads(connection.body)["error"]


async def test_capture_passes_messages_on_at_once_and_unchanged(noukai: AsyncNoukai) -> None:
    start = {"type": "http.response.start", "status": 204}

    async def stream(scope: Any, receive: Any, send: Any) -> None:
        await send(start)
        for body in (b"a", b"b", b""):
            await send(part(body, more=bool(body)))
            assert connection.sent[-1]["body"] == body

    app = NoukaiTraceMiddleware(stream, client=noukai)
    for _ in range(2):
        connection = Connection(app, http_scope())
        await connection.run()
        assert connection.body == b"ab"
        assert list(connection.headers) == ["x-noukai-session"]
    # An application may send the same object every time.
    assert start == {"type": "http.response.start", "status": 204}


async def test_capture_of_other_scope_type_passes_it_on(noukai: AsyncNoukai) -> None:
    seen: list[Any] = []

    async def lifespan(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope, current_session_id()))
        await send({"type": "lifespan.startup.complete"})

    app = NoukaiTraceMiddleware(lifespan, client=noukai)
    connection = await Connection(app, {"type": "lifespan"}).run()
    assert seen == [({"type": "lifespan"}, None)]
    assert connection.sent == [{"type": "lifespan.startup.complete"}]


@pytest.mark.parametrize(
    "start",
    [
        {"type": "websocket.accept", "subprotocol": "x"},
        {"type": "websocket.http.response.start", "status": 403, "headers": []},
    ],
)
async def test_capture_of_websocket_adds_session_to_handshake(
    noukai: AsyncNoukai, start: Message
) -> None:
    sessions: list[Any] = []

    async def socket(scope: Any, receive: Any, send: Any) -> None:
        while (await receive())["type"] != "websocket.disconnect":
            sessions.append(current_session_id())
            await send(start if len(sessions) == 1 else {"type": "websocket.send", "text": "a"})

    incoming = [
        {"type": "websocket.connect"},
        {"type": "websocket.receive", "text": "a"},
        {"type": "websocket.disconnect", "code": 1000},
    ]
    app = NoukaiTraceMiddleware(socket, client=noukai)
    connection = await Connection(app, websocket_scope(), incoming).run()
    assert connection.types == [start["type"], "websocket.send"]
    assert connection.headers == {"x-noukai-session": sessions[0]}
    assert connection.sent[0].get("subprotocol") == start.get("subprotocol")
    assert sessions == [sessions[0]] * 2


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_cancelled_request_ends_its_scope(
    app: App, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await app.capture()
    ended: list[Any] = []
    monkeypatch.setattr(ReplayScope, "end", lambda scope: ended.append(scope.session_id))

    async def wait_forever(receive: Receive, send: Send) -> None:
        request.cancel()
        await anyio.sleep_forever()

    app.respond = wait_forever
    with anyio.CancelScope() as request:
        await Connection(app.middleware, http_scope()).run()
    assert request.cancelled_caught
    with anyio.CancelScope() as request:
        await app.replay(session).run()
    assert request.cancelled_caught
    assert not log.records
    assert ended == [session]


async def test_replay_sends_nothing_until_application_returns(app: App) -> None:
    session = await app.capture()
    trailers = {"type": "http.response.trailers", "headers": [], "more_trailers": False}
    app.calls = 0
    connection = app.replay(session)

    async def respond_before_call(receive: Receive, send: Send) -> None:
        await send_all(send, {**START, "trailers": True}, part(b"ok", more=False), trailers)
        assert connection.sent == []
        assert await app.call("text 0") == "grade-3: text 0"

    app.respond = respond_before_call
    await connection.run()
    assert (connection.status, connection.body) == (200, b"ok")
    assert connection.headers["x-noukai-replay-report"].startswith("hits=1; misses=0")
    assert connection.sent[-1] == trailers


async def test_replayed_response_that_fails_half_way_is_cut_off_as_when_captured(app: App) -> None:
    session = await app.capture()

    async def fail_half_way(receive: Receive, send: Send) -> None:
        await send_all(send, START, part(b"half"))
        raise KeyError("mine")

    app.respond = fail_half_way
    connection = app.replay(session)
    with pytest.raises(KeyError):
        await connection.run()
    start, body = connection.sent
    assert (start["status"], body) == (200, part(b"half"))


async def test_replay_error_after_complete_response_sends_it(app: App) -> None:
    """Starlette's error layer, inside of ``instrument``, responds and raises again."""
    session = await app.capture()

    async def respond_and_raise(receive: Receive, send: Send) -> None:
        await send_all(send, {**START, "status": 500}, part(b"Server Error", more=False))
        raise KeyError("mine")

    app.respond = respond_and_raise
    connection = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        await connection.run()
    assert (connection.status, connection.body) == (500, b"Server Error")
    assert connection.headers["x-noukai-session"] == session

    async def respond_and_miss(receive: Receive, send: Send) -> None:
        await app.respond_ok(receive, send)
        raise RuntimeError("mine") from ReplayMissError("no recording")

    app.respond = respond_and_miss
    assert error_of(await app.replay(session).run()) == (500, "replay_error")


async def test_replayed_stream_is_sent_from_second_part_on(app: App, log: Any) -> None:
    session = await app.capture()
    connection = app.replay(session)
    sent: list[int] = []

    async def stream(receive: Receive, send: Send) -> None:
        await send(START)
        for body in (b"", b"a", b"", b"b", b"c"):
            await send(part(body))
            sent.append(len(connection.sent))
        await send(part(b"", more=False))

    app.respond = stream
    await connection.run()
    assert sent == [0, 0, 0, 5, 6]
    assert connection.body == b"abc"
    assert connection.headers["x-noukai-replay-report"].startswith("hits=1")
    assert not log.records


async def test_replayed_stream_of_one_part_can_become_error_response(app: App) -> None:
    session = await app.capture()
    app.calls = 0
    app.respond = lambda _, send: send_all(send, START, part(b"a"), part(b"", more=False))
    assert error_of(await app.replay(session).run()) == (500, "replay_error")


async def test_replayed_stream_with_leftover_is_logged(app: App, log: Any) -> None:
    session = await app.capture()
    end = part(b"", more=False)
    app.calls = 0
    app.respond = lambda _, send: send_all(send, START, part(b"a"), part(b"b"), end)
    connection = await app.replay(session).run()
    assert connection.types.count("http.response.start") == 1
    assert (connection.status, connection.body) == (200, b"ab")
    assert "grade-3" in log.text
    assert session in log.text


async def test_replayed_stream_with_miss_raises_and_logs_it(app: App, log: Any) -> None:
    session = await app.capture()

    async def stream(receive: Receive, send: Send) -> None:
        await send_all(send, START, part(b"a"), part(b"b"))
        await app.call("one more")

    app.respond = stream
    connection = app.replay(session)
    with pytest.raises(ReplayMissError):
        await connection.run()
    assert connection.types.count("http.response.start") == 1
    assert connection.body == b"ab"
    assert "grade-3" in log.text


@pytest.mark.parametrize(
    "file",
    [
        {"type": "http.response.pathsend", "path": "/a"},
        {"type": "http.response.zerocopysend", "file": 3},
    ],
)
async def test_replayed_file_is_held_like_a_body(app: App, file: Message) -> None:
    session = await app.capture()
    app.respond = lambda _, send: send_all(send, START, file)
    connection = await app.replay(session).run()
    assert connection.sent[1] == file
    app.calls = 0
    assert error_of(await app.replay(session).run()) == (500, "replay_error")
    # A second file makes the response a stream.
    app.respond = lambda _, send: send_all(send, START, file, file)
    assert (await app.replay(session).run()).sent[1:] == [file, file]


async def wait_for_disconnect(receive: Receive) -> None:
    """Wait as Starlette does: its streams end if the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_replay_whose_client_leaves_is_not_an_error(app: App, log: Any) -> None:
    session = await app.capture()

    async def stream(receive: Receive, send: Send) -> None:
        await send_all(send, START, part(b"a"))
        await wait_for_disconnect(receive)

    app.calls, app.respond = 0, stream
    connection = await app.replay(session, {"type": "http.request"}, DISCONNECT).run()
    assert connection.sent == []

    async def fail(receive: Receive, send: Send) -> None:
        await wait_for_disconnect(receive)
        raise OSError("gone")

    app.respond = fail
    with pytest.raises(OSError, match="gone"):
        await app.replay(session, DISCONNECT).run()
    assert not log.records


async def test_replay_with_disconnect_after_complete_stream_reports_leftover(
    app: App, log: Any
) -> None:
    """Servers send this message after a complete response too."""
    session = await app.capture()

    async def stream(receive: Receive, send: Send) -> None:
        await send_all(send, START, part(b"a"), part(b"b", more=False))
        await wait_for_disconnect(receive)

    app.calls, app.respond = 0, stream
    await app.replay(session, DISCONNECT).run()
    assert "grade-3" in log.text


async def test_replay_waiting_for_disconnect_after_response_receives_it(app: App) -> None:
    session = await app.capture()

    async def respond_and_wait(receive: Receive, send: Send) -> None:
        await receive()
        await app.respond_ok(receive, send)
        await wait_for_disconnect(receive)

    app.respond = respond_and_wait
    connection = await app.replay(session).run()
    assert (connection.status, connection.body) == (200, b"ok")


class Socket(App):
    """An application whose websocket accepts, calls, sends a text and waits for the client's end.

    Attributes:
        accepts_late: Accept after the calls.
    """

    accepts_late = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await super().__call__(scope, receive, send)
            return
        await receive()
        if not self.accepts_late:
            await send({"type": "websocket.accept"})
        for number in range(self.calls):
            await self.call(f"text {number}")
        if self.accepts_late:
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "done"})
        await receive()

    def connect(self, session: str, *, denial: bool = True, code: int = 1000) -> Connection:
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": code}]
        scope = websocket_scope(replay=session, denial=denial)
        return Connection(self.middleware, scope, incoming)


@pytest.fixture
def socket(noukai: AsyncNoukai) -> Socket:
    return Socket(noukai)


async def test_replayed_websocket_is_served_and_reports_to_log(
    socket: Socket, sessions: RecordedSessions, log: Any
) -> None:
    session = await socket.capture()
    connection = await socket.connect(session).run()
    assert connection.types == ["websocket.accept", "websocket.send"]
    assert connection.headers["x-noukai-session"] == session
    assert len(sessions.calls) == 1
    assert not log.records

    socket.calls = 0
    await socket.connect(session, code=1006).run()
    assert not log.records  # the client left in between
    assert (await socket.connect(session).run()).types == ["websocket.accept", "websocket.send"]
    assert "grade-3" in log.text


async def test_replayed_websocket_with_miss_raises_and_logs_it(socket: Socket, log: Any) -> None:
    session = await socket.capture()
    socket.calls = 2
    connection = socket.connect(session)
    with pytest.raises(ReplayMissError):
        await connection.run()
    assert connection.types == ["websocket.accept"]
    assert "grade-3" in log.text


@pytest.mark.parametrize("denial", [True, False])
async def test_websocket_replay_that_fails_before_handshake_is_denied(
    socket: Socket, denial: bool
) -> None:
    session = await socket.capture()
    socket.calls, socket.accepts_late = 2, True
    refused = await socket.connect("unknown-id", denial=denial).run()
    # The handshake was received before the response, as the specification requires.
    assert [message["type"] for message in refused.incoming] == ["websocket.disconnect"]
    missed = await socket.connect(session, denial=denial).run()
    if not denial:
        assert refused.sent == missed.sent == [{"type": "websocket.close", "code": 1008}]
        return
    assert refused.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert error_of(refused) == (404, "replay_not_found")
    assert refused.headers["x-noukai-session"] == "unknown-id"
    assert error_of(missed) == (500, "replay_error")
