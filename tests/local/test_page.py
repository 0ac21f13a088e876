"""The two examples of GraphBit's page "Async vs Sync", with the import and the config line changed."""

from __future__ import annotations

import subprocess
import sys

import pytest

SYNC = """
import os

from noukai_sdk.local import LlmConfig, LlmClient

config = LlmConfig.offline()

client = LlmClient(config)
result = client.complete("Hello, world!")
print(result)
"""

ASYNC = """
import os
import asyncio

from noukai_sdk.local import LlmConfig, LlmClient

config = LlmConfig.offline()

client = LlmClient(config)

async def main():
    result = await client.complete_async("Hello, async world!")
    print(result)

    # Streaming completion
    stream_result = await client.complete_stream("Stream this!")
    print(stream_result)

asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("example", "asked"),
    [(SYNC, ["Hello, world!"]), (ASYNC, ["Hello, async world!", "Stream this!"])],
)
def test_the_pages_examples_run(example: str, asked: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], capture_output=True, text=True, timeout=60
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == len(asked)
    for line, prompt in zip(lines, asked, strict=True):
        assert f'Offline answer to "{prompt}"' in line
