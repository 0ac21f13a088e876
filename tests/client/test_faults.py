"""Everything that can go wrong below HTTP becomes an error of the SDK."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

from noukai_sdk import APIConnectionError, APITimeoutError, AuthenticationError
from tests.support import sockets
from tests.support.service import DONE, NEVER, STARTED, Reply, Service, output, stream
from tests.support.sides import Side


@pytest.fixture
def side(every_side: Side) -> Side:
    """Run the test on every client."""
    return every_side


METHODS = [
    "execute",
    "steps",
    "events",
    "execute_async",
    "trace",
    "step_trace",
    "live_trace",
    "poll",
]
READS = ["trace", "step_trace", "live_trace", "poll"]


async def call(side: Side, flow: Any, method: str, **options: Any) -> Any:
    """Call any method of the client, to its end."""
    if method in ("steps", "events"):
        return await side.collect(getattr(flow, method)(message="hi", **options))
    if method == "live_trace":
        return await side.collect(flow.run("e").live_trace(**options))
    if method in ("trace", "step_trace"):
        arguments = ["step-1"] if method == "step_trace" else []
        return await side.call(getattr(flow.run("e"), method), *arguments, **options)
    if method == "poll":
        return await side.call(flow.job("e").poll, **options)
    return await side.call(getattr(flow, method), message="hi", **options)


@pytest.fixture
def points_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that points clients at a URL."""
    return lambda url: monkeypatch.setenv("NOUKAI_BASE_URL", url)


@pytest.fixture
def no_listener(points_at: Callable[[str], None]) -> Iterator[None]:
    """Point clients at a port without a listener."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        points_at(f"http://127.0.0.1:{bound.getsockname()[1]}/api/v1")
        yield


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("noukai_sdk.protocol.exchange.FIRST_DELAY", 0.01)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.usefixtures("no_listener")
async def test_connection_refused_is_retried_and_raises(side: Side, method: str) -> None:
    phases: list[dict[str, Any]] = []
    async with side.flow(log_handler=phases.append) as flow:
        with pytest.raises(APIConnectionError, match="connection failed") as caught:
            await call(side, flow, method)
    error = caught.value
    assert not isinstance(error, APITimeoutError)
    assert not error.request_sent
    assert error.status_code is None
    assert type(error.__cause__).__module__.split(".")[0] in ("httpx", "httpx2")
    address = os.environ["NOUKAI_BASE_URL"].partition("//")[2].partition("/")[0]
    assert address in str(error)
    assert "is `noukai dev` running?" in str(error)
    assert "NOUKAI_BASE_URL" in str(error)
    assert "nk_test" not in repr(error) + str(phases)
    # Nothing reached the service, so every call is tried once more.
    assert [event["phase"] for event in phases] == [
        "request",
        "response",
        "retry",
        "request",
        "response",
    ]


async def test_connection_refused_by_production_names_host_and_variables(
    side: Side, monkeypatch: pytest.MonkeyPatch
) -> None:
    def resolve(host: str, *args: Any, **options: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    async with side.flow(max_retries=0) as flow:
        with pytest.raises(APIConnectionError) as caught:
            await call(side, flow, "execute")
    for text in ("https://api.noukai.xyz", "NOUKAI_BASE_URL", "NOUKAI_ENV=dev"):
        assert text in str(caught.value)
    assert "noukai dev" not in str(caught.value)


BREAKS = [
    (handle, method)
    for method in ("execute", "events", "poll", "live_trace")
    for handle in (sockets.hang_up, sockets.hang_up_at_once, sockets.reset, sockets.garbage)
] + [
    # Streams that break off in the middle are in test_streams.py.
    (handle, method)
    for method in ("execute", "poll")
    for handle in (sockets.cut_body, sockets.bad_gzip)
]


@pytest.mark.parametrize(("handle", "method"), BREAKS)
# httpx drops generators of its own halfway when a request fails, and trio warns of them.
@pytest.mark.filterwarnings("ignore:Async generator 'http:ResourceWarning")
async def test_connection_broken_raises_and_only_reads_are_repeated(
    side: Side, points_at: Callable[[str], None], handle: Any, method: str
) -> None:
    with sockets.serve_sockets(handle) as (url, connections):
        points_at(url)
        async with side.flow() as flow:
            with pytest.raises(APIConnectionError) as caught:
                await call(side, flow, method)
    error = caught.value
    assert not isinstance(error, APITimeoutError)
    assert error.request_sent
    assert error.__cause__ is not None
    # The service may have begun the run: only what is free to repeat is repeated.
    if method not in READS:
        assert len(connections) == 1
    elif side.fast:
        assert len(connections) >= 2  # aiohttp sends a read again by itself
    else:
        assert len(connections) == 2


async def test_connection_closed_while_idle_is_replaced(
    side: Side, points_at: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loop that stands still, as between the cells of a notebook, does not notice it in time."""
    monkeypatch.setattr("noukai_sdk.transport.async_clients.QUIET", 0.0)
    closed = threading.Event()
    with sockets.serve_sockets(sockets.answer_once(closed)) as (url, connections):
        points_at(url)
        async with side.flow() as flow:
            for _ in range(4):
                closed.clear()
                assert (await side.call(flow.execute, message="hi")).result == 1
                assert closed.wait(20)  # in the event loop's own thread
    assert len(connections) == 4


