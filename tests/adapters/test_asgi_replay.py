"""The ASGI middleware in replay mode, message by message."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest

from noukai_sdk import APIConnectionError, AsyncNoukai, ReplayMissError
from noukai_sdk.adapters.asgi import NoukaiTraceMiddleware
from noukai_sdk.session.replay_scope import ReplayScope
from noukai_sdk.session.scope import current_scope
from tests.adapters.service import Service
from tests.support.asgi_driver import Connection, Message, http_scope, websocket_scope

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("replay_enabled")]

Send = Callable[[Message], Awaitable[None]]
Respond = Callable[[Send], Awaitable[None]]
START = {"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]}
DISCONNECT = {"type": "http.disconnect"}


@pytest.fixture(autouse=True)
def nothing_leaks() -> Any:
    yield
    assert current_scope() is None


@pytest.fixture(autouse=True)
def warnings_of_ours(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING, "noukai_sdk")
    return caplog


def part(body: bytes, more: bool = True) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


class App:
    """Makes ``calls`` flow calls, then answers."""

    def __init__(self, noukai: AsyncNoukai, calls: int = 1) -> None:
        self.noukai = noukai
        self.calls = calls
        self.respond: Respond = self.answers
        self.asgi = NoukaiTraceMiddleware(self, client=noukai)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for number in range(self.calls):
            await self.call(f"text {number}")
        await self.respond(send)

    async def call(self, message: str) -> Any:
        return (await self.noukai.flow("grade-3").execute(message=message)).result

    async def answers(self, send: Send) -> None:
        await send(START)
        await send(part(b"answer", more=False))

    async def captured(self) -> str:
        answer = await Connection(self.asgi, http_scope()).run()
        return answer.headers["x-noukai-session"]

    def replay(self, session: str, *incoming: Message) -> Connection:
        return Connection(self.asgi, http_scope(replay=session), incoming)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every replay that has ended, in order."""
    scopes: list[Any] = []
    monkeypatch.setattr(ReplayScope, "end", lambda scope: scopes.append(scope))
    return scopes


@pytest.fixture
def app(noukai: AsyncNoukai) -> App:
    return App(noukai)


def said(answer: Connection) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(answer.body)
    return content


async def test_a_replayed_answer_equals_the_captured_one(app: App, service: Service) -> None:
    session = await app.captured()
    paid = len(service.calls)
    answer = await app.replay(session).run()
    assert (answer.status, answer.body) == (200, b"answer")
    assert answer.headers["a"] == "b"
    assert answer.headers["x-noukai-session"] == session
    assert answer.headers["x-noukai-replay-report"] == "hits=1; misses=0; drift=0; leftovers=0"
    assert len(service.calls) == paid
    assert service.fetched == [session]


async def test_installed_twice_it_fetches_once(app: App, service: Service) -> None:
    session = await app.captured()
    app.asgi = NoukaiTraceMiddleware(app.asgi, client=app.noukai)
    assert (await app.replay(session).run()).status == 200
    assert service.fetched == [session]


