"""Event streams that are left before their end."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import anyio
import pytest

from noukai_sdk.local import Executor, LlmClient, LlmConfig, Node, Workflow

pytestmark = pytest.mark.anyio


class Forever:
    """A node's function that says when it has begun and ended."""

    def __init__(self) -> None:
        self.ended = 0

    async def __call__(self) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            self.ended += 1

    @property
    def workflow(self) -> Workflow:
        workflow = Workflow("Forever")
        workflow.add_node(Node.function("wait", self))
        return workflow


async def leave_early(work: Forever) -> None:
    async for event in Executor().execute_streaming(work.workflow):
        if event.type == "step_input":
            break


# trio closes no generator by itself, and says so.
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_stream_that_is_dropped_stops_its_run() -> None:
    work = Forever()
    await leave_early(work)
    gc.collect()
    with anyio.fail_after(10):
        while not work.ended:
            await anyio.sleep(0.01)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_ends_in_peace_while_a_stream_is_open() -> None:
    work, kept, told = Forever(), [], []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        events: Any = Executor().execute_streaming(work.workflow)
        answer: Any = LlmClient(LlmConfig.offline()).complete_stream("Hello there")
        kept.extend([events, answer])
        async for event in events:
            if event.type == "step_input":
                break
        async for _ in answer:
            break

    await anyio.to_thread.run_sync(lambda: asyncio.run(main()))
    assert work.ended == 1
    assert told == []
