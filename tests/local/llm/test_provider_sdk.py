"""What models over the official clients have in common, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import aclosing
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmClosedError,
    LlmConfigError,
    LlmRequestError,
)
from noukai_sdk.local.llm.providers import open_config
from tests.local.llm.calls import ask, asking, config, happened
from tests.support.llm_servers import (
    KEY,
    fault_server,
    llama_server,
    ok,
    silent,
    stalled,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("with_and_without_aiohttp")]


@pytest.fixture
def anyio_backend() -> str:
    """The official clients run on trio too, but leave generators behind, of which trio warns."""
    return "asyncio"


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.fixture(params=["answer", "stream"])
def how(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("provider", ["openai", "openai_compatible", "anthropic"])
async def test_a_real_server_answers(provider: str, llama: str) -> None:
    request = asking(temperature=0, max_tokens=4)
    async with aclosing(open_config(config(provider, llama))) as model:
        await model.warmup()
        answer = await model.answer(request)
        pieces = [piece async for piece in model.stream(request)]
    assert model.name == f"{provider}:smollm2"
    assert answer.text
    assert answer.text == "".join(piece.text for piece in pieces)
    assert len([piece for piece in pieces if piece.text]) >= 2
    assert (pieces[-1].usage, pieces[-1].finish_reason) == (answer.usage, "length")
    assert answer.usage is not None
    assert answer.usage.completion == 4


@pytest.mark.parametrize("provider", ["openai_compatible", "anthropic"])
async def test_a_real_server_takes_system_tool_and_json_turns(provider: str, llama: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    request = ChatRequest(
        turns, max_tokens=3, tools=[tool], tool_choice="auto", response_format="json"
    )
    async with aclosing(open_config(config(provider, llama))) as model:
        assert (await model.answer(request)).finish_reason in ("length", "stop")


@pytest.mark.parametrize("provider", ["openai_compatible", "anthropic"])
async def test_a_real_server_refuses(provider: str, llama: str, how: str) -> None:
    async with aclosing(open_config(config(provider, llama, key="wrong"))) as model:
        with pytest.raises(LlmAuthenticationError, match="401 Invalid API Key"):
            await ask(model, how)
        with pytest.raises(LlmAuthenticationError):
            await model.warmup()
    async with aclosing(open_config(config(provider, llama))) as model:
        with pytest.raises(LlmRequestError, match=r"400 request .* exceeds"):
            await ask(model, how, asking("word " * 4000))


async def test_every_provider_speaks_its_protocol(provider: str, how: str) -> None:
    with fault_server(ok("Hello there")) as server:
        async with aclosing(open_config(config(provider, server.url))) as model:
            assert (await ask(model, how, asking(max_tokens=7))).strip() == "Hello there"
    (asked,) = server.asked
    paths = {
        "anthropic": "/v1/messages",
        "azure": "/openai/deployments/smollm2/chat/completions",
    }
    assert asked.path == paths.get(provider, "/v1/chat/completions")
    assert asked.body["model"] == "smollm2"
    assert asked.body.get("stream", False) == (how == "stream")
    limits = {name: value for name, value in asked.body.items() if value == 7}
    new_name = provider in ("openai", "azure")
    assert limits == {"max_completion_tokens" if new_name else "max_tokens": 7}


async def test_the_key_is_sent_where_the_provider_looks_for_it(provider: str) -> None:
    with fault_server(ok()) as server:
        async with aclosing(open_config(config(provider, server.url, **no_key(provider)))) as model:
            await ask(model, "answer")
    headers = server.asked[0].headers
    found = {headers.get(name) for name in ("authorization", "x-api-key", "api-key")}
    # Releases of the anthropic client differ in where they put it.
    assert found & ({"Bearer none"} if provider == "ollama" else {KEY, f"Bearer {KEY}"})


def no_key(provider: str) -> dict[str, Any]:
    return {"key": None} if provider == "ollama" else {}


@pytest.mark.parametrize("content", [[{"type": "odd", "odd": object()}], "\ud800"])
async def test_a_request_that_is_no_json(content: Any, protocol: str, how: str) -> None:
    with fault_server(ok()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            with pytest.raises(LlmRequestError, match="cannot be written as JSON"):
                await ask(model, how, ChatRequest([{"role": "user", "content": content}]))
    assert server.asked == []


async def test_messages_that_cannot_be_put_into_the_providers_form(how: str) -> None:
    async with aclosing(open_config(config("anthropic", "http://127.0.0.1:9"))) as model:
        with pytest.raises(LlmRequestError, match="not in OpenAI's form"):
            await ask(model, how, ChatRequest("no turns"))  # type: ignore[arg-type]  # on purpose


async def test_a_cancelled_call_hangs_up(protocol: str, how: str) -> None:
    with fault_server(silent() if how == "answer" else stalled()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask, model, how)
                assert await happened(server.waiting)
                tasks.cancel_scope.cancel()
            assert await happened(server.hung_up)
    assert len(server.asked) == 1


async def test_a_stream_that_is_closed_early_hangs_up(protocol: str) -> None:
    with fault_server(stalled()) as server:
        async with aclosing(open_config(config(protocol, server.url))) as model:
            async with aclosing(model.stream(asking())) as pieces:
                assert (await anext(pieces)).text.strip() == "Hello"
            assert await happened(server.hung_up)


async def test_a_closed_model_says_so(protocol: str, how: str) -> None:
    model = open_config(config(protocol, "http://127.0.0.1:9"))
    await model.aclose()
    await model.aclose()
    with pytest.raises(LlmClosedError, match="smollm2: the model was closed"):
        await ask(model, how)


async def test_closing_the_model_ends_what_is_under_way(protocol: str, how: str) -> None:
    with fault_server(silent() if how == "answer" else stalled()) as server:
        model = open_config(config(protocol, server.url))

        async def call() -> None:
            with pytest.raises(LlmClosedError, match="closed meanwhile"):
                await ask(model, how)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            assert await happened(server.waiting)
            await model.aclose()
        assert await happened(server.hung_up)


@pytest.mark.parametrize(
    ("protocol", "name"), [("openai_compatible", "OpenAIError"), ("anthropic", "AnthropicError")]
)
async def test_other_errors_of_the_client_are_translated_too(
    protocol: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with aclosing(open_config(config(protocol, "http://127.0.0.1:9"))) as opened:
        model: Any = opened

        async def fail(*_: Any, **__: Any) -> None:
            raise getattr(model._sdk, name)("odd settings")

        monkeypatch.setattr(type(model._client), "post", fail)
        with pytest.raises(LlmConfigError, match="odd settings"):
            await ask(model, "answer")


async def test_a_mistake_in_this_program_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    async with aclosing(open_config(config("openai", "http://127.0.0.1:9"))) as opened:
        model: Any = opened

        async def fail(*_: Any, **__: Any) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr(type(model._client), "post", fail)
        with pytest.raises(ZeroDivisionError):
            await ask(model, "answer")


async def test_warming_up_takes_a_server_without_a_list_of_models(provider: str) -> None:
    with fault_server(status(404)) as server:
        async with aclosing(open_config(config(provider, server.url))) as model:
            await model.warmup()
    assert server.asked
    assert all(asked.path.endswith("/models") for asked in server.asked)
