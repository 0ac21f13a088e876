"""JSON responses and event streams."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing, suppress

from starlette.requests import ClientDisconnect
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..capture import Event
from ..encoding import encode
from ..store.writer import StaleOwnerError

logger = logging.getLogger("noukai_sdk.backend")


def json_response(
    value: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Return ``value`` as a JSON response."""
    return Response(encode(value), status, headers, media_type="application/json")


class EventStream(StreamingResponse):
    """A response of server-sent events.

    The event's type stands in an ``event:`` line, and first in the JSON.

    Args:
        events: Closed when the response ends, at the latest when the client goes away.
        on_end: Called last, even if ``events`` was never started.
    """

    def __init__(
        self, events: AsyncGenerator[Event, None], on_end: Callable[[], None] = lambda: None
    ) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_frames(events), headers=headers, media_type="text/event-stream")
        self._events = events
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the response. A client that goes away is not an error."""
        try:
            async with aclosing(self._events):
                with suppress(ClientDisconnect):
                    await super().__call__(scope, receive, send)
        except StaleOwnerError as error:
            # The server cuts the stream off when we return, so that it does not look complete.
            logger.info("%s: its stream is cut off", error)
        finally:
            self._on_end()


async def _frames(events: AsyncGenerator[Event, None]) -> AsyncGenerator[bytes, None]:
    async for event in events:
        yield b"event: %s\ndata: %s\n\n" % (event["eventType"].encode(), encode(event))
