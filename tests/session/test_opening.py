"""How a scope begins: the gate, the options of ``trace_scope``, and the fetch of a session."""

# ruff: noqa: PT012 - a scope raises at its end too, so its block is what is tested

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import anyio
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
from noukai_sdk.session.opening import open_replay, open_replay_sync
from noukai_sdk.session.options import ReplayRequest, replay_enabled, requested_replay
from noukai_sdk.session.scope import current_scope
from tests.replay.service import AsyncSide, Service, Side, SyncSide, execution

pytestmark = pytest.mark.anyio

GATE = "NOUKAI_REPLAY_ENABLED"


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture(params=["sync", "async"])
def side(request: Any, service: Service) -> Side:
    return SyncSide(service) if request.param == "sync" else AsyncSide(service)


@pytest.fixture
def gate_open(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(GATE, "true")


# The gate


@pytest.mark.parametrize("value", ["1", "true", "yes", "on", "TRUE", " On "])
def test_values_that_open_the_gate(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(GATE, value)
    assert replay_enabled()


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off", "2", "enabled"])
def test_values_that_do_not(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(GATE, value)
    assert not replay_enabled()


def test_the_gate_is_read_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert requested_replay("s-1") is None
    monkeypatch.setenv(GATE, "true")
    assert requested_replay("s-1") == ReplayRequest("s-1")
    monkeypatch.delenv(GATE)
    assert requested_replay("s-1") is None


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        (None, None),
        ("abc-123_d.e", ReplayRequest("abc-123_d.e")),
        (" s-1 ; live-from=3", ReplayRequest("s-1", 3)),
        ("s-1;live-from=0", ReplayRequest("s-1", 0)),
    ],
)
def test_headers_that_can_be_read(header: str | None, wanted: ReplayRequest | None) -> None:
    assert requested_replay(header) == wanted


HOSTILE = ["", "..", "a/b", "../x", "a b", "a\n", "é", "x" * 129, "a%2Fb", "a?b"]
BAD_OPTIONS = ["s;live-from=x", "s;live-from=", "s;other=1", "s;live-from=1;x", "s;"]
# A header's own end is no part of it.
BAD_HEADERS = [header for header in HOSTILE if header == header.strip()] + BAD_OPTIONS


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("header", BAD_HEADERS)
def test_headers_that_cannot(header: str) -> None:
    with pytest.raises(ReplayInvalidSessionError):
        requested_replay(header)


@pytest.mark.parametrize("header", BAD_HEADERS)
def test_with_a_closed_gate_any_header_is_ignored(header: str) -> None:
    assert requested_replay(header) is None


# Capture


async def test_by_itself_a_scope_captures(service: Service, side: Side) -> None:
    async with side.scope(None) as scope:
        assert scope.mode == "capture"
        assert current_session_id() == scope.session_id
        await side.execute()
    assert re.fullmatch(r"[0-9a-f-]{36}", str(scope.session_id))
    assert [call.headers["X-Session-Id"] for call in service.live] == [scope.session_id]
    assert scope.report.clean
    assert current_session_id() is None


async def test_a_capture_needs_no_client() -> None:
    async with trace_scope() as first:
        with trace_scope_sync() as second:
            assert current_session_id() == second.session_id != first.session_id
        assert current_session_id() == first.session_id


async def test_without_capture_calls_carry_no_session(service: Service, side: Side) -> None:
    async with side.scope(None, capture=False) as scope:
        assert (scope.mode, scope.session_id, current_session_id()) == ("normal", None, None)
        await side.execute()
    assert "X-Session-Id" not in service.live[0].headers


async def test_with_a_closed_gate_a_replay_becomes_a_capture(
    service: Service, side: Side, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "noukai_sdk"):
        async with side.scope("s-1") as scope:
            await side.execute()
    assert scope.mode == "capture"
    assert scope.session_id != "s-1"
    assert service.fetches == []
    (record,) = caplog.records
    assert GATE in record.getMessage()
    assert record.levelno == logging.WARNING


@pytest.mark.parametrize("strict", [True, False])
async def test_with_a_closed_gate_and_strict_it_is_refused(
    service: Service, side: Side, strict: bool
) -> None:
    if strict:
        with pytest.raises(ReplayDisabledError, match=f"set {GATE}=true"):
            async with side.scope("s-1", strict=True):
                raise AssertionError("not reached")
    else:
        async with side.scope("s-1", strict=False) as scope:
            assert scope.mode == "capture"
    assert service.fetches == []


async def test_with_a_closed_gate_not_even_the_id_is_looked_at(side: Side) -> None:
    async with side.scope("../x") as scope:
        assert scope.mode == "capture"


# Replay


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("scope_kind", ["async", "sync"])
@pytest.mark.parametrize("named", ["client", "transport"])
async def test_either_client_in_either_scope(
    service: Service, side: Side, scope_kind: str, named: str
) -> None:
    service.record(execution(0))
    source = side.client if named == "client" else side.client._transport
    options: Any = {"replay_session_id": "s-1", named: source}
    if scope_kind == "async":
        async with trace_scope(**options) as scope:
            assert (await side.execute()).result == "answer to m0"
    else:
        with trace_scope_sync(**options) as scope:
            assert (await side.execute()).result == "answer to m0"
    assert (scope.mode, scope.session_id) == ("replay", "s-1")
    assert service.fetches == ["s-1"]
    assert service.live == []


@pytest.mark.usefixtures("gate_open")
def test_a_sync_scope_outside_of_any_event_loop(service: Service, side: Side) -> None:
    service.record()
    with trace_scope_sync(replay_session_id="s-1", client=side.client) as scope:
        assert scope.mode == "replay"


@pytest.mark.usefixtures("gate_open")
async def test_the_event_loop_is_not_blocked_by_a_sync_client() -> None:
    gate = threading.Event()

    def answer(request: httpx.Request) -> httpx.Response:
        assert gate.wait(10)
        return httpx.Response(200, json={"sessionId": "s-1", "executions": []})

    client = Noukai(
        api_key="nk_test", http_client=httpx.Client(transport=httpx.MockTransport(answer))
    )
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_replayed, client)
        await anyio.lowlevel.checkpoint()
        gate.set()  # never reached if the loop were blocked


