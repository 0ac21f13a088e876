"""Server-sent events: frames, and an answer that notices when its reader goes away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from starlette.requests import ClientDisconnect
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from .capture import Event
from .encoding import encode


def frame(event: Event) -> bytes:
    """One event, with its type in an ``event:`` line and first in the JSON."""
    return b"event: %s\ndata: %s\n\n" % (event["eventType"].encode(), encode(event))


class EventStream(StreamingResponse):
    """Sends events as they come.

    Args:
        events: Closed in any case, at the latest when the reader goes away.
        on_end: Called last, also where ``events`` was never started.
    """

    def __init__(
        self, events: AsyncGenerator[Event, None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_frames(events), headers=headers, media_type="text/event-stream")
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer. A reader that goes away is no error."""
        try:
            async with aclosing(self._events):
                with suppress(ClientDisconnect):
                    await super().__call__(scope, receive, send)
        finally:
            self._on_end()


async def _frames(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield frame(event)
