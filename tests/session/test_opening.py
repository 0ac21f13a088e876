"""Opening a scope: the options of ``trace_scope``, the replay header, and the fetch of a session."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from noukai_sdk import (
    APIConnectionError,
    AsyncNoukai,
    AuthenticationError,
    Noukai,
    ReplayDisabledError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplaySessionExpiredError,
    ReplaySessionNotFoundError,
    current_session_id,
    trace,
    trace_scope,
    trace_scope_sync,
)
from noukai_sdk.errors import ClientClosedError
from noukai_sdk.session import options as options_module
from noukai_sdk.session.opening import open_replay, open_replay_sync
from noukai_sdk.session.options import ReplayRequest, replay_enabled, requested_replay
from noukai_sdk.session.scope import current_scope
from tests.support.replays import AsyncSide, SessionService, SyncSide, execution

pytestmark = pytest.mark.anyio

GATE = "NOUKAI_REPLAY_ENABLED"
HOSTILE = ["", "..", "a/b", "../x", "a b", "a\n", "é", "x" * 129, "a%2Fb", "a?b"]
BAD_OPTIONS = [
    *("s;live-from=x", "s;live-from=", "s;live-from=-1", "s;live-from=²", "s;other=1", "s;"),
    *("s;live-from=1;x", "s;live-from=1;live-from=2", "s;strict;strict", "s;strict=1", "s;strict="),
    *(
        "s;id=1",
        "s;id=",
        "s;live-from=1;edit=e",
        "s;live-from=1;edit=e30",
        "s;edit=eyJtZXNzYWdlIjoiYSJ9",
    ),
    *(
        "s;live-from=1;edit=eyJtZXNzYWdlIjoxfQ",
        "s;live-from=1;edit=eyJ0b29scyI6W119",
        "s;live-from=1;edit",
    ),
    *("s;on-miss=later", "s;on-miss", "s;pacing=fast", "s;lost=", "s;record_mode=all", "s;=1"),
]
BAD_FILES = [
    *(
        "file:",
        "file:..",
        "file:../x",
        "file:/etc/passwd",
        "file:a/../../x",
        "file:a//b",
        "file:a/",
    ),
    *("file:.", "file:a\\b", "file:a\x00", "file:%2e%2e", "file:é", "file:" + "x" * 256, "File:a"),
]
# White space around a header is not part of it.
BAD_HEADERS = [header for header in HOSTILE if header == header.strip()] + BAD_OPTIONS + BAD_FILES


def test_replay_enabled_is_read_from_the_environment_each_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for value in ("1", "true", "yes", "on", "TRUE", " On "):
        monkeypatch.setenv(GATE, value)
        assert replay_enabled()
        assert requested_replay("s-1") == ReplayRequest("s-1")
    for value in ("", "0", "false", "no", "off", "2", "enabled"):
        monkeypatch.setenv(GATE, value)
        assert not replay_enabled()
        assert requested_replay("s-1") is None


def test_replay_header_is_parsed_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for header in BAD_HEADERS:
        assert requested_replay(header) is None  # replay is off: not even parsed
    monkeypatch.setenv(GATE, "true")
    assert requested_replay(None) is None
    assert requested_replay("abc-123_d.e") == ReplayRequest("abc-123_d.e")
    assert requested_replay(" s-1 ; live-from=3") == ReplayRequest("s-1", 3)
    assert requested_replay("s-1;live-from=0") == ReplayRequest("s-1", 0)
    for header in BAD_HEADERS:
        with pytest.raises(ReplayInvalidSessionError):
            requested_replay(header)
    with pytest.raises(ReplayInvalidSessionError, match="bad option 'pacing=fast'"):
        requested_replay("s;strict;pacing=fast")


def test_replay_header_takes_all_options_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GATE, "true")
    options = ["live-from=2", "on-miss=live", "strict", "pacing=recorded", "lost=live"]
    expected = ReplayRequest("s-1", 2, "live", "live", "recorded", True)
    for order in (options, options[::-1]):
        assert requested_replay(";".join(["s-1", *order])) == expected
    assert requested_replay("s-1 ;  Live-From = 2;ON-MISS=live;\tstrict; pacing=recorded;lost=live")
    # The defaults can be written too.
    plain = requested_replay("s-1; on-miss=raise; pacing=instant; lost=refuse")
    assert plain == ReplayRequest("s-1")
    named = requested_replay("file:checkout/failed order.jsonl; strict")
    assert named is not None
    assert (named.file, named.strict_inputs) == ("checkout/failed order.jsonl", True)


def test_gate_value_that_is_not_understood_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(options_module, "_logged", set())
    for value, logged in (("y", 1), ("y", 1), ("enabled", 2), ("No", 2), ("off", 2), (" ", 2)):
        monkeypatch.setenv(GATE, value)
        assert not replay_enabled()
        assert caplog.text.count("is not understood") == logged
    assert f"{GATE}=y is not understood" in caplog.text


# The log handler

CALL = [("request",), ("response",)]


def listen(side: SyncSide, events: list[tuple[Any, ...]]) -> None:
    """Give the client a log handler: it notes each phase, and of a scope its session and mode."""

    def handle(event: dict[str, Any]) -> None:
        names = ("phase", "session_id", "mode") if "mode" in event else ("phase",)
        events.append(tuple(event[name] for name in names))
        assert {"method", "path", "attempt", "status_code", "request_id"} <= set(event)

    transport = side.client._transport
    transport.service = transport.service._replace(log=handle)


@pytest.mark.parametrize("source", ["client", "transport", None])
async def test_log_handler_hears_scope_open_and_close(side: SyncSide, source: str | None) -> None:
    """Without a client, the client of the first call hears of the scope, from then on."""
    events: list[tuple[Any, ...]] = []
    listen(side, events)
    sources = {"client": side.client, "transport": side.client._transport}
    options = {source: sources[source]} if source else {}
    with suppress(KeyError):
        async with side.scope(**options) as scope:
            assert len(events) == (1 if source else 0)
            await side.ask("m0", "m1")
            raise KeyError
    opened, closed = [(f"scope_{word}", scope.session_id, "capture") for word in ("open", "close")]
    assert events == [opened, *CALL, *CALL, closed]
    async with side.scope():
        pass
    assert len(events) == 6


async def test_log_handler_hears_scope_of_replay_recording_and_traced_function(
    service: SessionService, side: SyncSide, replay_enabled: None, tmp_path: Path
) -> None:
    events: list[tuple[Any, ...]] = []
    listen(side, events)
    async with side.scope(service.record(execution(0))):
        await side.execute()
    assert events == [*CALL, ("scope_open", "s-1", "replay"), ("scope_close", "s-1", "replay")]

    @trace
    async def traced() -> str | None:
        await side.execute()
        return current_session_id()

    events.clear()
    session = await traced()
    assert events == [
        ("scope_open", session, "capture"),
        *CALL,
        ("scope_close", session, "capture"),
    ]
    events.clear()
    async with side.scope(record=tmp_path / "c.jsonl", client=side.client) as scope:
        pass
    assert [event[:2] for event in events] == [
        ("scope_open", scope.session_id),
        ("scope_close", scope.session_id),
    ]


# Capture


async def test_scope_captures_by_default(service: SessionService, side: SyncSide) -> None:
    async with side.scope() as scope:
        assert scope.mode == "capture"
        assert current_session_id() == scope.session_id
        await side.execute()
        with trace_scope_sync() as nested:
            assert current_session_id() == nested.session_id != scope.session_id
        assert current_session_id() == scope.session_id
    assert re.fullmatch(r"[0-9a-f-]{36}", str(scope.session_id))
    assert service.calls == [("m0", scope.session_id)]
    assert scope.report.clean
    assert current_session_id() is None


async def test_scope_without_capture_leaves_calls_untagged(
    service: SessionService, side: SyncSide
) -> None:
    async with side.scope(capture=False) as scope:
        assert (scope.mode, scope.session_id, current_session_id()) == ("normal", None, None)
        await side.execute()
    assert service.calls == [("m0", None)]


async def test_replay_that_is_not_enabled_captures_with_a_warning_or_raises_if_strict(
    service: SessionService, side: SyncSide, caplog: pytest.LogCaptureFixture
) -> None:
    for session_id in ("s-1", "../x"):  # the id is not even checked
        caplog.clear()
        with caplog.at_level(logging.WARNING, "noukai_sdk"):
            async with side.scope(session_id, strict=False) as scope:
                await side.execute()
        assert scope.mode == "capture"
        assert scope.session_id != session_id
        (record,) = caplog.records
        assert GATE in record.getMessage()
    with pytest.raises(ReplayDisabledError, match=f"set {GATE}=true"):
        async with side.scope("s-1", strict=True):
            raise AssertionError("not reached")
    assert service.fetches == []


# Replay


@pytest.mark.usefixtures("replay_enabled")
async def test_replay_opens_in_either_scope_with_client_or_transport(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0))
    for name, source in (("client", side.client), ("transport", side.client._transport)):
        options: Any = {"replay_session_id": "s-1", name: source}
        async with trace_scope(**options) as scope:
            assert await side.ask("m0") == ["answer to m0"]
        assert (scope.mode, scope.session_id) == ("replay", "s-1")
        with trace_scope_sync(**options) as scope:
            assert await side.ask("m0") == ["answer to m0"]
        # As adapters open it.
        for scope in (
            await open_replay(ReplayRequest("s-1"), source),
            open_replay_sync(ReplayRequest("s-1"), source),
        ):
            assert (scope.mode, scope.session_id) == ("replay", "s-1")
            assert current_scope() is None
            with pytest.raises(ReplayLeftoverError):
                scope.verify()
            scope.end()
    assert service.fetches == ["s-1"] * 8
    assert service.calls == []


@pytest.mark.usefixtures("replay_enabled")
def test_sync_replay_opens_without_an_event_loop(service: SessionService, side: SyncSide) -> None:
    service.record(execution(0))
    with trace_scope_sync(replay_session_id="s-1", client=side.client) as scope:
        assert scope.mode == "replay"
        client = SyncSide(service)
        assert client.flow().execute(message="m0").result == "answer to m0"

    @trace(replay_session_id="s-1", client=side.client)
    def handle() -> Any:
        return client.flow().execute(message="m0").result

    assert [handle(), handle()] == ["answer to m0"] * 2
    assert service.fetches == ["s-1"] * 3


@pytest.mark.usefixtures("replay_enabled")
async def test_replay_with_a_sync_client_does_not_block_the_event_loop() -> None:
    released = threading.Event()

    def respond(request: httpx.Request) -> httpx.Response:
        assert released.wait(30)
        return httpx.Response(200, json={"sessionId": "s-1", "executions": []})

    http = httpx.Client(transport=httpx.MockTransport(respond))
    client = Noukai(api_key="nk_test", http_client=http)

    async def replay() -> Any:
        async with trace_scope(replay_session_id="s-1", client=client) as scope:
            return scope.mode

    task = asyncio.create_task(replay())
    await asyncio.sleep(0)
    released.set()  # never reached if the loop were blocked
    assert await task == "replay"


REFUSED: list[tuple[int, type[Exception]]] = [
    (400, ReplayInvalidSessionError),
    (401, AuthenticationError),
    (403, ReplayForbiddenError),
    (404, ReplaySessionNotFoundError),
    (410, ReplaySessionExpiredError),
]


@pytest.mark.usefixtures("replay_enabled")
@pytest.mark.parametrize(("status", "kind"), REFUSED)
async def test_session_that_the_service_refuses_raises(
    service: SessionService, side: SyncSide, status: int, kind: type[Exception]
) -> None:
    service.sessions["s-1"] = lambda: httpx.Response(
        status, json={"detail": {"code": "X", "message": "no"}}, headers={"X-Request-ID": "r-1"}
    )
    with pytest.raises(kind) as caught:
        async with side.scope("s-1"):
            raise AssertionError("not reached")
    assert getattr(caught.value, "status_code", None) == status
    assert getattr(caught.value, "request_id", None) == "r-1"


@pytest.mark.usefixtures("replay_enabled")
async def test_session_that_cannot_be_fetched_raises(
    service: SessionService, side: SyncSide
) -> None:
    for session_id in HOSTILE[1:]:
        with pytest.raises(ReplayInvalidSessionError, match="bad session id"):
            async with side.scope(session_id):
                raise AssertionError("not reached")
    assert service.fetches == []

    def unreachable() -> httpx.Response:
        raise httpx.ConnectError("refused")

    service.sessions["s-1"] = unreachable
    with pytest.raises(APIConnectionError):
        async with side.scope("s-1"):
            raise AssertionError("not reached")
    if side.is_async:
        await side.client.aclose()
    else:
        side.client.close()
    with pytest.raises(ClientClosedError):
        async with side.scope("s-1"):
            raise AssertionError("not reached")


@pytest.mark.usefixtures("replay_enabled")
async def test_session_fetch_is_retried_with_the_clients_key() -> None:
    responses = [
        httpx.Response(503),
        httpx.Response(200, json={"sessionId": "s", "executions": []}),
    ]
    keys: list[str] = []

    def respond(request: httpx.Request) -> httpx.Response:
        keys.append(request.headers["Authorization"])
        return responses[len(keys) - 1]

    http = httpx.AsyncClient(transport=httpx.MockTransport(respond))
    client = AsyncNoukai(api_key="nk_test", max_retries=1, http_client=http)
    async with trace_scope(replay_session_id="s", client=client) as scope:
        assert scope.mode == "replay"
    assert keys == ["Bearer nk_test"] * 2


@pytest.mark.usefixtures("replay_enabled")
async def test_session_id_of_the_response_is_the_scopes(
    service: SessionService, side: SyncSide
) -> None:
    service.sessions["alias"] = {"sessionId": "s-9", "executions": [execution(0)]}
    async with side.scope("alias") as scope:
        assert scope.session_id == "s-9"
        assert (await side.execute()).session_id == "s-9"


# Bad options


@pytest.mark.usefixtures("replay_enabled")
@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"replay_session_id": "s-1"}, "needs client="),
        ({"replay_session_id": "s-1", "client": 1, "transport": 2}, "needs client="),
        ({"replay_session_id": "s-1", "cassette": "x.jsonl"}, "exclude each other"),
        ({"record": "x.jsonl", "cassette": "x.jsonl"}, "exclude each other"),
        ({"record_mode": "sometimes"}, "bad record_mode 'sometimes': use one of none, once"),
        ({"record_mode": "once"}, "record_mode needs cassette="),
        ({"record_mode": "all", "record": "x.jsonl"}, "record_mode needs cassette="),
        ({"cassette": ""}, "cassette is empty: pass the path of a file, or None"),
        ({"record": ""}, "record is empty"),
        ({"pacing": "fast"}, "bad pacing"),
        ({"on_miss": "ignore"}, "bad on_miss"),
        ({"live_from": -1}, "live_from"),
        ({"live_from": "3"}, "live_from"),
        ({"replay": "s-1"}, "unexpected keyword argument 'replay'"),
        ({"replay_session_id": "s-1", "client": "nk_key"}, "Noukai or an AsyncNoukai"),
        ({"replay_session_id": "s-1", "client": httpx}, "Noukai or an AsyncNoukai"),
    ],
)
async def test_bad_options_are_errors(options: dict[str, Any], problem: str) -> None:
    for kind in (trace_scope_sync, trace_scope):
        block: Any = kind(**options)
        with pytest.raises((ValueError, TypeError), match=problem):
            await block.__aenter__() if kind is trace_scope else block.__enter__()


def test_plain_with_around_the_async_scope_names_the_sync_one() -> None:
    with pytest.raises(TypeError, match=r"in sync code use trace_scope_sync\(\)"), trace_scope():  # type: ignore[attr-defined]  # on purpose
        raise AssertionError("not reached")


# Forks of sessions


@pytest.mark.usefixtures("replay_enabled")
async def test_session_fork_serves_recordings_and_sends_the_rest(
    service: SessionService, side: SyncSide
) -> None:
    service.record(execution(0), execution(1), execution(2))
    async with side.scope("s-1", live_from=2) as scope:
        assert await side.ask("m0", "m1", "m2") == ["answer to m0", "answer to m1", "m2 1"]
    assert scope.session_id not in (None, "s-1")
    assert scope.report.summary() == "hits=2; misses=0; drift=0; leftovers=1; live=1"
    async with side.scope("s-1", on_miss="live") as miss:
        assert await side.ask("new", slug="acme/spelling/other") == ["new 2"]
        assert await side.ask("m0") == ["answer to m0"]
    assert service.calls == [("m2", scope.session_id), ("new", miss.session_id)]
    with pytest.raises(ReplayMissError):
        async with side.scope("s-1", live_from=2):
            await side.execute("x", slug="acme/spelling/other")


@pytest.mark.usefixtures("replay_enabled")
async def test_session_fork_never_goes_live_for_another_session_or_after_its_end(
    service: SessionService,
) -> None:
    side = AsyncSide(service)
    service.record(execution(0))
    service.record(session_id="s-2")
    with pytest.raises(ReplayMissError):
        async with side.scope("s-1", on_miss="live"):
            await side.execute(session_id="s-2")
    for options in ({"live_from": 0}, {"on_miss": "live"}):
        ended = asyncio.Event()

        async def late(ended: asyncio.Event = ended) -> None:
            await ended.wait()
            with pytest.raises(ReplayMissError, match="ended already"):
                await side.execute("late")

        async with side.scope("s-1", **options):
            task = asyncio.create_task(late())
        ended.set()
        await task
    assert service.calls == []


# Ends


@pytest.mark.usefixtures("replay_enabled")
async def test_scope_entered_in_one_task_can_be_left_in_another(service: SessionService) -> None:
    service.record()
    block = AsyncSide(service).scope("s-1")

    async def enter() -> Any:
        return await block.__aenter__()

    scope = await asyncio.create_task(enter())
    assert current_scope() is None
    await block.__aexit__(None, None, None)
    assert scope.mode == "replay"


@pytest.mark.usefixtures("replay_enabled")
@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_error_of_the_body_passes_through_the_scope(
    service: SessionService, side: SyncSide, error: Callable[[], BaseException]
) -> None:
    service.record(execution(0))
    with pytest.raises(type(error())):
        async with side.scope("s-1"):
            raise error()