async def test_timeout_of_each_method_raises(side: Side, points_at: Callable[[str], None]) -> None:
    """Each method takes a timeout of its own."""

    async def time_out(flow: Any, method: str) -> None:
        with pytest.raises(APITimeoutError, match="timed out") as caught:
            await call(side, flow, method, timeout=1.0)
        assert caught.value.request_sent, method

    with sockets.serve_sockets(sockets.silence) as (url, connections):
        points_at(url)
        async with side.flow(max_retries=0) as flow, anyio.create_task_group() as tasks:
            for method in METHODS:
                tasks.start_soon(time_out, flow, method)
    assert len(connections) == len(METHODS)


@pytest.mark.parametrize("method", ["execute", "events", "poll"])
async def test_tls_failure_raises_as_not_sent(
    side: Side, points_at: Callable[[str], None], method: str
) -> None:
    with sockets.serve_sockets(sockets.no_tls) as (url, connections):
        points_at(url.replace("http://", "https://"))
        async with side.flow() as flow:
            with pytest.raises(APIConnectionError) as caught:
                await call(side, flow, method)
    assert not isinstance(caught.value, APITimeoutError)
    # No byte of the request went out, so that sending it again is safe.
    assert not caught.value.request_sent
    assert len(connections) >= 2


async def test_execute_timed_out_is_not_repeated(side: Side, service: Service) -> None:
    service.reply(Reply(DONE, when=NEVER))
    async with side.flow(timeout=0.5, max_retries=3) as flow:
        with pytest.raises(APITimeoutError):
            await side.call(flow.execute, message="hi")
        await service.has_disconnects()
    assert len(service.requests) == 1


async def test_stream_that_falls_silent_times_out(side: Side, service: Service) -> None:
    service.reply(stream(STARTED, output("x"), then="silence"))
    seen: list[Any] = []
    async with side.flow() as flow:
        with pytest.raises(APITimeoutError) as caught:
            await side.collect(flow.events(message="hi", timeout=1.0), seen)
        await service.has_disconnects()
    assert [event.type for event in seen] == ["run_started", "step_output"]
    assert caught.value.execution_id == "e"


async def test_connect_timeout_is_retried_as_not_sent(
    side: Side, points_at: Callable[[str], None]
) -> None:
    """The listener's queue is full, so no connection is made: it is safe to send again."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(address)
        points_at(f"http://127.0.0.1:{address[1]}/api/v1")
        phases: list[dict[str, Any]] = []
        async with side.flow(timeout=0.2, log_handler=phases.append) as flow:
            with pytest.raises(APITimeoutError) as caught:
                await side.call(flow.execute, message="hi")
        for client in waiting:
            client.close()
    assert not caught.value.request_sent
    assert [event["phase"] for event in phases].count("retry") == 1


async def test_poll_after_retryable_status_is_repeated(side: Side, service: Service) -> None:
    service.reply(
        Reply(None, 503),
        Reply(None, 429, {"retry-after": "0"}),
        Reply({"executionId": "e", "status": "running"}),
    )
    async with side.flow(max_retries=2) as flow:
        assert (await side.call(flow.job("e").poll)).status == "running"
    assert len(service.requests) == 3


async def test_api_key_rejected_is_not_shown(side: Side, service: Service) -> None:
    service.reply(Reply({"detail": "who are you?"}, 401))
    async with side.client(api_key="nk_very_secret") as client:
        with pytest.raises(AuthenticationError) as caught:
            await side.call(client.flow("grade-3").execute, message="hi")
    shown = repr(client) + repr(caught.value) + str(caught.value) + repr(vars(caught.value))
    assert "very_secret" not in shown + repr(client._transport.service)