async def _replayed(client: Noukai) -> None:
    async with trace_scope(replay_session_id="s-1", client=client) as scope:
        assert scope.mode == "replay"


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("session_id", HOSTILE)
async def test_a_hostile_id_is_refused_before_any_request(
    service: Service, side: Side, session_id: str
) -> None:
    with pytest.raises(ReplayInvalidSessionError, match="bad session id"):
        async with side.scope(session_id):
            raise AssertionError("not reached")
    assert service.fetches == service.live == []


REFUSED: list[tuple[int, type[Exception]]] = [
    (400, ReplayInvalidSessionError),
    (401, AuthenticationError),
    (403, ReplayForbiddenError),
    (404, ReplaySessionNotFoundError),
    (410, ReplaySessionExpiredError),
]


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize(("status", "kind"), REFUSED)
async def test_a_session_that_cannot_be_had(
    service: Service, side: Side, status: int, kind: type[Exception]
) -> None:
    service.sessions["s-1"] = lambda: httpx.Response(
        status, json={"detail": {"code": "X", "message": "no"}}, headers={"X-Request-ID": "r-1"}
    )
    with pytest.raises(kind) as caught:
        async with side.scope():
            raise AssertionError("not reached")
    assert getattr(caught.value, "status_code", None) == status
    assert getattr(caught.value, "request_id", None) == "r-1"
    assert current_scope() is None


