"""Both clients behind one set of methods, so that one test serves them all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio.to_thread

from noukai_sdk import AsyncNoukai, Noukai


@dataclass(frozen=True)
class Side:
    """One kind of client: on which event loop, and over the extra ``fast`` or not."""

    name: str
    backend: str = "asyncio"
    is_async: bool = True
    fast: bool = False

    def make(self, **arguments: Any) -> Any:
        """Make a client of the local service."""
        kind = AsyncNoukai if self.is_async else Noukai
        return kind(
            **{
                "api_key": "nk_test",
                "org": "acme",
                "project": "spelling",
                **arguments,
            }
        )

    @asynccontextmanager
    async def client(self, **arguments: Any) -> AsyncIterator[Any]:
        """Make a client, and close it at the end."""
        client = self.make(**arguments)
        try:
            yield client
        finally:
            await self.close(client)

    @asynccontextmanager
    async def flow(self, **arguments: Any) -> AsyncIterator[Any]:
        """Make a client and yield the flow that nearly every test calls."""
        async with self.client(**arguments) as client:
            yield client.flow("grade-3")

    async def close(self, client: Any) -> None:
        await self.call(client.aclose if self.is_async else client.close)

    async def call(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Call a method. A sync one runs in a thread, because it would block the event loop."""
        if self.is_async:
            return await function(*args, **options)
        return await anyio.to_thread.run_sync(lambda: function(*args, **options))

    async def collect(
        self,
        events: Any,
        seen: list[Any] | None = None,
        stop: Callable[[Any], bool] = lambda event: False,
    ) -> list[Any]:
        """Read a stream up to the first event that ``stop`` returns True for; ``seen`` gets its events."""
        kept: list[Any] = [] if seen is None else seen
        if not self.is_async:
            return await anyio.to_thread.run_sync(lambda: _collect(events, kept, stop))
        async for event in events:
            kept.append(event)
            if stop(event):
                await events.aclose()
                break
        return kept

    async def resume(self, paused: Any, results: list[dict[str, Any]]) -> Any:
        method = paused.resume if self.is_async else paused.resume_sync
        return await self.call(method, tool_results=results)


def _collect(events: Any, kept: list[Any], stop: Callable[[Any], bool]) -> list[Any]:
    for event in events:
        kept.append(event)
        if stop(event):
            events.close()
            break
    return kept


SYNC = Side("sync", is_async=False)
ASYNC = (
    Side("asyncio"),
    Side("asyncio-fast", fast=True),
    Side("trio", backend="trio"),
)
EVERY = (SYNC, *ASYNC)
# For behaviour that does not depend on the event loop or the HTTP library.
BOTH = (SYNC, ASYNC[0])
