"""The two drivers keep the contract of programs, with programs made for the purpose."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from noukai_sdk.protocol.program import (
    CHECKPOINT,
    CallTools,
    CloseStream,
    Now,
    OpenStream,
    Program,
    ReadChunk,
    Request,
    Signal,
    Sleep,
)
from tests.support.service import STARTED, Service, frame, stream
from tests.support.sides import Side


@pytest.fixture
def side(every_side: Side) -> Side:
    """Run the test on every client."""
    return every_side


async def run(side: Side, program: Program[Any]) -> Any:
    async with side.client() as client:
        return await side.call(client._transport.run, program)


async def collect(side: Side, program: Program[Any], **options: Any) -> list[Any]:
    async with side.client() as client:
        return await side.collect(client._transport.stream(program, **options))


async def test_stream_yields_events_between_effects(side: Side) -> None:
    def program() -> Program[None]:
        yield "first"
        yield Sleep(0)
        yield Sleep(0.001, 0.5)
        yield CHECKPOINT
        yield "second"
        assert (yield Signal()) is None
        assert (yield CloseStream()) is None
        yield "third"
        yield Now()

    assert await collect(side, program()) == ["first", "second", "third"]


async def test_now_reads_a_clock_that_sleep_moves(side: Side) -> None:
    def program() -> Program[float]:
        before = yield Now()
        yield Sleep(0.02)
        after = yield Now()
        return float(after - before)

    assert await run(side, program()) >= 0.02


async def test_program_catches_error_of_effect(side: Side) -> None:
    def fail(calls: Any) -> Any:
        raise ZeroDivisionError

    def program() -> Program[str]:
        try:
            yield CallTools(fail, [])
        except ZeroDivisionError:
            return "saved"
        return "lost"

    assert await run(side, program()) == "saved"


async def test_stop_iteration_of_tool_is_not_a_result(side: Side) -> None:
    def fail(calls: Any) -> Any:
        raise StopIteration("a result?")

    def program() -> Program[None]:
        yield CallTools(fail, [])

    with pytest.raises(RuntimeError):
        await run(side, program())


async def test_stream_filter_drops_events_and_may_raise(side: Side) -> None:
    closed = []

    def program() -> Program[None]:
        try:
            yield from (1, 2, 3, 4)
        finally:
            closed.append(True)

    def keep(number: int) -> bool:
        if number == 4:
            raise ZeroDivisionError
        return number % 2 == 0

    with pytest.raises(ZeroDivisionError):
        await collect(side, program(), keep=keep)
    assert closed == [True]


async def test_program_left_early_is_closed(side: Side) -> None:
    closed = []

    def program() -> Program[None]:
        try:
            yield "event"
            yield "never requested"
        finally:
            closed.append(True)

    async with side.client() as client:
        await side.collect(client._transport.stream(program()), stop=lambda event: True)
    assert closed == [True]


async def test_program_opens_stream_after_stream_closing_the_first(
    side: Side, service: Service
) -> None:
    """The one before is closed, and where none is open there is nothing to read or to close."""
    service.reply(stream(STARTED, then="silence"), stream(STARTED))

    def program() -> Program[list[bytes]]:
        chunks = []
        for _ in range(2):
            yield OpenStream(Request("GET", "/x", timeout=5.0))
            chunks.append((yield ReadChunk()))
        yield CloseStream()
        yield CloseStream()
        return chunks

    assert await run(side, program()) == [frame(STARTED)] * 2
    await service.has_disconnects()


def test_sync_client_imports_no_asyncio() -> None:
    """It takes longer to import than the rest of the client."""
    program = """
import sys, httpx
from noukai_sdk import Noukai
answer = {"status": "completed", "result": 1}
mock = httpx.Client(transport=httpx.MockTransport(lambda request: httpx.Response(200, json=answer)))
with Noukai(api_key="nk_1", http_client=mock) as client:
    assert client.flow("a/b/c").execute(message="hi").result == 1
assert not {"asyncio", "anyio", "trio"} & set(sys.modules), sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_async_client_on_asyncio_imports_no_trio() -> None:
    program = """
import asyncio, sys, httpx
from noukai_sdk import AsyncNoukai
events = b'data: {"eventType":"run_started"}\\n\\ndata: {"eventType":"flow_completed"}\\n\\n'
mock = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: httpx.Response(200, content=events)))
async def main():
    flow = AsyncNoukai(api_key="nk_1", http_client=mock).flow("a/b/c")
    assert len([event async for event in flow.events(message="hi")]) == 2
asyncio.run(main())
assert "trio" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, timeout=60)
