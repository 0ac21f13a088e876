"""Test that the result of every replay can be asked for, and that interactive streams go out."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest

from noukai_sdk import AsyncNoukai, Noukai, ReplayMissError, trace_scope, trace_scope_sync
from noukai_sdk.adapters import asgi, wsgi
from noukai_sdk.replay import verdicts
from noukai_sdk.transport import background
from tests.support.asgi_driver import Connection, http_scope
from tests.support.sessions import RecordedSessions
from tests.support.wsgi_driver import Exchange

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("replay_enabled", "no_scope_leaks")]

EVENTS = "text/event-stream; charset=utf-8"


class AsgiApp:
    """An application that makes ``calls`` calls, and then responds with ``parts``.

    A part may be a function that returns it, an event to wait for, the message of another call, or None
    for a failure. ``ask`` sends a request with one header and reads the whole response.
    """

    def __init__(self, noukai: AsyncNoukai, _: Noukai) -> None:
        self.flow = noukai.flow("grade-3")
        self.calls = 1
        self.content_type = "text/plain"
        self.parts: list[Any] = [b"ok"]
        self.listens = False
        self.middleware: Any = asgi.NoukaiTraceMiddleware(self, client=noukai)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        for number in range(self.calls):
            await self.flow.execute(message=f"text {number}")
        if self.listens:
            await receive()
        headers = [(b"content-type", self.content_type.encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in self.parts:
            if part is None:
                raise KeyError("mine")
            if isinstance(part, str):
                await self.flow.execute(message=part)
                continue
            if isinstance(part, threading.Event):
                await anyio.to_thread.run_sync(part.wait, 20)
                continue
            body = part() if callable(part) else part
            more = len(self.parts) > 1
            await send({"type": "http.response.body", "body": body, "more_body": more})
        if len(self.parts) > 1:
            await send({"type": "http.response.body", "body": b""})

    async def ask(self, name: str, value: str) -> Connection:
        scope = http_scope()
        scope["headers"].append((name.lower().encode(), value.encode()))
        return await Connection(self.middleware, scope).run()

    def begin(self, session: str) -> Connection:
        return Connection(self.middleware, http_scope(replay=session))


class WsgiApp:
    def __init__(self, _: AsyncNoukai, noukai: Noukai) -> None:
        self.flow = noukai.flow("grade-3")
        self.calls = 1
        self.content_type = "text/plain"
        self.parts: list[Any] = [b"ok"]
        self.middleware: Any = wsgi.NoukaiTraceMiddleware(self, client=noukai)

    def __call__(self, environ: Any, start_response: Any) -> Any:
        for number in range(self.calls):
            self.flow.execute(message=f"text {number}")
        start_response("200 OK", [("Content-Type", self.content_type)])
        return self.stream()

    def stream(self) -> Iterator[bytes]:
        for part in self.parts:
            if part is None:
                raise KeyError("mine")
            if isinstance(part, str):
                self.flow.execute(message=part)
                continue
            if isinstance(part, threading.Event):
                part.wait(20)
                continue
            yield part() if callable(part) else part

    async def ask(self, name: str, value: str) -> Exchange:
        exchange = Exchange(self.middleware)
        exchange.environ["HTTP_" + name.upper().replace("-", "_")] = value
        return await anyio.to_thread.run_sync(exchange.run)

    def begin(self, session: str) -> Exchange:
        return Exchange(self.middleware, replay=session)


@pytest.fixture(params=[AsgiApp, WsgiApp], ids=["asgi", "wsgi"])
def app(request: pytest.FixtureRequest, noukai: AsyncNoukai, sync_noukai: Noukai) -> Any:
    return request.param(noukai, sync_noukai)


async def capture(app: Any) -> str:
    return str((await app.ask("a", "b")).headers["x-noukai-session"])


async def report_of(app: Any, replayed: Any) -> Any:
    """Ask the application for the report of a replay, by the id on its response."""
    response = await app.ask("X-Noukai-Replay-Report", replayed.headers["x-noukai-replay-id"])
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    assert "x-noukai-session" not in response.headers
    return json.loads(response.body)


async def test_report_of_replay_can_be_asked_for_and_is_posted(
    app: Any, sessions: RecordedSessions
) -> None:
    session = await capture(app)
    replayed = await app.ask("X-Noukai-Replay", session)
    assert uuid.UUID(replayed.headers["x-noukai-replay-id"]).version == 4
    report = await report_of(app, replayed)
    assert report["replayId"] == replayed.headers["x-noukai-replay-id"]
    assert (report["state"], report["verdict"], report["error"]) == ("finished", "clean", None)
    assert (report["sessionId"], report["status"], report["requestLine"]) == (session, 200, "GET /")
    assert report["summary"] == replayed.headers["x-noukai-replay-report"]
    assert report["report"]["hits"][0]["slug"] == "grade-3"
    assert background.flush(10)
    assert sessions.sent == [(session, "replays", report)]


async def test_report_of_failed_replay_has_its_error(app: Any, sessions: RecordedSessions) -> None:
    session = await capture(app)
    app.calls = 2
    missed = await app.ask("X-Noukai-Replay", f"{session}; on-miss=raise")
    report = await report_of(app, missed)
    assert (missed.status, report["status"], report["verdict"]) == (500, 500, "failed")
    assert report["error"]["error"] == "replay_error"
    assert report["error"]["message"] == json.loads(missed.body)["message"]
    app.calls = 0
    assert (await report_of(app, await app.ask("X-Noukai-Replay", session)))["verdict"] == "failed"
    # A fork may leave recordings, and its report belongs to the session that it replays.
    fork = await app.ask("X-Noukai-Replay", f"{session}; live-from=0")
    report = await report_of(app, fork)
    assert (report["verdict"], report["sessionId"]) == ("clean", session)
    assert fork.headers["x-noukai-session"] != session


async def test_refused_replay_has_an_id_and_a_report(app: Any, sessions: RecordedSessions) -> None:
    for header, code in (("unknown-id", "replay_not_found"), ("a b", "replay_invalid_session")):
        refused = await app.ask("X-Noukai-Replay", header)
        report = await report_of(app, refused)
        content = json.loads(refused.body)
        assert report["error"] == {"error": code, "message": content["message"]}
        assert (report["state"], report["verdict"]) == ("finished", "failed")
        assert report["status"] == refused.status
    assert background.flush(10)
    assert sessions.sent == []


async def test_unknown_report_is_refused_and_with_replay_disabled_the_app_responds(
    app: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for replay_id in ("nowhere", "", str(uuid.uuid4()), "x" * 5000):
        response = await app.ask("X-Noukai-Replay-Report", replay_id)
        assert (response.status, response.headers["cache-control"]) == (404, "no-store")
        assert json.loads(response.body)["error"] == "replay_report_unknown"
    monkeypatch.setenv("NOUKAI_REPLAY_ENABLED", "no")
    response = await app.ask("X-Noukai-Replay-Report", "nowhere")
    assert (response.status, response.body) == (200, b"ok")


async def test_report_of_stream_is_running_until_its_end(app: Any) -> None:
    app.parts = [b"a", b"b", b"c"]
    session = await capture(app)
    replay = app.begin(session)
    states: list[str] = []

    def note() -> bytes:
        (verdict,) = [v for v in verdicts._kept.values() if v.session_id == session]
        stored = verdict.stored()
        assert stored.summary.startswith("hits=1")
        states.append(stored.state)
        return b"c"

    app.parts = [b"a", b"b", note]
    await run(replay)
    report = await report_of(app, replay)
    assert states == ["running"]
    assert (report["state"], report["verdict"]) == ("finished", "clean")


async def run(replay: Any) -> None:
    await (replay.run() if isinstance(replay, Connection) else anyio.to_thread.run_sync(replay.run))


@pytest.mark.parametrize(
    ("last", "error", "verdict"), [(None, KeyError, "clean"), ("miss", ReplayMissError, "failed")]
)
async def test_stream_that_fails_finishes_its_report(
    app: Any, last: Any, error: type[Exception], verdict: str
) -> None:
    app.parts = [b"a", b"b"]
    session = await capture(app)
    app.parts.append(last)
    replay = app.begin(session)
    with pytest.raises(error):
        await run(replay)
    report = await report_of(app, replay)
    assert (report["state"], report["verdict"], report["status"]) == ("finished", verdict, 200)
    assert replay.body == b"ab"


async def test_stream_whose_client_leaves_finishes_its_report(
    app: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app.parts = [b"a", b"b", b"c"]
    session = await capture(app)
    app.calls, app.listens = 0, True
    replay = app.begin(session)
    if isinstance(replay, Exchange):
        next(iter(replay.call().result))
        replay.result = ()  # a server that drops the body without closing it
    else:
        replay.incoming = [{"type": "http.disconnect"}]
        await replay.run()
    app.listens = False
    report = await report_of(app, replay)
    assert (report["state"], report["verdict"]) == ("finished", "failed")
    assert "client went away" in report["error"]["message"]
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
@pytest.mark.parametrize("content_type", [EVENTS, "text/plain"])
async def test_first_part_of_asgi_stream_goes_out_while_the_app_waits(
    noukai: AsyncNoukai, sync_noukai: Noukai, content_type: str
) -> None:
    app = AsgiApp(noukai, sync_noukai)
    app.content_type = content_type
    app.parts = [b"a", b"b"]
    session = await capture(app)
    seen = threading.Event()
    app.parts = [b"a", seen, b"b"]

    replay = app.begin(session)
    under_way = 0
    original = replay.send

    async def send(message: Any) -> None:
        nonlocal under_way
        assert under_way == 0
        under_way += 1
        await anyio.sleep(0.001)
        under_way -= 1
        await original(message)
        if message.get("body") == b"a":
            seen.set()

    replay.send = send  # type: ignore[method-assign]  # a stand-in
    await replay.run()
    assert replay.body == b"ab"
    assert replay.types.count("http.response.start") == 1
    assert (await report_of(app, replay))["verdict"] == "clean"


async def test_failing_send_of_released_part_is_raised_to_the_app(
    noukai: AsyncNoukai, sync_noukai: Noukai
) -> None:
    app = AsgiApp(noukai, sync_noukai)
    app.parts = [b"a", b"b"]
    session = await capture(app)
    tried = threading.Event()
    app.parts = [b"a", tried, b"b"]
    replay = app.begin(session)

    async def send(message: Any) -> None:
        tried.set()
        raise OSError("gone")

    replay.send = send  # type: ignore[method-assign]  # a stand-in
    with pytest.raises(OSError, match="gone"):
        await replay.run()


@pytest.mark.parametrize(
    ("content_type", "server"), [(EVENTS, ""), ("text/plain", "gunicorn/27.0")]
)
async def test_first_part_of_wsgi_stream_goes_out_while_the_app_waits(
    noukai: AsyncNoukai, sync_noukai: Noukai, content_type: str, server: str
) -> None:
    app = WsgiApp(noukai, sync_noukai)
    app.content_type = content_type
    app.parts = [b"a", b"b"]
    session = await capture(app)
    seen = threading.Event()
    app.parts = [b"a", seen, b"b"]

    class Parts(list[bytes]):
        def append(self, part: bytes) -> None:
            super().append(part)
            seen.set()

    replay = app.begin(session)
    replay.written = Parts()
    replay.environ["SERVER_SOFTWARE"] = server
    await run(replay)
    assert replay.written == [b"a", b"b"]
    assert len(replay.starts) == 1
    assert (await report_of(app, replay))["verdict"] == "clean"


async def test_part_is_not_written_early_under_a_server_that_may_lose_it(
    noukai: AsyncNoukai, sync_noukai: Noukai, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = WsgiApp(noukai, sync_noukai)
    session = await capture(app)
    app.parts = [b"a", b"b"]
    monkeypatch.setattr(threading, "Timer", None)
    replay = app.begin(session)
    await run(replay)
    assert replay.written == [b"a", b"b"]


async def test_trace_scope_with_client_has_an_id_and_posts_its_report(
    noukai: AsyncNoukai, sync_noukai: Noukai, sessions: RecordedSessions
) -> None:
    async with trace_scope() as scope:
        await noukai.flow("grade-3").execute(message="a")
    session: Any = scope.session_id
    assert scope.replay_id is None

    async with trace_scope(replay_session_id=session, client=noukai) as scope:
        await noukai.flow("grade-3").execute(message="a")
    with trace_scope_sync(replay_session_id=session, client=sync_noukai) as failed:
        sync_noukai.flow("grade-3").execute(message="a")
        with pytest.raises(ReplayMissError):
            sync_noukai.flow("grade-3").execute(message="b")
    assert background.flush(10)
    posted = [(sent, body["replayId"], body["verdict"]) for sent, _, body in sessions.sent]
    assert posted == [(session, scope.replay_id, "clean"), (session, failed.replay_id, "failed")]


def test_last_reports_of_the_process_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    from noukai_sdk.models.reports import ReplayReport, ReportEntry

    monkeypatch.setattr(verdicts, "_kept", type(verdicts._kept)())
    monkeypatch.setattr(verdicts, "_entries", 0)
    made = [verdicts.Verdict(f"s-{number}") for number in range(verdicts.MOST_KEPT + 1)]
    assert verdicts.stored_report(made[0].replay_id) is None
    assert verdicts.stored_report(made[1].replay_id) is not None
    # A replay that has ended is forgotten before one that runs.
    made[-1].finish()
    made.append(verdicts.Verdict("s-last"))
    kept = [verdicts.stored_report(verdict.replay_id) is not None for verdict in made]
    assert kept == [False, *[True] * (verdicts.MOST_KEPT - 1), False, True]
    made = [verdict for verdict in made if not verdict.is_finished]
    entry = ReportEntry("grade-3", "execute", 0)
    for verdict in made:
        verdict._report = ReplayReport(hits=[entry] * 1000)
        verdict.finish()
        verdict.finish()
    assert len(verdicts._kept) == verdicts.MOST_ENTRIES / 1000
    assert verdicts._entries == verdicts.MOST_ENTRIES


def test_long_report_is_posted_in_part(sync_noukai: Noukai, sessions: RecordedSessions) -> None:
    from noukai_sdk.models.reports import ReplayReport, ReportEntry

    entries = [ReportEntry("grade-3", "execute", number, "x" * 1000) for number in range(5000)]
    verdict = verdicts.Verdict("s-1", ReplayReport(hits=entries, drift=entries[:3]))
    verdict.finish()
    service = sync_noukai._transport.service
    background.send_later(service, verdicts.send_verdict, "s-1", verdict)
    assert background.flush(20)
    ((session, _, body),) = sessions.sent
    assert (session, body["summary"]) == ("s-1", "hits=5000; misses=0; drift=3; leftovers=0")
    assert (len(body["report"]["hits"]), len(body["report"]["drift"])) == (500, 3)
    stored = verdicts.stored_report(verdict.replay_id)
    assert stored is not None
    assert len(stored.report["hits"]) == 5000