async def test_with_the_gate_closed_the_header_changes_nothing(
    app: App, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await app.captured()
    monkeypatch.delenv("NOUKAI_REPLAY_ENABLED")
    for header in (session, "../../etc/passwd"):
        answer = await app.replay(header).run()
        assert answer.status == 200
        assert answer.headers["x-noukai-session"] not in (session, header)
    assert len(service.calls) == 3
    assert service.fetched == []


async def test_a_fork_answers_under_its_child_session(app: App, service: Service) -> None:
    app.calls = 3
    session = await app.captured()
    answer = await app.replay(f"{session};live-from=2").run()
    child = answer.headers["x-noukai-session"]
    assert answer.status == 200
    assert child != session
    assert [call[0] for call in service.calls] == [session, session, session, child]


@pytest.mark.parametrize("header", ["", "..", "a/b", "a b", "a%2Fb", "é", "x" * 129, "a,b"])
async def test_a_hostile_id_is_refused_before_anything_is_asked(
    app: App, service: Service, header: str
) -> None:
    answer = await app.replay(header).run()
    assert answer.status == 400
    assert said(answer)["error"] == "replay_invalid_session"
    assert "x-noukai-session" not in answer.headers
    assert service.calls == []
    assert service.fetched == []


@pytest.mark.parametrize(
    ("served", "status", "code"),
    [
        (403, 403, "replay_forbidden"),
        (404, 404, "replay_not_found"),
        (410, 410, "replay_expired"),
        (400, 400, "replay_invalid_session"),
        (401, 502, "replay_unavailable"),
        (402, 502, "replay_unavailable"),
        (500, 502, "replay_unavailable"),
    ],
)
async def test_a_session_that_cannot_be_had_is_refused(
    app: App, service: Service, served: int, status: int, code: str
) -> None:
    service.refusals["abc-123"] = served
    answer = await app.replay("abc-123").run()
    assert (answer.status, said(answer)["error"]) == (status, code)
    assert answer.headers["x-noukai-session"] == "abc-123"
    assert answer.headers["content-length"] == str(len(answer.body))
    assert b"secret" not in answer.body
    assert b"nk_dev" not in answer.body
    assert service.calls == []


async def test_one_without_snapshots_is_refused(app: App, service: Service) -> None:
    service.capture_mode = "off"
    answer = await app.replay(await app.captured()).run()
    assert (answer.status, said(answer)["error"]) == (409, "replay_no_snapshots")


async def test_a_service_that_cannot_be_reached(
    app: App, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def unreachable(session_id: str, source: Any) -> Any:
        raise APIConnectionError("connection to http://secret refused")

    monkeypatch.setattr("noukai_sdk.adapters.asgi.open_replay", unreachable)
    answer = await app.replay("abc-123").run()
    assert (answer.status, said(answer)["error"]) == (502, "replay_unavailable")
    assert b"could not be reached" in answer.body
    assert b"secret" not in answer.body


@pytest.mark.parametrize("calls", [0, 2])
async def test_one_call_fewer_and_one_more_are_errors(app: App, calls: int) -> None:
    session = await app.captured()
    app.calls = calls
    answer = await app.replay(session).run()
    content = said(answer)
    assert (answer.status, content["error"]) == (500, "replay_error")
    assert "grade-3" in content["message"]
    [entry] = content["report"]["misses" if calls else "leftovers"]
    assert entry["slug"] == "grade-3"
    assert answer.headers["x-noukai-session"] == session
    expected = "hits=1; misses=1" if calls else "hits=0; misses=0"
    assert answer.headers["x-noukai-replay-report"].startswith(expected)
    assert answer.types == ["http.response.start", "http.response.body"]


async def test_a_leftover_behind_an_error_answer_says_so(app: App) -> None:
    session = await app.captured()

    async def unprocessable(send: Send) -> None:
        await send({**START, "status": 422})
        await send(part(b"", more=False))

    app.calls, app.respond = 0, unprocessable
    assert "responded with 422" in said(await app.replay(session).run())["message"]


async def test_a_swallowed_miss_is_still_an_error(app: App) -> None:
    session = await app.captured()

    async def swallows(send: Send) -> None:
        with pytest.raises(ReplayMissError):
            await app.call("one more")
        await app.answers(send)

    app.respond = swallows
    answer = await app.replay(session).run()
    assert (answer.status, said(answer)["error"]) == (500, "replay_error")
    assert len(said(answer)["report"]["misses"]) == 1


@pytest.mark.parametrize("started", [False, True])
async def test_a_miss_behind_another_error_is_the_answer(app: App, started: bool) -> None:
    session = await app.captured()

    async def wraps(send: Send) -> None:
        try:
            await app.call("one more")
        except ReplayMissError as error:
            if started:
                await app.answers(send)
            raise RuntimeError("mine") from error

    app.respond = wraps
    answer = await app.replay(session).run()
    assert (answer.status, said(answer)["error"]) == (500, "replay_error")


async def test_an_error_of_the_application_is_raised_again(app: App) -> None:
    session = await app.captured()

    async def fails(send: Send) -> None:
        raise KeyError("mine")

    app.respond = fails
    connection = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        await connection.run()
    assert connection.sent == []


async def test_a_complete_error_answer_goes_out_before_its_error_is_raised(app: App) -> None:
    """As Starlette's server-error layer does it, below ``instrument``."""
    session = await app.captured()

    async def server_error(send: Send) -> None:
        await send({**START, "status": 500})
        await send(part(b"Internal Server Error", more=False))
        raise KeyError("mine")

    app.respond = server_error
    connection = app.replay(session)
    with pytest.raises(KeyError, match="mine"):
        await connection.run()
    assert (connection.status, connection.body) == (500, b"Internal Server Error")
    assert connection.headers["x-noukai-session"] == session


async def test_half_an_answer_is_left_to_the_layers_outside(app: App) -> None:
    session = await app.captured()

    async def breaks(send: Send) -> None:
        await send(START)
        await send(part(b"half"))
        raise KeyError("mine")

    app.respond = breaks
    connection = app.replay(session)
    with pytest.raises(KeyError):
        await connection.run()
    assert connection.sent == []


async def test_nothing_goes_out_before_the_application_has_ended(app: App) -> None:
    session = await app.captured()
    app.calls = 0
    connection = app.replay(session)

    async def background(send: Send) -> None:
        await app.answers(send)
        assert connection.sent == []
        assert await app.call("text 0") == "grade-3: text 0"

    app.respond = background
    await connection.run()
    assert (connection.status, connection.body) == (200, b"answer")


async def test_a_stream_goes_through_from_its_second_part_on(app: App, caplog: Any) -> None:
    session = await app.captured()
    connection = app.replay(session)
    seen: list[int] = []

    async def streams(send: Send) -> None:
        await send(START)
        for body in (b"", b"a", b"", b"b", b"c"):
            await send(part(body))
            seen.append(len(connection.sent))
        await send(part(b"", more=False))

    app.respond = streams
    await connection.run()
    assert seen == [0, 0, 0, 5, 6]
    assert connection.body == b"abc"
    assert connection.headers["x-noukai-replay-report"].startswith("hits=1")
    assert not caplog.records


async def test_a_stream_of_one_part_can_still_be_judged(app: App) -> None:
    session = await app.captured()

    async def streams(send: Send) -> None:
        await send(START)
        await send(part(b"a"))
        await send(part(b"", more=False))

    app.calls, app.respond = 0, streams
    assert (await app.replay(session).run()).status == 500


async def test_the_verdict_on_a_started_stream_goes_to_the_log(app: App, caplog: Any) -> None:
    session = await app.captured()

    async def streams(send: Send) -> None:
        await send(START)
        for body in (b"a", b"b"):
            await send(part(body))
        await send(part(b"", more=False))

    app.calls, app.respond = 0, streams
    connection = await app.replay(session).run()
    assert connection.types.count("http.response.start") == 1
    assert (connection.status, connection.body) == (200, b"ab")
    assert "grade-3" in caplog.text
    assert session in caplog.text


async def test_a_miss_in_mid_stream_is_raised_and_logged(app: App, caplog: Any) -> None:
    session = await app.captured()

    async def streams(send: Send) -> None:
        await send(START)
        for body in (b"a", b"b"):
            await send(part(body))
        await app.call("one more")

    app.respond = streams
    connection = app.replay(session)
    with pytest.raises(ReplayMissError):
        await connection.run()
    assert connection.types.count("http.response.start") == 1
    assert connection.body == b"ab"
    assert "grade-3" in caplog.text


@pytest.mark.parametrize("kind", ["pathsend", "zerocopysend"])
async def test_a_file_by_its_path_or_handle_is_content(app: App, kind: str) -> None:
    session = await app.captured()
    sends = {"type": f"http.response.{kind}", "path": "/a"}
    if kind == "zerocopysend":
        sends = {"type": f"http.response.{kind}", "file": 3}

    async def file(send: Send) -> None:
        await send(START)
        await send(sends)

    app.respond = file
    connection = await app.replay(session).run()
    assert connection.sent[1] == sends
    app.calls = 0
    assert (await app.replay(session).run()).status == 500


async def test_trailers_wait_as_well(app: App) -> None:
    session = await app.captured()
    trailers = {"type": "http.response.trailers", "headers": [], "more_trailers": False}

    async def trailing(send: Send) -> None:
        await send({**START, "trailers": True})
        await send(part(b"a", more=False))
        await send(trailers)
        assert connection.sent == []

    app.respond = trailing
    connection = app.replay(session)
    await connection.run()
    assert connection.sent[-1] == trailers


async def test_an_application_that_says_nothing_is_left_to_the_server(app: App) -> None:
    session = await app.captured()

    async def silent(send: Send) -> None:
        pass

    app.respond = silent
    assert (await app.replay(session).run()).sent == []


async def listening(app: App, receive: Any, send: Send) -> None:
    """As Starlette does it: the stream ends when the client leaves."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def test_a_client_that_leaves_is_no_error(app: App, caplog: Any) -> None:
    session = await app.captured()

    async def waits(scope: Any, receive: Any, send: Send) -> None:
        await send(START)
        await send(part(b"a"))
        await listening(app, receive, send)

    app.asgi = NoukaiTraceMiddleware(waits, client=app.noukai)
    connection = await app.replay(session, {"type": "http.request"}, DISCONNECT).run()
    assert connection.sent == []
    assert not caplog.records


async def test_an_error_after_the_client_left_is_raised_again(app: App, caplog: Any) -> None:
    session = await app.captured()

    async def fails(scope: Any, receive: Any, send: Send) -> None:
        await listening(app, receive, send)
        raise OSError("gone")

    app.asgi = NoukaiTraceMiddleware(fails, client=app.noukai)
    with pytest.raises(OSError, match="gone"):
        await app.replay(session, DISCONNECT).run()
    assert not caplog.records


async def test_a_disconnect_after_a_complete_answer_is_only_its_end(app: App, caplog: Any) -> None:
    session = await app.captured()

    async def streams(scope: Any, receive: Any, send: Send) -> None:
        await send(START)
        await send(part(b"a"))
        await send(part(b"b", more=False))
        await listening(app, receive, send)

    app.asgi = NoukaiTraceMiddleware(streams, client=app.noukai)
    await app.replay(session, DISCONNECT).run()
    assert "grade-3" in caplog.text


async def test_an_application_that_waits_for_the_end_of_its_answer_hears_of_it(app: App) -> None:
    session = await app.captured()

    async def waits(scope: Any, receive: Any, send: Send) -> None:
        await receive()
        await app.call("text 0")
        await app.answers(send)
        await listening(app, receive, send)

    app.asgi = NoukaiTraceMiddleware(waits, client=app.noukai)
    answer = await app.replay(session).run()
    assert (answer.status, answer.body) == (200, b"answer")


async def test_cancellation_passes_and_ends_the_replay(
    app: App, caplog: Any, ended: list[Any]
) -> None:
    session = await app.captured()

    async def forever(send: Send) -> None:
        await anyio.sleep_forever()

    app.respond = forever
    with anyio.move_on_after(0.1) as cancelled:
        await app.replay(session).run()
    assert cancelled.cancelled_caught
    assert not caplog.records
    assert [scope.session_id for scope in ended] == [session]


class Socket(App):
    """Accepts, makes the calls, sends a text, and waits for the client's end."""

    first = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await super().__call__(scope, receive, send)
            return
        await receive()
        if not self.first:
            await send({"type": "websocket.accept"})
        for number in range(self.calls):
            await self.call(f"text {number}")
        if self.first:
            await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "text": "done"})
        await receive()

    def socket(self, session: str, *, denial: bool = True, code: int = 1000) -> Connection:
        incoming = [{"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": code}]
        return Connection(self.asgi, websocket_scope(replay=session, denial=denial), incoming)


