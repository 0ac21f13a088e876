"""Calls past the official client look like its own, and end as its own where they fail."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmClosedError,
    LlmConnectionError,
    LlmRequestError,
    LlmTimeoutError,
)
from noukai_sdk.local.llm.providers import open_config, short_way
from tests.local.llm.calls import SOON, ask, asking, config
from tests.support.llm_servers import Exchange, FaultServer, fault_server, ok, silent, status

pytestmark = pytest.mark.anyio

# Each HTTP library writes its own.
ITS_OWN = {"accept", "accept-encoding", "connection", "content-length", "host"}


@pytest.fixture
def anyio_backend() -> str:
    """The short way is for asyncio; elsewhere the official client does it all."""
    return "asyncio"


async def asked_once(provider: str, server: FaultServer) -> tuple[str, Any, dict[str, str]]:
    options = {"key": None} if provider == "ollama" else {}
    async with aclosing(open_config(config(provider, server.url, **options))) as model:
        await ask(model, "answer", asking("Grüße, \u2028 und ein Ende", max_tokens=3))
    asked = server.asked.pop()
    headers = {name: text for name, text in asked.headers.items() if name not in ITS_OWN}
    return asked.path, asked.body, headers


async def test_a_request_is_the_official_clients_own(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_server(ok()) as server:
        past_it = await asked_once(provider, server)
        monkeypatch.setenv("NOUKAI_FAST", "0")
        assert past_it == await asked_once(provider, server)
    assert "user-agent" in past_it[2]


async def test_a_good_answer_does_not_touch_the_official_client(
    protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with fault_server(ok("One"), ok("Two")) as server:
        async with aclosing(open_config(config(protocol, server.url))) as opened:
            model: Any = opened
            assert await ask(model, "answer") == "One"
            monkeypatch.setattr(type(model._client), "post", None)
            assert await ask(model, "answer") == "Two"


async def test_the_official_client_goes_on_from_the_first_failure(protocol: str) -> None:
    with fault_server(status(503, **SOON), status(429, **SOON), ok("At last")) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            assert await ask(model, "answer") == "At last"
    assert [asked.headers["x-stainless-retry-count"] for asked in server.asked] == ["0", "1", "2"]
    assert server.asked[0].body == server.asked[2].body


async def test_a_connection_that_breaks_is_tried_again(protocol: str) -> None:
    async def broken(exchange: Exchange) -> None:
        raise ConnectionResetError("a fault on purpose")

    async def cut_off(exchange: Exchange) -> None:
        await exchange.start(200, {"content-type": "application/json", "content-length": "50"})
        await exchange.part(b'{"choices": ', more=True)
        raise ConnectionResetError("a fault on purpose")

    for fault in (broken, cut_off):
        # uvicorn answers 500 to the first, and hangs up on the second.
        with fault_server(fault, ok("Again")) as server:
            async with aclosing(open_config(config(protocol, server.url))) as model:
                assert await ask(model, "answer") == "Again"
        assert len(server.asked) == 2


async def test_the_cause_of_a_failure_is_chained(protocol: str) -> None:
    async with aclosing(
        open_config(config(protocol, "http://127.0.0.1:9", max_retries=0))
    ) as model:
        with pytest.raises(LlmConnectionError) as caught:
            await ask(model, "answer")
    causes = []
    error: BaseException | None = caught.value
    while error is not None:
        causes.append(type(error).__module__.partition(".")[0])
        error = error.__cause__
    assert causes[:2] == ["noukai_sdk", "openai" if "openai" in protocol else "anthropic"]
    assert "aiohttp" in causes


def packed(code: int, body: Any) -> Any:
    async def answer(exchange: Exchange) -> None:
        text = gzip.compress(json.dumps(body).encode())
        await exchange.whole(code, text, {"content-encoding": "gzip"})

    return answer


async def test_compressed_answers_are_read_also_where_they_are_handed_over() -> None:
    message = {"role": "assistant", "content": "Hi"}
    body = {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
    refusal = {"error": {"message": "No such key", "code": "no_key"}}
    with fault_server(packed(200, body), packed(401, refusal)) as server:
        async with aclosing(open_config(config("openai", server.url))) as model:
            assert await ask(model, "answer") == "Hi"
            with pytest.raises(LlmAuthenticationError, match="401 No such key") as caught:
                await ask(model, "answer")
    assert caught.value.code == "no_key"
    assert "gzip" in server.asked[0].headers["accept-encoding"]


async def test_a_redirect_is_followed_as_the_official_client_does(protocol: str) -> None:
    with fault_server(ok("Over here")) as there:
        path = "/v1/messages" if protocol == "anthropic" else "/v1/chat/completions"
        with fault_server(status(307, location=there.url + path)) as here:
            async with aclosing(open_config(config(protocol, here.url))) as model:
                assert await ask(model, "answer") == "Over here"
    assert there.asked[0].body == here.asked[0].body


async def test_many_first_calls_at_once_each_get_their_answer(protocol: str) -> None:
    async def echo(exchange: Exchange) -> None:
        content = exchange.asked.body["messages"][0]["content"]
        await ok(content if isinstance(content, str) else content[0]["text"])(exchange)

    answers: dict[int, str] = {}
    with fault_server(echo) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:

            async def one(number: int) -> None:
                answers[number] = await ask(model, "answer", asking(f"number {number}"))

            async with anyio.create_task_group() as tasks:
                for number in range(30):
                    tasks.start_soon(one, number)
    assert answers == {number: f"number {number}" for number in range(30)}


def last(text: str) -> Any:
    """A good answer, after which the connection is closed: no loop keeps one."""

    async def answer(exchange: Exchange) -> None:
        message = {"role": "assistant", "content": text}
        choices = [{"index": 0, "finish_reason": "stop", "message": message}]
        body = json.dumps({"choices": choices}).encode()
        await exchange.whole(200, body, {"connection": "close"})

    return answer


async def test_another_event_loop_has_the_official_client() -> None:
    with fault_server(last("One"), last("Two"), last("Three")) as server:
        async with aclosing(open_config(config("openai", server.url))) as model:
            assert await ask(model, "answer") == "One"
            elsewhere = anyio.to_thread.run_sync(lambda: asyncio.run(ask(model, "answer")))
            assert await elsewhere == "Two"
            assert await ask(model, "answer") == "Three"


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_trio_has_the_official_client() -> None:
    with fault_server(last("One")) as server:
        async with aclosing(open_config(config("openai", server.url))) as model:
            assert await ask(model, "answer") == "One"


async def test_a_proxy_is_the_official_clients_affair(monkeypatch: pytest.MonkeyPatch) -> None:
    assert short_way.is_open()
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    assert not short_way.is_open()


@pytest.mark.parametrize("value", [float("nan"), object()])
async def test_a_request_that_is_no_json(value: Any, protocol: str) -> None:
    refused = asking(temperature=value)
    with fault_server(ok()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            for _ in range(2):
                with pytest.raises(LlmRequestError, match="cannot be written as JSON"):
                    await ask(model, "answer", refused)
                await ask(model, "answer")
    assert len(server.asked) == 2


async def test_a_cancelled_first_call_leaves_the_way_open(protocol: str) -> None:
    with fault_server(silent(), ok("Next")) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            with anyio.move_on_after(10) as scope:
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(ask, model, "answer")
                    assert await anyio.to_thread.run_sync(server.waiting.wait, 10)
                    scope.cancel()
            assert await ask(model, "answer") == "Next"


Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def talking(talk: Talk) -> AsyncIterator[str]:
    """A server with no HTTP library in it; gives its URL."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except asyncio.IncompleteReadError:
            pass  # the client has hung up
        finally:
            writer.close()

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


