"""``http_client=``: any client of httpx's interface, and the user's own to close."""

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
    AsyncNoukai,
    ClientClosedError,
    FlowNotFoundError,
    Noukai,
)
from tests.support.service import COMPLETED, DONE, STARTED, Reply, Service, frame, stream
from tests.support.sides import SYNC, Side

LIBRARIES: list[Any] = [httpx, httpx2]


@pytest.fixture(params=LIBRARIES, ids=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    """The HTTP library that the user likes."""
    return request.param


def own(side: Side, library: Any, **arguments: Any) -> Any:
    kind = library.AsyncClient if side.is_async else library.Client
    return kind(**arguments)


async def close(side: Side, client: Any) -> None:
    await side.call(client.aclose if side.is_async else client.close)


async def test_calls_go_through_it_and_it_stays_open(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library, headers={"X-Mine": "1", "User-Agent": "mine"}, params={"q": "1"})
    async with side.client(http_client=mine) as client:
        result = await side.call(client.flow("grade-3").execute, message="hi")
        service.says(stream(STARTED, COMPLETED))
        events = await side.collect(client.flow("grade-3").events(message="hi"))
    assert result.result == {"grade": 3}
    assert len(events) == 2
    headers = service.last.headers
    assert (headers["x-mine"], headers["authorization"]) == ("1", "Bearer nk_test")
    assert headers["user-agent"].startswith("noukai-python/")
    assert service.last.path.endswith("/step?q=1")
    assert not mine.is_closed
    await close(side, mine)


async def test_the_base_url_stays_the_services(side: Side, service: Service, library: Any) -> None:
    mine = own(side, library, base_url="http://127.0.0.1:1/elsewhere")
    async with side.client(http_client=mine) as client:
        await side.call(client.flow("grade-3").execute, message="hi")
    assert service.last.path == "/api/v1/seq/acme/spelling/grade-3/execute"
    await close(side, mine)


async def test_the_key_stays_the_clients(side: Side, service: Service, library: Any) -> None:
    mine = own(side, library, auth=("user", "password"))
    async with side.client(http_client=mine) as client:
        await side.call(client.flow("grade-3").execute, message="hi")
    assert service.last.headers["authorization"] == "Bearer nk_test"
    await close(side, mine)


async def test_one_that_its_owner_closed(side: Side, service: Service, library: Any) -> None:
    mine = own(side, library)
    async with side.client(http_client=mine) as client:
        await close(side, mine)
        with pytest.raises(ClientClosedError):
            await side.call(client.flow("grade-3").execute, message="hi")


async def test_one_that_is_closed_during_the_call(
    side: Side, service: Service, library: Any
) -> None:
    mine = own(side, library)

    def shut(tool_calls: Any) -> list[Any]:
        mine.close()
        return []

    async def ashut(tool_calls: Any) -> list[Any]:
        await mine.aclose()
        return []

    service.says({"status": "tool_calls_required", "executionId": "e", "pausedAtStep": "a"})
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


async def test_a_mock_transport(side: Side, library: Any) -> None:
    body = frame(STARTED) + frame(COMPLETED)

    def handler(request: Any) -> Any:
        is_step = request.url.path.endswith("/step")
        return library.Response(200, content=body) if is_step else library.Response(200, json=DONE)

    client = mocked(side, library, handler)
    assert client._transport.service.custom_http
    assert (await side.call(client.flow("grade-3").execute, message="hi")).result == {"grade": 3}
    assert len(await side.collect(client.flow("grade-3").events(message="hi"))) == 2


@pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")  # of trio, and rightly so
async def test_a_stream_without_end_is_left_all_the_same(
    async_side: Side, library: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mock goes on giving chunks after it was closed."""
    monkeypatch.setattr("noukai_sdk.transport.drivers.MOST_LEFT", 5)
    given: list[int] = []

    class Endless(library.AsyncByteStream):  # type: ignore[misc]  # one of two libraries
        async def __aiter__(self) -> Any:
            while True:
                given.append(1)
                yield frame(STARTED)

    client = mocked(async_side, library, lambda request: library.Response(200, stream=Endless()))
    async with contextlib.aclosing(client.flow("grade-3").events(message="hi")) as events:
        await anext(events)
    assert len(given) < 10


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
async def test_every_fault_of_the_library(
    side: Side, library: Any, name: str, kind: type[APIConnectionError], request_sent: bool
) -> None:
    fault = getattr(library, name)("what it said")

    def handler(request: Any) -> Any:
        raise fault

    client = mocked(side, library, handler)
    client._transport.service = _without_retries(client)
    for method in ("execute", "execute_async"):
        with pytest.raises(APIConnectionError, match="what it said") as caught:
            await side.call(getattr(client.flow("grade-3"), method), message="hi")
        assert type(caught.value) is kind
        assert caught.value.request_sent is request_sent
        assert caught.value.__cause__ is fault
    with pytest.raises(kind):
        await side.collect(client.flow("grade-3").events(message="hi"))


async def test_a_hook_of_the_users_that_raises_for_error_answers(
    side: Side, service: Service, library: Any
) -> None:
    """The service was reached: this is no failed connection, and a read is not repeated."""

    def plain(response: Any) -> None:
        response.raise_for_status()

    async def awaited(response: Any) -> None:
        response.raise_for_status()

    service.says(Reply({"detail": "no"}, 404))
    mine = own(side, library, event_hooks={"response": [awaited if side.is_async else plain]})
    async with side.client(http_client=mine) as client:
        flow = client.flow("grade-3")
        for method in (lambda: flow.execute(message="hi"), flow.run("e").trace):
            with pytest.raises(FlowNotFoundError, match="responded with HTTP 404") as caught:
                await side.call(method)
            assert (caught.value.status_code, caught.value.request_id) == (404, "req-1")
            assert isinstance(caught.value.__cause__, library.HTTPStatusError)
    assert len(service.requests) == 2
    await close(side, mine)


def _without_retries(client: Any) -> Any:

    return client._transport.service._replace(max_retries=0)


async def test_a_bug_is_not_called_a_network_fault(side: Side, library: Any) -> None:
    def handler(request: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await side.call(mocked(side, library, handler).flow("grade-3").execute, message="hi")


def test_an_async_client_on_asyncio_and_its_own_loop(service: Service) -> None:
    """The user's client belongs to one loop, and nothing of ours touches it elsewhere."""
    import asyncio

    async def main() -> None:
        async with httpx.AsyncClient() as mine:
            client = AsyncNoukai(api_key="nk_1", env="dev", http_client=mine)
            await client.flow("a/b/c").execute(message="hi")
            await client.aclose()
            assert not mine.is_closed

    asyncio.run(main())


def test_a_duck_that_is_no_client_of_httpx() -> None:
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


def test_sync_is_the_only_side_for_a_plain_client() -> None:
    with httpx.Client() as mine, SYNC.make(http_client=mine) as client:
        assert client._transport.client is mine