@pytest.fixture
def socket(noukai: AsyncNoukai) -> Socket:
    return Socket(noukai)


async def test_a_websocket_is_replayed(socket: Socket, service: Service, caplog: Any) -> None:
    session = await socket.captured()
    connection = await socket.socket(session).run()
    assert connection.types == ["websocket.accept", "websocket.send"]
    assert connection.headers["x-noukai-session"] == session
    assert len(service.calls) == 1
    assert not caplog.records


async def test_the_verdict_on_an_open_websocket_goes_to_the_log(
    socket: Socket, caplog: Any
) -> None:
    session = await socket.captured()
    socket.calls = 0
    assert (await socket.socket(session).run()).types == ["websocket.accept", "websocket.send"]
    assert "grade-3" in caplog.text
    caplog.clear()
    await socket.socket(session, code=1006).run()
    assert not caplog.records


@pytest.mark.parametrize("denial", [True, False])
async def test_a_websocket_replay_that_cannot_begin_is_denied(socket: Socket, denial: bool) -> None:
    connection = await socket.socket("unknown-id", denial=denial).run()
    # The handshake was read before it was answered, as the specification wants it.
    assert [message["type"] for message in connection.incoming] == ["websocket.disconnect"]
    if not denial:
        assert connection.sent == [{"type": "websocket.close", "code": 1008}]
        return
    assert connection.types == ["websocket.http.response.start", "websocket.http.response.body"]
    assert connection.status == 404
    assert said(connection)["error"] == "replay_not_found"
    assert connection.headers["x-noukai-session"] == "unknown-id"


@pytest.mark.parametrize("denial", [True, False])
async def test_a_miss_before_the_handshake_is_denied(socket: Socket, denial: bool) -> None:
    session = await socket.captured()
    socket.calls, socket.first = 2, True
    connection = await socket.socket(session, denial=denial).run()
    if denial:
        assert (connection.status, said(connection)["error"]) == (500, "replay_error")
    else:
        assert connection.types == ["websocket.close"]


async def test_a_miss_in_an_open_websocket_is_raised(socket: Socket, caplog: Any) -> None:
    session = await socket.captured()
    socket.calls = 2
    connection = socket.socket(session)
    with pytest.raises(ReplayMissError):
        await connection.run()
    assert connection.types == ["websocket.accept"]
    assert "grade-3" in caplog.text
