"""Reading in one event loop what a generator makes in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress

from anyio import CancelScope

from .llm_errors import LlmClosedError
from .llm_host import Host, R, T


async def relay(
    host: Host[R], start: Callable[[R], AsyncGenerator[T, None]]
) -> AsyncGenerator[T, None]:
    """The values of the generator that ``start`` makes in the host's loop.

    Closing this generator closes that one, and waits for it.
    """
    stream: AsyncGenerator[T, None] | None = None
    # A cancelled step goes on unwinding in the host's loop: closing has to wait for its end.
    busy = asyncio.Lock()

    home: asyncio.AbstractEventLoop | None = None

    async def step(resource: R) -> tuple[T] | None:
        nonlocal stream, home
        loop = asyncio.get_running_loop()
        if home not in (None, loop):
            raise LlmClosedError("the runtime was shut down while this stream was read")
        async with busy:
            home, stream = loop, stream or start(resource)
            async for value in stream:
                return (value,)
            return None

    async def end(_: R) -> None:
        async with busy:
            if stream is not None and home is asyncio.get_running_loop():
                await stream.aclose()

    try:
        while (value := await host.wait(step)) is not None:
            yield value[0]
    finally:
        with CancelScope(shield=True), suppress(LlmClosedError):
            await host.wait(end)
