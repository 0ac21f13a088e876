"""LlmClient: responses, streams, batches, statistics, the circuit and closing."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.client import LlmClient
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import (
    LlmCircuitOpenError,
    LlmClosedError,
    LlmConfigError,
    LlmConnectionError,
    LlmRequestError,
    LlmServerError,
)
from noukai_sdk.local.runtime.loop_thread import loop_thread
from tests.local.llm.calls import RETRY_NOW, call_client, client_of, happens, offline_client
from tests.support.llm_servers import (
    Exchange,
    fault_server,
    ok,
    partial_stream,
    silent,
    status,
    stream_of,
)
from tests.support.servers import wait_until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_thread_stopped")]

TURNS = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]


@pytest.fixture(params=["complete", "complete_async", "complete_stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_prompt_as_text_or_turns_reaches_the_model(how: str) -> None:
    with fault_server(ok("Hello there")) as server, client_of(server) as client:
        text = await call_client(client, how, "Hi", max_tokens=5, temperature=0.5)
        await call_client(client, how, tuple(TURNS))
    assert text.strip() == "Hello there"
    first, second = (request.body for request in server.requests)
    assert first["messages"] == [{"role": "user", "content": "Hi"}]
    assert (first["max_tokens"], first["temperature"]) == (5, 0.5)
    assert second["messages"] == TURNS


@pytest.mark.parametrize("prompt", [5, None, {"role": "user"}, ["Hello"]])
async def test_prompt_of_another_type_raises_type_error(prompt: Any, how: str) -> None:
    async with offline_client() as client:
        with pytest.raises(TypeError, match=r"a (prompt|turn) is"):
            await call_client(client, how, prompt)


async def test_complete_full_returns_tokens_cost_latency_and_tool_calls() -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    async with offline_client() as client:
        plain = client.complete_full("Hello")
        with_tool = await client.complete_full_async("In Paris?", tools=[tool], tool_choice="auto")
        without_tool = client.complete_full("In Paris?", tools=[tool], tool_choice="none")
    assert (str(plain), plain.model) == (plain.text, "offline")
    assert (plain.cost_usd, plain.finish_reason, plain.tool_calls) == ("0", "stop", ())
    assert plain.tokens is not None
    assert plain.tokens.prompt == 2
    assert plain.latency_ms > 0
    assert with_tool.tool_calls[0]["function"]["name"] == "get_weather"
    assert with_tool.finish_reason == "tool_calls"
    assert without_tool.tool_calls == ()


async def test_stream_yields_pieces_before_the_response_is_complete() -> None:
    with fault_server(partial_stream("stall")) as server, client_of(server) as client:
        async with client.complete_stream("Hello") as stream:
            assert (await anext(stream)).strip() == "Hello"
            assert (stream.response, stream.text.strip()) == (None, "Hello")
        assert await happens(server.hung_up)
        assert client.get_stats()["cancelled_requests"] == 1


async def test_stream_awaited_after_some_pieces_returns_the_whole_text() -> None:
    async with offline_client() as client:
        stream = client.complete_stream("Hello, how are you today?")
        piece = await anext(stream)
        whole = await stream
        assert whole == stream.text == client.complete("Hello, how are you today?")
    assert whole.startswith(piece)
    assert len(whole) > len(piece)
    assert stream.response is not None
    assert (stream.response.text, stream.response.cost_usd) == (whole, "0")
    assert stream.response.tokens is not None


async def test_stream_never_read_sends_nothing() -> None:
    with fault_server(ok()) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        await stream.aclose()
        await stream.aclose()
        assert [piece async for piece in stream] == []
        assert client.get_stats()["total_requests"] == 0
    assert server.requests == []


async def test_stream_cut_off_keeps_its_text_and_counts_as_failed() -> None:
    with fault_server(partial_stream("cut")) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        with pytest.raises(LlmConnectionError):
            await stream
        assert stream.text.startswith("Hello")
        assert client.get_stats()["failed_requests"] == 1


async def test_batch_returns_a_text_or_an_error_per_prompt_in_order() -> None:
    late = asyncio.Event()

    async def respond(exchange: Exchange) -> None:
        prompt = exchange.request.body["messages"][0]["content"]
        if prompt == "first":
            await late.wait()
        await (status(400) if prompt == "second" else ok(prompt))(exchange)
        if prompt == "third":
            late.set()

    with fault_server(respond) as server, client_of(server) as client:
        results = await client.complete_batch(["first", "second", "third"])
        assert await client.complete_batch([]) == []
        stats = client.get_stats()
    assert (results[0], results[2]) == ("first", "third")
    assert isinstance(results[1], LlmRequestError)
    assert (stats["successful_requests"], stats["failed_requests"]) == (2, 1)


@pytest.mark.parametrize(("max_concurrency", "most"), [(None, 6), (2, 2), (9, 6)])
async def test_batch_runs_up_to_max_concurrency_requests_at_once(
    max_concurrency: int | None, most: int
) -> None:
    in_progress: set[Exchange] = set()
    counts: list[int] = []
    full = asyncio.Event()

    async def respond(exchange: Exchange) -> None:
        in_progress.add(exchange.client)
        counts.append(len(in_progress))
        if len(in_progress) == most:
            full.set()
        await full.wait()
        in_progress.discard(exchange.client)
        await ok()(exchange)

    with fault_server(respond) as server, client_of(server) as client:
        await client.complete_batch(["x"] * 6, max_concurrency=max_concurrency)
    assert max(counts) == most


async def test_batch_with_invalid_arguments_sends_nothing() -> None:
    with fault_server(ok()) as server, client_of(server) as client:
        with pytest.raises(ValueError, match="max_concurrency must be 1 or more"):
            await client.complete_batch(["x"], max_concurrency=0)
        with pytest.raises(TypeError, match="a prompt is"):
            await client.complete_batch(["x", 5])  # type: ignore[list-item]  # on purpose
        with pytest.raises(TypeError, match="a list of prompts"):
            await client.complete_batch("abc")
    assert server.requests == []


async def test_retries_count_as_one_call(how: str) -> None:
    with (
        fault_server(status(500, **RETRY_NOW), status(429, **RETRY_NOW), ok("At last")) as server,
        client_of(server, max_retries=2, circuit_threshold=1) as client,
    ):
        assert (await call_client(client, how)).strip() == "At last"
        stats = client.get_stats()
    assert len(server.requests) == 3
    assert (stats["total_requests"], stats["circuit_state"]) == (1, "closed")


async def test_circuit_after_failed_calls_rejects_without_sending(how: str) -> None:
    with fault_server(status(503, **RETRY_NOW)) as server:
        async with client_of(server, max_retries=1, circuit_threshold=2) as client:
            for _ in range(2):
                with pytest.raises(LlmServerError):
                    await call_client(client, how)
            with pytest.raises(LlmCircuitOpenError):
                await call_client(client, how)
            stats = client.get_stats()
    assert len(server.requests) == 4
    assert (stats["circuit_state"], stats["total_requests"]) == ("open", 2)
    assert (stats["failed_requests"], stats["rejected_requests"]) == (2, 1)


async def test_circuit_closes_on_a_response_and_ignores_rejected_requests() -> None:
    with fault_server(status(503), ok(), status(400)) as server:
        async with client_of(server, circuit_threshold=1, circuit_cooldown=0) as client:
            with pytest.raises(LlmServerError):
                client.complete("Hello")
            assert client.get_stats()["circuit_state"] == "half_open"
            client.complete("Hello")
            for _ in range(2):
                with pytest.raises(LlmRequestError):
                    client.complete("Hello")
                assert client.get_stats()["circuit_state"] == "closed"


async def test_stats_count_every_kind_of_call_until_reset() -> None:
    async with offline_client() as client:
        assert client.get_stats()["average_latency_ms"] is None
        client.complete("Hello")
        await client.complete_async("Hello")
        await client.complete_stream("Hello")
        await client.complete_batch(["Hello", "Hello"])
        stats = client.get_stats()
        client.reset_stats()
        assert client.get_stats()["total_requests"] == 0
    assert stats["total_requests"] == stats["successful_requests"] == 5
    assert stats["prompt_tokens"] == 10
    assert stats["total_tokens"] == stats["prompt_tokens"] + stats["completion_tokens"]
    assert stats["average_latency_ms"] is not None
    assert stats["total_cost_usd"] == "0"


async def test_stats_separate_priced_and_unpriced_calls() -> None:
    end = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    with fault_server(stream_of(end)) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        assert await stream == "Hi"
        unpriced = client.get_stats()
    assert stream.response is not None
    assert (stream.response.tokens, stream.response.cost_usd) == (None, None)
    assert (unpriced["unpriced_requests"], unpriced["total_tokens"]) == (1, 0)
    with fault_server(ok()) as server:
        config = LlmConfig.openai("k", "gpt-4o-mini", base_url=f"{server.url}/v1")
        with LlmClient(config) as client:
            assert client.complete_full("Hello").cost_usd == "0.00000165"
            priced = client.get_stats()
    assert (priced["total_cost_usd"], priced["unpriced_requests"]) == ("0.00000165", 0)


def test_client_with_wrong_configuration_raises_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LlmConfigError, match="OPENAI_API_KEY"):
        LlmClient(LlmConfig.openai())
    with pytest.raises(TypeError, match=r"config must be an LlmConfig, .* not a str$"):
        LlmClient("sk-secret")  # type: ignore[arg-type]  # on purpose


@pytest.mark.parametrize("how", ["complete_async", "complete_stream"])
async def test_cancelled_task_cancels_the_request(how: str) -> None:
    with fault_server(silent()) as server, client_of(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call_client, client, how)
            assert await happens(server.waiting)
            tasks.cancel_scope.cancel()
        assert await happens(server.hung_up)
        await anyio.to_thread.run_sync(
            lambda: wait_until(lambda: client.get_stats()["cancelled_requests"] == 1)
        )
        assert client.get_stats()["circuit_state"] == "closed"


def test_interrupted_sync_call_cancels_the_request() -> None:
    def interrupt() -> None:
        assert server.waiting.wait(30)
        assert threading.main_thread().ident
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with fault_server(silent()) as server, client_of(server) as client:
        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            client.complete("Hello")
        thread.join()
        assert server.hung_up.wait(30)


def test_interrupt_before_the_call_is_submitted_whole_cancels_the_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    submit = loop_thread.submit

    def interrupted(*args: Any) -> Any:
        submit(*args)
        assert server.waiting.wait(30)
        raise KeyboardInterrupt

    with fault_server(silent()) as server, client_of(server) as client:
        with monkeypatch.context() as patch:
            patch.setattr(loop_thread, "submit", interrupted)
            with pytest.raises(KeyboardInterrupt):
                client.complete("Hello")
        assert server.hung_up.wait(30)


@pytest.mark.usefixtures("http_library")
async def test_one_connection_serves_all_threads_and_loops() -> None:
    ports: set[Any] = set()

    async def respond(exchange: Exchange) -> None:
        ports.add(exchange.client)
        await ok()(exchange)

    with fault_server(respond) as server, client_of(server) as client:
        client.complete("from this thread")
        await anyio.to_thread.run_sync(client.complete, "from another")
        await client.complete_async("from this loop")
        await anyio.to_thread.run_sync(lambda: asyncio.run(client.complete_async("and another")))
        await client.complete_stream("and streamed")
        await client.warmup()
    assert len(ports) == 1


async def test_many_threads_at_once_each_get_their_response() -> None:
    prompts = [f"Hello {number}" for number in range(40)]
    with offline_client() as client, ThreadPoolExecutor(8) as threads:
        responses = list(threads.map(client.complete, prompts))
        assert client.get_stats()["total_requests"] == 40
    assert all(prompt in text for prompt, text in zip(prompts, responses, strict=True))


async def test_closed_client_raises_and_keeps_its_stats(how: str) -> None:
    client = offline_client()
    client.complete("Hello")
    client.close()
    await client.aclose()
    with pytest.raises(LlmClosedError, match="make a new one"):
        await call_client(client, how)
    assert client.get_stats()["successful_requests"] == 1
    async with offline_client():
        pass  # a client that was never used closes as well


async def test_closing_the_client_ends_calls_in_progress(how: str) -> None:
    async def call() -> None:
        with pytest.raises(LlmClosedError):
            await call_client(client, how)

    with fault_server(silent()) as server:
        client = client_of(server)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            assert await happens(server.waiting)
            await client.aclose()
        assert await happens(server.hung_up)


PAGE_SYNC = """
import os

