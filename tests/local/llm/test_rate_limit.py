"""One rate limit for all calls of a client, and the retries of a node on top of those of its client."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator

import anyio
import pytest
import trio
import trio.testing

from noukai_sdk.local import EmbeddingClient, Executor, LlmConfig, Node, Workflow
from noukai_sdk.local.llm.errors import LlmRateLimitError, LlmServerError
from noukai_sdk.local.llm.rate_limit import RateLimit
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


class Rejected(Exception):
    def __init__(self, retry_after: float | None = None) -> None:
        super().__init__()
        self.retry_after = retry_after


def fixed_window() -> Iterator[Rejected | None]:
    """Accept 20 requests in each whole second; ``Retry-After`` is the rest of the second."""
    window, accepted = 0, 0
    while True:
        now = trio.current_time()
        if window != math.floor(now):
            window, accepted = math.floor(now), 0
        accepted += 1
        yield None if accepted <= 20 else Rejected(math.floor(now) + 1 - now)


def sliding_window() -> Iterator[Rejected | None]:
    """Accept 20 requests in any second; no ``Retry-After``."""
    accepted: deque[float] = deque(maxlen=20)
    while True:
        is_free = len(accepted) < 20 or accepted[0] <= trio.current_time() - 1
        if is_free:
            accepted.append(trio.current_time())
        yield None if is_free else Rejected()


def token_bucket() -> Iterator[Rejected | None]:
    """Hold 20 tokens and add 20 a second; ``Retry-After`` is in whole seconds."""
    tokens, counted_at = 20.0, trio.current_time()
    while True:
        tokens = min(tokens + 20 * (trio.current_time() - counted_at), 20.0)
        counted_at = trio.current_time()
        is_free = tokens >= 1
        tokens -= is_free
        yield None if is_free else Rejected(1.0)


@pytest.mark.parametrize("limit", [fixed_window, sliding_window, token_bucket])
@pytest.mark.parametrize("latency", [0.01, 0.5])
def test_300_calls_under_20_a_second_return_in_at_most_1_15_of_15_seconds(
    limit: Callable[[], Iterator[Rejected | None]], latency: float
) -> None:
    """In virtual time, so that no other work on the machine counts."""
    answered: list[float] = []

    async def main() -> None:
        provider = limit()
        rate_limit = RateLimit(lambda error: getattr(error, "retry_after", None), max_retries=2)

        async def request() -> None:
            await trio.sleep(0.005)
            rejected = next(provider)
            if rejected is not None:
                raise rejected
            await trio.sleep(latency)

        async def call() -> None:
            await rate_limit.send(request)
            answered.append(trio.current_time())

        await trio.sleep(0.3)
        async with trio.open_nursery() as calls:
            for _ in range(300):
                calls.start_soon(call)

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert len(answered) == 300
    assert max(answered) - 0.3 - latency <= 1.15 * 15
