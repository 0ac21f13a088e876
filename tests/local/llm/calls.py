"""Configurations of test servers, and ways to call models and clients."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio

from noukai_sdk.local.llm.chat import ChatModel, ChatRequest
from noukai_sdk.local.llm.client import LlmClient
from noukai_sdk.local.llm.config import LlmConfig
from noukai_sdk.local.llm.providers import open_config
from tests.support.llm_servers import KEY, FaultServer

# Makes an official client retry at once.
RETRY_NOW = {"retry_after_ms": "1"}


def config_of(provider: str, url: str, **options: Any) -> LlmConfig:
    key = options.pop("key", KEY)
    match provider:
        case "openai":
            return LlmConfig.openai(key, "smollm2", base_url=f"{url}/v1", **options)
        case "anthropic":
            return LlmConfig.anthropic(key, "smollm2", base_url=url, **options)
        case "ollama":
            return LlmConfig.ollama("smollm2", base_url=f"{url}/v1", **options)
        case "azure":
            return LlmConfig.azure(key, "smollm2", url, **options)
    return LlmConfig.openai_compatible(f"{url}/v1", "smollm2", api_key=key, **options)


def opened(provider: str, url: str, **options: Any) -> Any:
    """Open a model for an ``async with`` block."""
    return aclosing(open_config(config_of(provider, url, **options)))


def request_of(content: Any = "Say hi", **options: Any) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": content}], **options)


async def call_model(model: ChatModel, call: str, request: ChatRequest | None = None) -> str:
    request = request or request_of()
    if call == "answer":
        return (await model.answer(request)).text
    return "".join([delta.text async for delta in model.stream(request)])


def client_of(server: FaultServer, **options: Any) -> LlmClient:
    circuit = {name: options.pop(name) for name in list(options) if name.startswith("circuit_")}
    config = LlmConfig.openai_compatible(f"{server.url}/v1", "m", **{"max_retries": 0, **options})
    return LlmClient(config, **circuit)


def offline_client() -> LlmClient:
    return LlmClient(LlmConfig.offline())


async def call_client(client: LlmClient, how: str, prompt: Any = "Hello", **options: Any) -> str:
    """Call a client in one of three ways; sync calls run in a worker thread."""
    if how == "complete":
        return await anyio.to_thread.run_sync(lambda: client.complete(prompt, **options))
    if how == "complete_async":
        return await client.complete_async(prompt, **options)
    return await client.complete_stream(prompt, **options)


async def happens(event: Any) -> bool:
    """Wait for a thread's event without blocking the loop."""
    return await anyio.to_thread.run_sync(event.wait, 10)
