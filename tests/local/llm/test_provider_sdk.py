"""Models over the official clients: requests, responses, cancelling and closing."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import anyio
import pytest

from noukai_sdk.local.llm.chat import ChatRequest
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.embeddings import EmbeddingClient
from noukai_sdk.local.llm.errors import (
    LlmAuthenticationError,
    LlmClosedError,
    LlmConfigError,
    LlmRequestError,
)
from noukai_sdk.local.llm.pool import ModelPool
from noukai_sdk.local.llm.providers import open_config
from tests.local.llm.calls import call_model, config_of, happens, opened, request_of
from tests.support.llm_servers import (
    KEY,
    fault_server,
    llama_server,
    ok,
    partial_stream,
    raw,
    silent,
    status,
)

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("http_library")]

PROVIDERS = ["openai", "openai_compatible", "ollama", "azure", "anthropic"]
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def llama() -> Iterator[str]:
    with llama_server() as url:
        yield url


@pytest.mark.parametrize("provider", ["openai", "openai_compatible", "anthropic"])
async def test_real_server_answers_whole_and_streamed(provider: str, llama: str) -> None:
    request = request_of(temperature=0, max_tokens=4)
    async with opened(provider, llama) as model:
        await model.warmup()
        response = await model.answer(request)
        deltas = [delta async for delta in model.stream(request)]
    assert model.name == f"{provider}:smollm2"
    assert response.text
    assert response.text == "".join(delta.text for delta in deltas)
    assert len([delta for delta in deltas if delta.text]) >= 2
    assert response.usage is not None
    # The second request finds the prompt in the server's cache.
    usage = response.usage.model_copy(update={"cached": deltas[-1].usage.cached})
    assert (deltas[-1].usage, deltas[-1].finish_reason) == (usage, "length")
    assert response.usage.completion == 4


async def test_real_server_accepts_system_tool_and_json_turns(protocol: str, llama: str) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "What is 6 times 7?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "42"},
    ]
    request = ChatRequest(
        turns, max_tokens=3, tools=[TOOL], tool_choice="auto", response_format="json"
    )
    async with opened(protocol, llama) as model:
        assert (await model.answer(request)).finish_reason in ("length", "stop")


async def test_real_server_rejects_wrong_key_and_long_prompt(
    protocol: str, llama: str, call: str
) -> None:
    async with opened(protocol, llama, key="wrong") as model:
        with pytest.raises(LlmAuthenticationError, match="401 Invalid API Key"):
            await call_model(model, call)
        with pytest.raises(LlmAuthenticationError):
            await model.warmup()
    async with opened(protocol, llama) as model:
        with pytest.raises(LlmRequestError, match=r"400 request .* exceeds"):
            await call_model(model, call, request_of("word " * 4000))


@pytest.mark.parametrize("provider", PROVIDERS)
async def test_each_provider_gets_its_path_key_and_body(provider: str, call: str) -> None:
    options = {"key": None} if provider == "ollama" else {}
    text = "Grüße, \u2028 und ein Ende"
    with fault_server(ok("Hello there")) as server:
        async with opened(provider, server.url, **options) as model:
            response = await call_model(model, call, request_of(text, max_tokens=7))
    assert response.strip() == "Hello there"
    (request,) = server.requests
    deployment = "/openai/deployments/smollm2/chat/completions"
    paths = {"anthropic": "/v1/messages", "azure": deployment}
    assert request.path == paths.get(provider, "/v1/chat/completions")
    assert request.body["model"] == "smollm2"
    assert request.body.get("stream", False) == (call == "stream")
    assert text in json.dumps(request.body, ensure_ascii=False)
    limits = {name for name, value in request.body.items() if value == 7}
    assert limits == {"max_completion_tokens" if provider in ("openai", "azure") else "max_tokens"}
    keys = {request.headers.get(name) for name in ("authorization", "x-api-key", "api-key")}
    # Releases of the anthropic client differ in the header that they use.
    assert keys & ({"Bearer none"} if provider == "ollama" else {KEY, f"Bearer {KEY}"})


@pytest.mark.parametrize("content", [[{"type": "odd", "odd": object()}], "\ud800"])
async def test_request_that_is_not_json_is_never_sent(
    content: Any, protocol: str, call: str
) -> None:
    with fault_server(ok()) as server:
        async with opened(protocol, server.url) as model:
            with pytest.raises(LlmRequestError, match="cannot be written as JSON"):
                await call_model(model, call, request_of(content))
            if protocol == "anthropic":
                with pytest.raises(LlmRequestError, match="not in OpenAI's format"):
                    await call_model(model, call, ChatRequest("no turns"))  # type: ignore[arg-type]  # on purpose
    assert server.requests == []


async def test_cancelled_task_or_closed_stream_hangs_up(protocol: str, call: str) -> None:
    with fault_server(silent() if call == "answer" else partial_stream("stall")) as server:
        async with opened(protocol, server.url) as model:
            if call == "stream":
                deltas = model.stream(request_of())
                assert (await anext(deltas)).text.strip() == "Hello"
                await deltas.aclose()
                assert await happens(server.hung_up)
                server.hung_up.clear()
                server.waiting.clear()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(call_model, model, call)
                assert await happens(server.waiting)
                tasks.cancel_scope.cancel()
            assert await happens(server.hung_up)


async def test_closed_model_raises_also_for_calls_in_progress(protocol: str, call: str) -> None:
    with fault_server(silent() if call == "answer" else partial_stream("stall")) as server:
        model = open_config(config_of(protocol, server.url))
        reading = anyio.Event()

        async def make_call() -> None:
            if call == "answer":
                await model.answer(request_of())
            async for _ in model.stream(request_of()):
                reading.set()

        async def run() -> None:
            with pytest.raises(LlmClosedError, match="smollm2: the model was closed"):
                await make_call()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            assert await happens(server.waiting)
            if call == "stream":
                await reading.wait()
                await anyio.wait_all_tasks_blocked()
            await model.aclose()
        assert await happens(server.hung_up)
    await model.aclose()
    with pytest.raises(LlmClosedError, match="smollm2: the model was closed"):
        await call_model(model, call)


async def test_warmup_without_a_list_of_models_succeeds(protocol: str) -> None:
    with fault_server(status(404)) as server:
        async with opened(protocol, server.url) as model:
            await model.warmup()
    assert [request.path for request in server.requests] == ["/v1/models"]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_unusual_exchanges_succeed(protocol: str) -> None:
    text = [{"type": "text", "text": "Hi"}]
    choice = {"message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}
    body = json.dumps({"choices": [choice], "content": text, "stop_reason": "end_turn"}).encode()
    large = "x" * 2_000_000
    with fault_server(
        raw(gzip.compress(body), content_encoding="gzip"),
        raw(body, x_note="Käse", connection="close"),
        ok("Hi"),
    ) as server:
        async with opened(protocol, server.url, timeout=float("inf")) as model:
            for content in ("compressed", "a header that is not ASCII", large):
                assert await call_model(model, "answer", request_of(content)) == "Hi"
    assert large in str(server.requests[2].body)


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_http_library_follows_the_settings_and_what_is_installed(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(provider, "http://127.0.0.1:9")

    def library() -> str:
        model: Any = open_config(config)
        is_aiohttp = any("Aiohttp" in kind.__name__ for kind in type(model._client._client).__mro__)
        return "aiohttp" if is_aiohttp else "httpx"

    monkeypatch.delenv("NOUKAI_FAST")
    assert library() == "aiohttp"
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert library() == "aiohttp"
    with monkeypatch.context() as patch:
        patch.setenv("https_proxy", "http://127.0.0.1:9")
        assert library() == "httpx"
    with monkeypatch.context() as patch:
        patch.setenv("NOUKAI_FAST", "0")
        assert library() == "httpx"
    sdk = __import__(provider)
    with monkeypatch.context() as patch:
        patch.delattr(sdk, "DefaultAioHttpClient")
        assert library() == "httpx"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_model_on_trio_uses_httpx(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOUKAI_FAST")
    with fault_server(ok("Hi"), ok("Hi")) as server:
        async with opened(protocol, server.url) as model:
            assert await call_model(model, "answer") == "Hi"
        pool = ModelPool()
        model = await pool.get(config_of(protocol, server.url))  # in a worker thread
        assert await call_model(model, "answer") == "Hi"
        await pool.aclose()


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_client_that_cannot_be_created_raises_the_reason(
    provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nonexistent/ca.pem")
    settings: LlmConfig = config_of(provider, "https://127.0.0.1:9")
    with pytest.raises(LlmConfigError, match="the client cannot be created: FileNotFoundError"):
        open_config(settings)
    if provider == "openai":
        with pytest.raises(LlmConfigError, match="the client cannot be created"):
            EmbeddingClient(settings)
