"""LlmClient: full answers, batches, statistics, retries and the circuit."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.client import LlmClient
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmCircuitOpenError,
    LlmConfigError,
    LlmRequestError,
    LlmServerError,
)
from tests.local.llm.calls import SOON
from tests.local.llm.clients import ask, client_of, offline, until
from tests.support.llm_servers import (
    after,
    fault_server,
    ok,
    silent,
    status,
    stream_of,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("the_loop_thread_ends")]


@pytest.fixture(params=["complete", "complete_async", "complete_stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_all_ways_give_the_same_text(how: str) -> None:
    async with offline() as client:
        text = await ask(client, how, "Hello", max_tokens=5, temperature=0.5)
        assert text == client.complete("Hello", 5, 0.5)
        assert len(text) == 20


async def test_a_prompt_may_be_whole_turns(how: str) -> None:
    turns = [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hello"}]
    with fault_server(ok()) as server, client_of(server) as client:
        await ask(client, how, tuple(turns))
    assert server.asked[0].body["messages"] == turns


@pytest.mark.parametrize("prompt", [5, None, {"role": "user"}, ["Hello"]])
async def test_a_prompt_of_another_kind_is_a_type_error(prompt: Any, how: str) -> None:
    async with offline() as client:
        with pytest.raises(TypeError, match=r"a (prompt|turn) is"):
            await ask(client, how, prompt)


async def test_a_full_answer_has_what_it_took() -> None:
    tool = {"type": "function", "function": {"name": "get_weather", "parameters": {}}}
    async with offline() as client:
        plain = client.complete_full("Hello")
        asking = await client.complete_full_async("In Paris?", tools=[tool], tool_choice="auto")
        forced = client.complete_full("In Paris?", tools=[tool], tool_choice="none")
    assert (str(plain), plain.model) == (plain.text, "offline")
    assert (plain.cost_usd, plain.finish_reason, plain.tool_calls) == ("0", "stop", ())
    assert plain.tokens is not None
    assert plain.tokens.prompt == 2
    assert plain.latency_ms > 0
    assert asking.tool_calls[0]["function"]["name"] == "get_weather"
    assert asking.finish_reason == "tool_calls"
    assert forced.tool_calls == ()


async def test_the_cost_is_known_where_the_price_is() -> None:
    with fault_server(ok()) as server:
        config = LlmConfig.openai("k", "gpt-4o-mini", base_url=f"{server.url}/v1")
        with LlmClient(config) as client:
            answer = client.complete_full("Hello")
            stats = client.get_stats()
    assert answer.cost_usd == "0.00000165"
    assert stats["total_cost_usd"] == "0.00000165"
    assert stats["unpriced_requests"] == 0


async def test_a_batch_answers_in_input_order() -> None:
    with fault_server(after(0.05, ok("late")), ok("early")) as server:
        async with client_of(server) as client:
            assert await client.complete_batch(["a", "b", "c"]) == ["late", "early", "early"]
            assert await client.complete_batch([]) == []


async def test_a_batch_has_one_result_or_one_error_for_each_prompt() -> None:
    with fault_server(ok("one"), status(400), ok("three")) as server:
        async with client_of(server) as client:
            first, second, third = await client.complete_batch(["a", "b", "c"], max_concurrency=1)
            stats = client.get_stats()
    assert (first, third) == ("one", "three")
    assert isinstance(second, LlmRequestError)
    assert (stats["successful_requests"], stats["failed_requests"]) == (2, 1)


async def test_a_batch_runs_at_once_up_to_its_limit() -> None:
    with fault_server(silent()) as server, client_of(server) as client:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.complete_batch, ["x"] * 5)
            await until(lambda: len(server.asked) == 5)
            tasks.cancel_scope.cancel()
    most = 0
    under_way = 0

    async def counting(exchange: Any) -> None:
        nonlocal most, under_way
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        await ok()(exchange)

    with fault_server(counting) as server, client_of(server) as client:
        await client.complete_batch(["x"] * 6, max_concurrency=2)
    assert most == 2


async def test_a_batch_refuses_bad_arguments_before_it_asks() -> None:
    with fault_server(ok()) as server, client_of(server) as client:
        with pytest.raises(ValueError, match="max_concurrency must be at least 1"):
            await client.complete_batch(["x"], max_concurrency=0)
        with pytest.raises(TypeError):
            await client.complete_batch(["x", 5])  # type: ignore[list-item]  # on purpose
    assert server.asked == []


async def test_retries_are_inside_a_call(how: str) -> None:
    with (
        fault_server(status(500, **SOON), status(429, **SOON), ok("At last")) as server,
        client_of(server, max_retries=2, circuit_threshold=1) as client,
    ):
        assert (await ask(client, how)).strip() == "At last"
        stats = client.get_stats()
    assert len(server.asked) == 3
    assert (stats["total_requests"], stats["circuit_state"]) == (1, "closed")


async def test_a_wrong_key_is_never_tried_twice(how: str) -> None:
    with fault_server(status(401)) as server:
        async with client_of(server, max_retries=5) as client:
            with pytest.raises(LlmAuthenticationError):
                await ask(client, how)
    assert len(server.asked) == 1


async def test_the_circuit_counts_calls_and_then_sends_nothing(how: str) -> None:
    with fault_server(status(503, **SOON)) as server:
        async with client_of(server, max_retries=1, circuit_threshold=2) as client:
            for _ in range(2):
                with pytest.raises(LlmServerError):
                    await ask(client, how)
            with pytest.raises(LlmCircuitOpenError):
                await ask(client, how)
            stats = client.get_stats()
    assert len(server.asked) == 4
    assert stats["circuit_state"] == "open"
    assert (stats["failed_requests"], stats["rejected_requests"]) == (2, 1)
    assert stats["total_requests"] == 2


async def test_the_circuit_closes_when_the_provider_is_back() -> None:
    with fault_server(status(503), ok()) as server:
        async with client_of(server, circuit_threshold=1, circuit_cooldown=0) as client:
            with pytest.raises(LlmServerError):
                client.complete("Hello")
            assert client.get_stats()["circuit_state"] == "half_open"
            client.complete("Hello")
            assert client.get_stats()["circuit_state"] == "closed"


async def test_refusals_do_not_open_the_circuit(how: str) -> None:
    with fault_server(status(400)) as server, client_of(server, circuit_threshold=1) as client:
        for _ in range(3):
            with pytest.raises(LlmRequestError):
                await ask(client, how)
        assert client.get_stats()["circuit_state"] == "closed"


async def test_statistics_count_every_way_and_can_be_reset() -> None:
    async with offline() as client:
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


async def test_calls_without_price_or_count_are_told_apart() -> None:
    end = {"choices": [{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]}
    with fault_server(stream_of(end)) as server, client_of(server) as client:
        stream = client.complete_stream("Hello")
        assert await stream == "Hi"
        stats = client.get_stats()
    assert stream.response is not None
    assert (stream.response.tokens, stream.response.cost_usd) == (None, None)
    assert (stats["unpriced_requests"], stats["total_tokens"]) == (1, 0)


async def test_warming_up_checks_the_key() -> None:
    with fault_server(status(401)) as server, client_of(server) as client:
        with pytest.raises(LlmAuthenticationError):
            await client.warmup()
        assert client.get_stats()["total_requests"] == 0


def test_a_wrong_setting_is_told_when_the_client_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LlmConfigError, match="OPENAI_API_KEY"):
        LlmClient(LlmConfig.openai())


async def test_one_text_is_no_batch() -> None:
    with offline() as client, pytest.raises(TypeError, match="a list of prompts"):
        await client.complete_batch("abc")


def test_a_client_is_made_of_a_configuration() -> None:
    with pytest.raises(TypeError, match=r"config is an LlmConfig, .*, not a str$"):
        LlmClient("sk-secret")  # type: ignore[arg-type]  # on purpose
