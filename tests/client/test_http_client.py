"""``http_client=``: any client of httpx's interface, which the user closes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import httpx
import httpx2
import pytest

from noukai_sdk import (
    APIConnectionError,
    APITimeoutError,
    ClientClosedError,
    FlowNotFoundError,
    Noukai,
    RunNotFoundError,
)
from tests.support.service import COMPLETED, DONE, STARTED, Reply, Service, frame, stream
from tests.support.sides import Side

LIBRARIES: list[Any] = [httpx, httpx2]


@pytest.fixture(params=LIBRARIES, ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    """Return the HTTP library of the user's client."""
    return request.param


def own(side: Side, library: Any, **arguments: Any) -> Any:
    kind = library.AsyncClient if side.is_async else library.Client
    return kind(**arguments)


async def close(side: Side, client: Any) -> None:
    await side.call(client.aclose if side.is_async else client.close)


async def test_http_client_sends_calls_and_stays_open(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library, headers={"X-Mine": "1", "User-Agent": "mine"}, params={"q": "1"})
    async with side.client(http_client=mine) as client:
        result = await side.call(client.flow("grade-3").execute, message="hi")
        service.reply(stream(STARTED, COMPLETED))
        events = await side.collect(client.flow("grade-3").events(message="hi"))
    assert result.result == {"grade": 3}
    assert len(events) == 2
    headers = service.last.headers
    assert (headers["x-mine"], headers["authorization"]) == ("1", "Bearer nk_test")
    assert headers["user-agent"].startswith("noukai-python/")
    assert service.last.path.endswith("/step?q=1")
    assert not mine.is_closed
    await close(side, mine)


async def test_http_client_settings_do_not_replace_ours(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library, base_url="http://127.0.0.1:1/elsewhere", auth=("user", "password"))
    async with side.client(http_client=mine) as client:
        await side.call(client.flow("grade-3").execute, message="hi")
    assert service.last.path == "/api/v1/seq/acme/spelling/grade-3/execute"
    assert service.last.headers["authorization"] == "Bearer nk_test"
    await close(side, mine)


async def test_http_client_closed_before_call_raises(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library)
    async with side.client(http_client=mine) as client:
        await close(side, mine)
        with pytest.raises(ClientClosedError):
            await side.call(client.flow("grade-3").execute, message="hi")


async def test_http_client_closed_during_call_raises(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library)

    def shut(tool_calls: Any) -> list[Any]:
        mine.close()
        return []

    async def ashut(tool_calls: Any) -> list[Any]:
        await mine.aclose()
        return []

    service.reply({"status": "tool_calls_required", "executionId": "e", "pausedAtStep": "a"})
    async with side.client(http_client=mine) as client:
        with pytest.raises(ClientClosedError, match="closed during the call") as caught:
            await side.call(
                client.flow("grade-3").execute,
                message="hi",
                tool_handler=ashut if side.is_async else shut,
            )
    assert isinstance(caught.value.__cause__, RuntimeError)


def mocked(side: Side, library: Any, handler: Callable[[Any], Any]) -> Any:
    return side.make(http_client=own(side, library, transport=library.MockTransport(handler)))