@pytest.mark.usefixtures("gate_open")
async def test_a_service_that_cannot_be_reached(service: Service, side: Side) -> None:
    def refused() -> httpx.Response:
        raise httpx.ConnectError("refused")

    service.sessions["s-1"] = refused
    with pytest.raises(APIConnectionError):
        async with side.scope():
            raise AssertionError("not reached")


@pytest.mark.usefixtures("gate_open")
async def test_the_fetch_is_tried_again_as_every_read_is() -> None:
    answers = [httpx.Response(503), httpx.Response(200, json={"sessionId": "s", "executions": []})]
    seen: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers["Authorization"])
        return answers[len(seen) - 1]

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    client = AsyncNoukai(api_key="nk_test", max_retries=1, http_client=http)
    async with trace_scope(replay_session_id="s", client=client) as scope:
        assert scope.mode == "replay"
    assert seen == ["Bearer nk_test"] * 2


@pytest.mark.usefixtures("gate_open")
async def test_a_closed_client_says_so(service: Service) -> None:
    side = AsyncSide(service)
    await side.client.aclose()
    with pytest.raises(ClientClosedError):
        async with side.scope():
            raise AssertionError("not reached")


@pytest.mark.usefixtures("gate_open")
async def test_the_id_that_the_service_gives_is_the_scopes(service: Service, side: Side) -> None:
    service.sessions["alias"] = {"sessionId": "s-9", "executions": [execution(0)]}
    async with side.scope("alias") as scope:
        assert scope.session_id == "s-9"
        assert (await side.execute()).session_id == "s-9"


@pytest.mark.usefixtures("gate_open")
async def test_a_traced_function_can_open_a_replay(service: Service) -> None:
    service.record(execution(0))
    side = SyncSide(service)

    @trace(replay_session_id="s-1", client=side.client)
    def handle() -> Any:
        return side.flow().execute(message="m0").result

    assert handle() == "answer to m0"
    assert handle() == "answer to m0"
    assert service.fetches == ["s-1", "s-1"]


@pytest.mark.usefixtures("gate_open")
async def test_what_an_adapter_opens(service: Service, side: Side) -> None:
    service.record(execution(0))
    for source in (side.client, side.client._transport):
        scope = await open_replay(ReplayRequest("s-1"), source)
        assert (scope.mode, scope.session_id) == ("replay", "s-1")
        assert current_scope() is None
        scope.end()
        scope = open_replay_sync(ReplayRequest("s-1"), source)
        with pytest.raises(ReplayLeftoverError):
            scope.verify()
        scope.end()


# Bad options


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"replay_session_id": "s-1"}, "needs client="),
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
    ],
)
async def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        async with trace_scope(**options):
            raise AssertionError("not reached")
    with pytest.raises(ValueError, match=said), trace_scope_sync(**options):
        raise AssertionError("not reached")


def test_the_async_block_names_the_sync_one() -> None:
    with pytest.raises(TypeError, match=r"in sync code use trace_scope_sync\(\)"), trace_scope():  # type: ignore[attr-defined]  # on purpose
        raise AssertionError("not reached")


@pytest.mark.usefixtures("gate_open")
async def test_one_of_client_and_transport(side: Side) -> None:
    with pytest.raises(ValueError, match="needs client="):
        async with side.scope("s-1", transport=side.client._transport):
            raise AssertionError("not reached")


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("source", ["nk_key", 7, httpx])
async def test_what_is_no_client_is_refused(source: Any) -> None:
    with pytest.raises(TypeError, match="Noukai or an AsyncNoukai"):
        async with trace_scope(replay_session_id="s-1", client=source):
            raise AssertionError("not reached")


