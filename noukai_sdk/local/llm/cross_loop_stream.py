"""Reading in one event loop what a generator makes in another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Generic

from anyio import CancelScope

from .errors import LlmClosedError
from .loop_bound import LoopBound, R, T

if TYPE_CHECKING:
    from typing_extensions import Self


class CrossLoopStream(Generic[R, T]):
    """The values of the generator that ``start`` makes in the host's loop.

    No generator itself: a loop that ends closes all that it has seen at once, also one in another.
    """

    def __init__(self, host: LoopBound[R], start: Callable[[R], AsyncGenerator[T, None]]) -> None:
        self._host = host
        self._start = start
        self._stream: AsyncGenerator[T, None] | None = None
        self._home: asyncio.AbstractEventLoop | None = None
        # A cancelled step goes on unwinding in the host's loop: closing has to wait for its end.
        self._busy = asyncio.Lock()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        found = await self._host.wait(self._step)
        if found is None:
            raise StopAsyncIteration
        return found[0]

    async def aclose(self) -> None:
        """Close the generator, and wait for its end."""
        with CancelScope(shield=True), suppress(LlmClosedError):
            await self._host.wait(self._end)

    async def _step(self, resource: R) -> tuple[T] | None:
        loop = asyncio.get_running_loop()
        if self._home not in (None, loop):
            raise LlmClosedError("the runtime was shut down while this stream was read")
        async with self._busy:
            self._home, self._stream = loop, self._stream or self._start(resource)
            async for value in self._stream:
                return (value,)
            return None

    async def _end(self, _: R) -> None:
        async with self._busy:
            if self._stream is not None and self._home is asyncio.get_running_loop():
                await self._stream.aclose()