from noukai_sdk.local import LlmConfig, LlmClient

config = LlmConfig.openai(os.getenv("OPENAI_API_KEY"))

client = LlmClient(config)
result = client.complete("Hello, world!")
print(result)
"""

PAGE_ASYNC = """
import os
import asyncio

from noukai_sdk.local import LlmConfig, LlmClient

config = LlmConfig.openai(os.getenv("OPENAI_API_KEY"))

client = LlmClient(config)

async def main():
    result = await client.complete_async("Hello, async world!")
    print(result)

    # Streaming completion
    stream_result = await client.complete_stream("Stream this!")
    print(stream_result)

asyncio.run(main())
"""


@pytest.mark.parametrize(("example", "count"), [(PAGE_SYNC, 1), (PAGE_ASYNC, 2)])
def test_graphbit_page_example_runs_and_exits_cleanly(example: str, count: int) -> None:
    """The examples of GraphBit's page "Async vs Sync" with only the import changed, over HTTP."""
    with fault_server(ok("Hello there")) as server:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", example],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "OPENAI_API_KEY": "k", "OPENAI_BASE_URL": f"{server.url}/v1"},
            check=False,
        )
    assert (done.stderr, done.returncode) == ("", 0)
    assert [line.strip() for line in done.stdout.splitlines()] == ["Hello there"] * count
    assert server.requests[0].headers["authorization"] == "Bearer k"
