"""Clients that several test modules make and call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anyio

from noukai_sdk.local.llm.client import LlmClient
from noukai_sdk.local.llm.config import LlmConfig
from tests.support.llm_servers import FaultServer


def client_of(server: FaultServer, **options: Any) -> LlmClient:
    circuit = {name: options.pop(name) for name in list(options) if name.startswith("circuit_")}
    config = LlmConfig.openai_compatible(f"{server.url}/v1", "m", **{"max_retries": 0, **options})
    return LlmClient(config, **circuit)


def offline() -> LlmClient:
    return LlmClient(LlmConfig.offline())


async def ask(client: LlmClient, how: str, prompt: Any = "Hello", **options: Any) -> str:
    """One call in any of the three ways; sync ones run in a worker thread."""
    if how == "complete":
        return await anyio.to_thread.run_sync(lambda: client.complete(prompt, **options))
    if how == "complete_async":
        return await client.complete_async(prompt, **options)
    return await client.complete_stream(prompt, **options)


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(10):
        while not condition():
            await anyio.sleep(0.01)
