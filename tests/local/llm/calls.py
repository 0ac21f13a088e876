"""Calls that the tests of the official clients share."""

from __future__ import annotations

from typing import Any

import anyio

from noukai_sdk.local.llm.chat import ChatModel, ChatRequest
from noukai_sdk.local.llm.config import LlmConfig
from tests.support.llm_servers import KEY

# What lets an official client try again at once.
SOON = {"retry_after_ms": "1"}


def config(provider: str, url: str, **options: Any) -> LlmConfig:
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


def asking(text: str = "Say hi", **options: Any) -> ChatRequest:
    return ChatRequest([{"role": "user", "content": text}], **options)


async def ask(model: ChatModel, how: str, request: ChatRequest | None = None) -> str:
    request = request or asking()
    if how == "answer":
        return (await model.answer(request)).text
    return "".join([piece.text async for piece in model.stream(request)])


async def happened(event: Any) -> bool:
    """Wait for a thread's event, off the loop."""
    return await anyio.to_thread.run_sync(event.wait, 10)
