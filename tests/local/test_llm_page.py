"""The examples of GraphBit's page "Async vs Sync", with only the import and the config changed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.local.llm_servers import fault_server, ok

SYNC = """
import os

{import_line}

{config_line}

client = LlmClient(config)
result = client.complete("Hello, world!")
print(result)
"""

ASYNC = """
import os
import asyncio

{import_line}

{config_line}

client = LlmClient(config)

async def main():
    result = await client.complete_async("Hello, async world!")
    print(result)

    # Streaming completion
    stream_result = await client.complete_stream("Stream this!")
    print(stream_result)

asyncio.run(main())
"""

IMPORT = (
    "from noukai_sdk.local.llm_config import LlmConfig\n"
    "from noukai_sdk.local.llm_client import LlmClient"
)
OFFLINE = "config = LlmConfig.offline()"
OPENAI = 'config = LlmConfig.openai(os.getenv("OPENAI_API_KEY"))'


def run(example: str, config_line: str, **env: str) -> list[str]:
    code = example.format(import_line=IMPORT, config_line=config_line)
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


@pytest.mark.parametrize(
    ("example", "quoted"),
    [(SYNC, ["Hello, world!"]), (ASYNC, ["Hello, async world!", "Stream this!"])],
)
def test_the_examples_run_and_end_by_themselves(example: str, quoted: list[str]) -> None:
    lines = run(example, OFFLINE)
    assert len(lines) == len(quoted)
    for line, prompt in zip(lines, quoted, strict=True):
        assert line.startswith(f'Offline answer to "{prompt}"')


@pytest.mark.parametrize(("example", "answers"), [(SYNC, 1), (ASYNC, 2)])
def test_the_config_line_of_the_page_works_too(example: str, answers: int) -> None:
    with fault_server(ok("Hello there")) as server:
        lines = run(example, OPENAI, OPENAI_API_KEY="k", OPENAI_BASE_URL=f"{server.url}/v1")
    assert [line.strip() for line in lines] == ["Hello there"] * answers
    assert server.asked[0].headers["authorization"] == "Bearer k"
