"""LlmClient: streams, cancelling, threads and closing."""

from __future__ import annotations

import asyncio
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.errors import LlmClosedError, LlmConnectionError
from tests.local.llm.calls import happened
from tests.local.llm.clients import ask, client_of, offline, until
from tests.support.llm_servers import (
    cut,
    fault_server,
    ok,
    silent,
    stalled,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("the_loop_thread_ends")]


@pytest.fixture(params=["complete", "complete_async", "complete_stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_a_stream_gives_pieces_then_the_whole() -> None:
    async with offline() as client:
        stream = client.complete_stream("Hello, how are you today?")
        assert (stream.response, stream.text) == (None, "")
        pieces = [piece async for piece in stream]
        again = await stream
    assert len(pieces) >= 3
    assert "".join(pieces) == stream.text == again
    assert stream.response is not None
    assert stream.response.text == again
    assert stream.response.cost_usd == "0"
    assert stream.response.tokens is not None


async def test_awaiting_after_some_pieces_gives_the_text_from_its_start() -> None:
    async with offline() as client:
        async for piece in (stream := client.complete_stream("Hello, how are you today?")):
            whole = await stream
            assert whole.startswith(piece)
            assert len(whole) > len(piece)


async def test_pieces_come_before_the_answer_is_complete() -> None:
    with fault_server(stalled()) as server, client_of(server) as client:
        async with client.complete_stream("Hello") as stream:
            assert (await anext(stream)).strip() == "Hello"
            assert stream.response is None
        assert await happened(server.hung_up)
        assert client.get_stats()["cancelled_requests"] == 1


async def test_nothing_is_sent_for_a_stream_that_is_not_read() -> None:
    with fault_server(ok()) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        await stream.aclose()
        await stream.aclose()
        assert [piece async for piece in stream] == []
        assert client.get_stats()["total_requests"] == 0
    assert server.asked == []


async def test_a_stream_that_is_cut_keeps_its_text_and_counts_as_failed() -> None:
    with fault_server(cut()) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        with pytest.raises(LlmConnectionError):
            await stream
        assert stream.text.startswith("Hello")
        assert client.get_stats()["failed_requests"] == 1


@pytest.mark.parametrize("how", ["complete_async", "complete_stream"])
async def test_a_cancelled_call_stops_the_request(how: str) -> None:
    with fault_server(silent()) as server, client_of(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, client, how)
            assert await happened(server.waiting)
            tasks.cancel_scope.cancel()
        assert await happened(server.hung_up)
        await until(lambda: client.get_stats()["cancelled_requests"] == 1)
        assert client.get_stats()["circuit_state"] == "closed"


def test_an_interrupted_sync_call_stops_the_request() -> None:
    def interrupt() -> None:
        assert server.waiting.wait(10)
        assert threading.main_thread().ident
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with fault_server(silent()) as server, client_of(server) as client:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.complete("Hello")
        thread.join()
        assert server.hung_up.wait(10)


@pytest.mark.parametrize(("fast", "connections"), [("0", 1), ("1", 2)])
async def test_one_connection_serves_every_thread_and_loop(
    fast: str, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over aiohttp, streams and the rest go over different pools.
    monkeypatch.setenv("NOUKAI_FAST", fast)
    ports: set[Any] = set()

    async def noting(exchange: Any) -> None:
        ports.add(exchange.client)
        await ok()(exchange)

    with fault_server(noting) as server, client_of(server) as client:
        client.complete("from this thread")
        await anyio.to_thread.run_sync(client.complete, "from another")
        await client.complete_async("from this loop")
        await anyio.to_thread.run_sync(lambda: asyncio.run(client.complete_async("and another")))
        await client.complete_stream("and streamed")
        await client.warmup()
    assert len(ports) == connections


async def test_many_threads_at_once() -> None:
    prompts = [f"Hello {number}" for number in range(40)]
    with offline() as client, ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(client.complete, prompts))
        assert client.get_stats()["total_requests"] == 40
    assert all(prompt in answer for prompt, answer in zip(prompts, answers, strict=True))


async def test_a_closed_client_says_so(how: str) -> None:
    client = offline()
    client.complete("Hello")
    client.close()
    await client.aclose()
    client.close()
    with pytest.raises(LlmClosedError, match="make a new one"):
        await ask(client, how)
    assert client.get_stats()["successful_requests"] == 1


async def test_closing_ends_what_is_under_way(how: str) -> None:
    caught: list[Exception] = []

    async def call() -> None:
        with pytest.raises(LlmClosedError) as error:
            await ask(client, how)
        caught.append(error.value)

    with fault_server(silent()) as server:
        client = client_of(server)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            assert await happened(server.waiting)
            await client.aclose()
        assert await happened(server.hung_up)
    assert caught


async def test_a_client_that_was_never_used_closes() -> None:
    with fault_server(ok()) as server, client_of(server):
        pass
    async with offline():
        pass
