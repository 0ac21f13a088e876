"""Runs that a page begins or continues. They go on when the visitor leaves the page."""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import httpx
from pydantic_core import from_json

from ...protocol.sse import SSEDecoder
from .visit import PageError, Visit

logger = logging.getLogger("noukai_sdk.dashboard")

Event = dict[str, Any]

# The event loop holds tasks weakly.
_driving: set[asyncio.Task[None]] = set()


async def read_events(response: httpx.Response) -> AsyncIterator[Event]:
    """Yield the events of a stream as they arrive, in wire form."""
    decoder = SSEDecoder()
    async for chunk in response.aiter_raw():
        for _, data in decoder.feed(chunk):
            try:
                event = from_json(data)
            except ValueError:
                # The fast parser refuses what is nested deep.
                event = json.loads(data)
            yield event


async def begin_run(visit: Visit, address: str, version: int | None, body: dict[str, Any]) -> str:
    """Begin a run in a session of its own; return its id.

    Raises:
        ApiError: The API refuses it.
    """
    event = await _drive(visit, address, version, body, str(uuid.uuid4()))
    return str(event["executionId"])


async def continue_run(
    visit: Visit, address: str, version: int | None, body: dict[str, Any], session_id: str | None
) -> None:
    """Continue a run that waits for the results of tools.

    Raises:
        ApiError: The API refuses it.
    """
    await _drive(visit, address, version, body, session_id)


async def _drive(
    visit: Visit, address: str, version: int | None, body: dict[str, Any], session_id: str | None
) -> Event:
    """Send a step call, and read its events to the end; return the first one when it comes."""
    first: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
    # Nobody is left to read the error, and the log does not need it.
    first.add_done_callback(lambda first: first.cancelled() or first.exception())

    async def read() -> None:
        path = quote(address if version is None else f"{address}/v{version}")
        headers = {} if session_id is None else {"X-Session-Id": session_id}
        sent = {**body, "runRemaining": True}
        try:
            async with visit.api.stream(
                "POST", f"/seq/{path}/step", json=sent, headers=headers
            ) as response:
                # A run whose stream nobody reads is cancelled.
                async for event in read_events(response):
                    if not first.done():
                        first.set_result(event)
        except Exception as error:
            if not first.done():
                first.set_exception(error)
            else:
                logger.exception("a run that was begun on a page was cut off")
        if not first.done():
            first.set_exception(PageError(502, "The run has ended before it began."))

    async def read_until_the_service_stops() -> None:
        reader = asyncio.ensure_future(read())
        stop = asyncio.ensure_future(visit.site.streams.closing.wait())
        await asyncio.wait((reader, stop), return_when=asyncio.FIRST_COMPLETED)
        for task in (reader, stop):
            task.cancel()
        await asyncio.gather(reader, stop, return_exceptions=True)
        first.cancel()

    task = asyncio.ensure_future(read_until_the_service_stops())
    _driving.add(task)
    task.add_done_callback(_driving.discard)
    # The visitor may leave before the first event: the run goes on.
    return await asyncio.shield(first)