HI = {"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}


async def test_an_answer_that_aiohttp_refuses_goes_to_the_official_client_from_then_on() -> None:
    chunk = json.dumps({"choices": [HI]}).encode()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    head += b"Content-Length: 7\r\n\r\n"

    async def both_lengths(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}]}")
        writer.write(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(chunk), chunk))
        await writer.drain()

    key = "sk-never-to-be-seen"
    async with talking(both_lengths) as url:
        settings = config("openai", url, key=key, max_retries=0)
        async with aclosing(open_config(settings)) as model:
            with pytest.raises(LlmConnectionError, match="Transfer-Encoding") as caught:
                await ask(model, "answer")
            assert [await ask(model, "answer") for _ in range(2)] == ["Hi", "Hi"]
    error: BaseException | None = caught.value
    while error is not None:
        assert key not in repr(error)
        error = error.__cause__


async def test_a_server_that_does_not_read_is_given_up() -> None:
    done = asyncio.Event()

    async def unmoved(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await done.wait()

    async with talking(unmoved) as url:
        async with aclosing(
            open_config(config("openai", url, timeout=0.1, max_retries=0))
        ) as model:
            with anyio.fail_after(10), pytest.raises(LlmTimeoutError):
                await ask(model, "answer", asking("x" * 20_000_000))
        done.set()


async def test_no_limit_of_time(protocol: str) -> None:
    with fault_server(ok("In its time")) as server:
        settings = config(protocol, server.url, timeout=float("inf"))
        async with aclosing(open_config(settings)) as model:
            assert await ask(model, "answer") == "In its time"


@pytest.mark.parametrize("header", ["a" * 50_000, "Käse"], ids=["long", "not ASCII"])
async def test_headers_that_aiohttp_is_strict_about(header: str, protocol: str) -> None:
    refused = status(401, x_told=header)

    async def good(exchange: Exchange) -> None:
        await exchange.whole(200, json.dumps(body).encode(), {"x-told": header})

    text = [{"type": "text", "text": "Hi"}]
    body = {"choices": [HI], "content": text, "stop_reason": "end_turn"}
    with fault_server(good, refused) as server:
        async with aclosing(open_config(config(protocol, server.url, max_retries=0))) as model:
            assert await ask(model, "answer") == "Hi"
            with pytest.raises(LlmAuthenticationError, match="401 fault 401"):
                await ask(model, "answer")


async def test_the_request_that_is_only_written_is_not_logged(
    protocol: str, caplog: pytest.LogCaptureFixture
) -> None:
    with fault_server(ok("Hi")) as server, caplog.at_level(logging.INFO):
        async with aclosing(open_config(config(protocol, server.url))) as model:
            await ask(model, "answer")
    assert not [record for record in caplog.records if "HTTP Request" in record.getMessage()]


async def test_a_model_that_is_closed_in_the_middle(protocol: str) -> None:
    with fault_server(silent()) as server:
        model = open_config(config(protocol, server.url))

        async def one() -> None:
            with pytest.raises(LlmClosedError, match="closed meanwhile"):
                await ask(model, "answer")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            assert await anyio.to_thread.run_sync(server.waiting.wait, 10)
            await model.aclose()
        assert await anyio.to_thread.run_sync(server.hung_up.wait, 10)


async def test_no_more_connections_than_the_official_client_opens(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(short_way, "_MOST_CONNECTIONS", 3)
    clients: set[Any] = set()

    async def answer(exchange: Exchange) -> None:
        clients.add(exchange.client)
        await ok("Hi")(exchange)

    with fault_server(answer) as server:
        model = open_config(config("openai", server.url))
        async with aclosing(model), anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(ask, model, "answer")
    assert len(server.asked) == 20
    assert len(clients) <= 3


async def test_a_large_request(protocol: str) -> None:
    with fault_server(ok("Read")) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            assert await ask(model, "answer", asking("x" * 2_000_000)) == "Read"
    assert "x" * 2_000_000 in str(server.asked[0].body)
