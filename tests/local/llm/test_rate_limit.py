"""One rate limit for all calls of a client, and the retries of a node on top of those of its client."""

from __future__ import annotations

import time
from collections import deque

import anyio
import pytest

from noukai_sdk.local import EmbeddingClient, Executor, LlmConfig, Node, Workflow
from noukai_sdk.local.llm.errors import LlmRateLimitError, LlmServerError
from tests.local.llm.calls import RETRY_NOW, client_of
from tests.support.llm_servers import Exchange, Response, fault_server, ok, status

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("loop_thread_stopped")]


def at_most(limit: int, *, seconds: float) -> Response:
    """Respond to this many requests in any time of ``seconds``, and reject the others."""
    accepted: deque[float] = deque()

    async def respond(exchange: Exchange) -> None:
        now = time.monotonic()
        while accepted and accepted[0] <= now - seconds:
            accepted.popleft()
        if len(accepted) < limit:
            accepted.append(now)
            await ok()(exchange)
        else:
            await status(429, retry_after=str(seconds))(exchange)

    return respond


async def test_batch_over_the_rate_limit_returns_every_answer() -> None:
    with (
        fault_server(at_most(20, seconds=1)) as server,
        client_of(server, max_retries=2) as client,
    ):
        answers = await client.complete_batch(["Hello"] * 35)
        stats = client.get_stats()
    assert answers == ["Hello there"] * 35
    assert stats["successful_requests"] == 35
    # Those that the first burst had too many, and few since: the others were not sent in vain.
    assert len(server.requests) <= 70


async def test_retry_after_of_one_call_delays_the_next_calls() -> None:
    rejected = status(429, retry_after_ms="150")
    with fault_server(rejected, rejected, ok()) as server:
        async with client_of(server, max_retries=1) as client:
            with pytest.raises(LlmRateLimitError) as caught:
                await client.complete_async("Hello")
            assert (await client.complete_stream("Hello")).split() == ["Hello", "there"]
    assert (caught.value.attempts, caught.value.retry_after) == (2, 0.15)
    first, second, third = (request.at for request in server.requests)
    assert second - first >= 0.15
    assert third - second >= 0.15


async def test_provider_that_rejects_every_call_fails_all_waiting_calls() -> None:
    with (
        fault_server(status(429, retry_after_ms="100")) as server,
        client_of(server, max_retries=2, circuit_threshold=1) as client,
    ):
        answers = await client.complete_batch(["Hello"] * 30)
        stats = client.get_stats()
    assert [type(answer) for answer in answers] == [LlmRateLimitError] * 30
    assert len(server.requests) < 90  # each call alone would send three
    assert (stats["circuit_state"], stats["failed_requests"]) == ("closed", 30)


async def test_rate_limit_that_waiting_does_not_help_raises_at_once() -> None:
    quota = {"error": {"message": "no money", "code": "insufficient_quota"}}
    for response in (
        status(429, quota, **RETRY_NOW),
        status(429, x_should_retry="false"),
        status(429, retry_after="3600"),
    ):
        with (
            fault_server(response, ok()) as server,
            client_of(server, max_retries=2) as client,
            pytest.raises(LlmRateLimitError),
        ):
            await client.complete_async("Hello")
        assert len(server.requests) == 1


async def test_embeddings_wait_for_the_rate_limit() -> None:
    with fault_server(status(429, **RETRY_NOW), ok()) as server:
        config = LlmConfig.openai_compatible(f"{server.url}/v1", "m")
        with EmbeddingClient(config) as client:
            assert len(await client.embed_many_async(["a", "b"])) == 2


async def test_circuit_by_default_stays_closed() -> None:
    with fault_server(status(503)) as server, client_of(server) as client:
        for _ in range(10):
            with pytest.raises(LlmServerError):
                await client.complete_async("Hello")
        assert client.get_stats()["circuit_state"] == "closed"
    assert len(server.requests) == 10


@pytest.mark.parametrize(("code", "retry", "requests"), [(503, 2, 3), (503, 3, 6), (429, 2, 3)])
async def test_retries_of_node_and_client_do_not_multiply(
    code: int, retry: int, requests: int
) -> None:
    workflow = Workflow("W")
    workflow.add_node(Node.agent("A", "Hello", retry=retry))
    with fault_server(status(code, **RETRY_NOW)) as server:
        executor = Executor(LlmConfig.openai_compatible(f"{server.url}/v1", "m", max_retries=2))
        result = await executor.run_async(workflow)
        await executor.aclose()
    assert result.is_failed()
    assert len(server.requests) == requests


async def test_cancelled_waiting_call_lets_the_others_pass() -> None:
    with fault_server(status(429, retry_after="0.2"), ok()) as server:
        async with client_of(server, max_retries=1) as client:
            with anyio.move_on_after(0.05):
                await client.complete_batch(["Hello"] * 5)
            assert await client.complete_async("Hello") == "Hello there"
