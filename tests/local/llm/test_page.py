"""The examples of GraphBit's page "Async vs Sync" with only the import changed, over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.llm_servers import fault_server, ok

SYNC = """
import os

from noukai_sdk.local import LlmConfig, LlmClient

config = LlmConfig.openai(os.getenv("OPENAI_API_KEY"))

client = LlmClient(config)
result = client.complete("Hello, world!")
print(result)
"""

ASYNC = """
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


def run(code: str, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **env},
        check=False,
    )
    assert done.stderr == ""
    assert done.returncode == 0
    return done.stdout.splitlines()


@pytest.mark.parametrize(("example", "answers"), [(SYNC, 1), (ASYNC, 2)])
def test_the_examples_run_and_end_by_themselves(example: str, answers: int) -> None:
    with fault_server(ok("Hello there")) as server:
        lines = run(example, OPENAI_API_KEY="k", OPENAI_BASE_URL=f"{server.url}/v1")
    assert [line.strip() for line in lines] == ["Hello there"] * answers
    assert server.asked[0].headers["authorization"] == "Bearer k"