async def test_http_client_with_mock_transport_serves_calls(side: Side, library: Any) -> None:
    body = frame(STARTED) + frame(COMPLETED)

    def handler(request: Any) -> Any:
        is_step = request.url.path.endswith("/step")
        return library.Response(200, content=body) if is_step else library.Response(200, json=DONE)

    client = mocked(side, library, handler)
    assert client._transport.service.custom_http
    assert (await side.call(client.flow("grade-3").execute, message="hi")).result == {"grade": 3}
    assert len(await side.collect(client.flow("grade-3").events(message="hi"))) == 2


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of trio, and rightly so
async def test_http_client_with_endless_mock_stream_can_be_left(
    async_side: Side, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock goes on yielding chunks after it was closed."""
    monkeypatch.setattr("noukai_sdk.transport.drivers.MOST_LEFT", 5)
    chunks: list[int] = []

    class Endless(library.AsyncByteStream):  # type: ignore[misc]  # one of two libraries
        async def __aiter__(self) -> Any:
            while True:
                chunks.append(1)
                yield frame(STARTED)

    client = mocked(async_side, library, lambda request: library.Response(200, stream=Endless()))
    async with contextlib.aclosing(client.flow("grade-3").events(message="hi")) as events:
        await anext(events)
    assert len(chunks) < 10


@pytest.mark.parametrize(
    ("name", "kind", "request_sent"),
    [
        ("ConnectError", APIConnectionError, False),
        ("ConnectTimeout", APITimeoutError, False),
        ("PoolTimeout", APITimeoutError, False),
        ("UnsupportedProtocol", APIConnectionError, False),
        ("ReadError", APIConnectionError, True),
        ("ReadTimeout", APITimeoutError, True),
        ("WriteError", APIConnectionError, True),
        ("WriteTimeout", APITimeoutError, True),
        ("RemoteProtocolError", APIConnectionError, True),
        ("LocalProtocolError", APIConnectionError, True),
        ("ProxyError", APIConnectionError, False),
        ("DecodingError", APIConnectionError, True),
        ("TooManyRedirects", APIConnectionError, True),
        ("CloseError", APIConnectionError, True),
    ],
)
async def test_http_client_fault_raises_sdk_error(
    side: Side, library: Any, name: str, kind: type[APIConnectionError], request_sent: bool
) -> None:
    fault = getattr(library, name)("what happened")

    def handler(request: Any) -> Any:
        raise fault

    client = mocked(side, library, handler)
    client._transport.service = _without_retries(client)
    for method in ("execute", "execute_async"):
        with pytest.raises(APIConnectionError, match="what happened") as caught:
            await side.call(getattr(client.flow("grade-3"), method), message="hi")
        assert type(caught.value) is kind
        assert caught.value.request_sent is request_sent
        assert caught.value.__cause__ is fault
    with pytest.raises(kind):
        await side.collect(client.flow("grade-3").events(message="hi"))
    fault = ZeroDivisionError("a bug")
    with pytest.raises(ZeroDivisionError):
        await side.call(client.flow("grade-3").execute, message="hi")


async def test_http_client_hook_raises_for_status_becomes_typed_error(
    side: Side, service: Service, library: Any
) -> None:
    """The service was reached, so a read is not repeated."""

    def plain(response: Any) -> None:
        response.raise_for_status()

    async def awaited(response: Any) -> None:
        response.raise_for_status()

    service.reply(Reply({"detail": "no"}, 404))
    mine = own(side, library, event_hooks={"response": [awaited if side.is_async else plain]})
    async with side.client(http_client=mine) as client:
        flow = client.flow("grade-3")
        for method, kind in (
            (lambda: flow.execute(message="hi"), FlowNotFoundError),
            (flow.run("e").trace, RunNotFoundError),
        ):
            with pytest.raises(kind, match="responded with HTTP 404") as caught:
                await side.call(method)
            assert (caught.value.status_code, caught.value.request_id) == (404, "req-1")
            assert isinstance(caught.value.__cause__, library.HTTPStatusError)
    assert len(service.requests) == 2
    await close(side, mine)


def _without_retries(client: Any) -> Any:

    return client._transport.service._replace(max_retries=0)


def test_http_client_needs_only_build_request_and_send() -> None:
    """Only ``build_request`` and ``send`` are used."""
    sent = []

    class Duck:
        def build_request(self, method: str, url: Any, **rest: Any) -> Any:
            return httpx.Request(method, url, content=rest["content"], headers=rest["headers"])

        def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
            sent.append(str(request.url))
            return httpx.Response(200, json=DONE)

    with Noukai(api_key="nk_1", http_client=Duck()) as client:
        assert client.flow("a/b/c").execute(message="hi").status == "completed"
    assert sent == ["https://api.noukai.xyz/api/v1/seq/a/b/c/execute"]
