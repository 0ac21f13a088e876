"""Live parts of pages: the server looks at what is shown, and sends it when it has changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass

from starlette.responses import Response, StreamingResponse

from ..api import ApiError
from .visit import PageError, Visit

# A look that takes long, such as a search, must not keep the database busy: at most this part of the time.
LARGEST_SHARE = 1 / 20
# Seconds after which something is sent, so that a client that has gone away is noticed.
_HEARTBEAT = 15.0
# What the API may respond for a while.
_PASSING = (429, 500, 502, 503, 504)


@dataclass(frozen=True)
class Look:
    """What a live part shows now.

    Attributes:
        version: Another text if the part has changed. Relative times do not count.
        render: Returns the part as HTML.
    """

    version: str
    render: Callable[[], str]


def stream_changes(visit: Visit, look: Callable[[], Awaitable[Look]]) -> Response:
    """Return server-sent events called ``change``: the part as HTML, whenever it has changed.

    The browser says in ``seen`` which version it shows, and in ``once`` that it comes again later. The
    stream ends when the service stops.

    Raises:
        PageError: Too many streams are open.
    """
    streams = visit.site.streams
    if streams.open >= visit.site.options.max_streams or streams.closing.is_set():
        raise PageError(503, "Too many live pages are open. Reload this page to see what is new.")
    headers = {"X-Accel-Buffering": "no"}
    return StreamingResponse(_frames(visit, look), 200, headers, "text/event-stream")


async def _frames(visit: Visit, look: Callable[[], Awaitable[Look]]) -> AsyncGenerator[bytes, None]:
    streams, seconds = visit.site.streams, visit.site.options.look_seconds
    seen = visit.query.get("seen", "")
    looks_once = "once" in visit.query
    streams.open += 1
    try:
        yield b": live\n\n"
        sent_at = time.monotonic()
        while not streams.closing.is_set():
            started_at = time.monotonic()
            try:
                found = await look()
                pause = max(seconds, (time.monotonic() - started_at) / LARGEST_SHARE)
            except ApiError as error:
                if error.status not in _PASSING:
                    return
                found, pause = None, error.retry_after or seconds
            if found is not None and found.version != seen:
                seen = found.version
                yield _frame("change", found.render(), seen)
                sent_at = started_at
            elif started_at - sent_at > _HEARTBEAT:
                yield b": live\n\n"
                sent_at = started_at
            if looks_once:
                return
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(streams.closing.wait(), pause)
    finally:
        streams.open -= 1


def _frame(event: str, text: str, version: str) -> bytes:
    data = "".join(f"data: {line}\n" for line in text.split("\n"))
    return f"event: {event}\nid: {version}\n{data}\n".encode()