async def test_unknown_options() -> None:
    options: Any = {"replay": "s-1"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'replay'"):
        async with trace_scope(**options):
            raise AssertionError("not reached")


# Forks: calls that go live by somebody's choice in writing


@pytest.mark.usefixtures("gate_open")
async def test_from_the_nth_call_on_calls_go_live(service: Service, side: Side) -> None:
    service.record(execution(0), execution(1), execution(2))
    async with side.scope(live_from=2) as scope:
        assert [(await side.execute(f"m{n}")).result for n in range(3)] == [
            "answer to m0",
            "answer to m1",
            "live",
        ]
    assert scope.session_id not in (None, "s-1")
    assert [call.headers["X-Session-Id"] for call in service.live] == [scope.session_id]
    report = scope.report
    assert (len(report.hits), len(report.misses), len(report.leftovers)) == (2, 0, 1)


@pytest.mark.usefixtures("gate_open")
async def test_a_miss_before_the_nth_call_is_one(service: Service, side: Side) -> None:
    service.record(execution(0))
    with pytest.raises(ReplayMissError):
        async with side.scope(live_from=2):
            await side.execute("m0")
            await side.execute("m1")
    assert service.live == []


@pytest.mark.usefixtures("gate_open")
async def test_a_call_without_a_recording_goes_live_where_that_is_asked_for(
    service: Service, side: Side
) -> None:
    service.record(execution(0), execution(1, triggerType="step"))
    async with side.scope(on_miss="live") as scope:
        assert (await side.execute("m0")).result == "answer to m0"
        assert (await side.execute("new")).result == "live"
        assert (await side.execute("new", slug="acme/spelling/other")).result == "live"
    assert [call.url.path.split("/")[-2] for call in service.live] == ["grade-3", "other"]
    assert {call.headers["X-Session-Id"] for call in service.live} == {scope.session_id}
    report = scope.report
    assert (len(report.hits), len(report.misses), len(report.leftovers)) == (1, 0, 1)


@pytest.mark.usefixtures("gate_open")
async def test_live_calls_never_go_into_the_recorded_session(service: Service, side: Side) -> None:
    service.record()
    async with side.scope(live_from=0) as scope:
        await side.execute("a", session_id="s-1")
        await side.execute("b", session_id="mine")
    sessions = [call.headers["X-Session-Id"] for call in service.live]
    assert sessions == [scope.session_id, "mine"]


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("options", [{"live_from": 0}, {"on_miss": "live"}])
async def test_once_a_fork_has_ended_nothing_goes_live(
    service: Service, options: dict[str, Any]
) -> None:
    service.record()
    side = AsyncSide(service)
    gone = anyio.Event()

    async def late() -> None:
        await gone.wait()
        with pytest.raises(ReplayMissError, match="ended already"):
            await side.execute("late")

    async with anyio.create_task_group() as tasks:
        async with side.scope(**options):
            tasks.start_soon(late)
            await anyio.lowlevel.checkpoint()
        gone.set()
    assert service.live == []


@pytest.mark.usefixtures("gate_open")
async def test_a_call_from_another_session_does_not_go_live(service: Service, side: Side) -> None:
    service.record(execution(0))
    service.record(session_id="s-2")
    with pytest.raises(ReplayMissError):
        async with side.scope(on_miss="live"):
            await side.execute(session_id="s-2")
    assert service.live == []


# Ends


@pytest.mark.usefixtures("gate_open")
async def test_a_scope_left_in_another_task_is_no_error(
    service: Service, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        pytest.skip("asyncio's own tasks")
    service.record()
    side = AsyncSide(service)
    block = side.scope()
    scope = await asyncio.create_task(_entered(block))
    assert current_scope() is None
    await block.__aexit__(None, None, None)
    assert scope.mode == "replay"
    assert current_scope() is None


async def _entered(block: Any) -> Any:
    return await block.__aenter__()


@pytest.mark.usefixtures("gate_open")
@pytest.mark.parametrize("raised", [ValueError, asyncio.CancelledError])
async def test_the_bodys_error_passes(
    service: Service, side: Side, raised: Callable[[], BaseException]
) -> None:
    service.record(execution(0))
    with pytest.raises(type(raised())):
        async with side.scope():
            raise raised()
