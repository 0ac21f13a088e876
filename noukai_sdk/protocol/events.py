"""From SSE frames to typed events. A frame that cannot be read is skipped with a logged warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ..models.events import EVENT_CLASSES, StreamEvent
from .answers import first_problem
from .sse import Frame, SSEDecoder

logger = logging.getLogger("noukai_sdk")

Reader = Callable[[bytes], StreamEvent]


def read_events(decoder: SSEDecoder, chunk: bytes | None) -> list[StreamEvent] | None:
    """The events that ``chunk`` completes; after the last chunk, which is None, None."""
    if chunk is not None:
        return parse_frames(decoder.feed(chunk))
    return parse_frames(decoder.flush()) or None


def parse_frames(frames: list[Frame]) -> list[StreamEvent]:
    """The events in ``frames``; unknown types and unreadable frames are left out."""
    events = []
    readers = _readers()
    for name, data in frames:
        known = readers.get(name or _type_of(data))
        if known is None:
            continue
        word, read = known
        try:
            event = read(data)
        except ValidationError as error:
            logger.warning("skipped a %s event: %s", word, first_problem(error))
            continue
        if name and event.event_type != word:
            event.event_type = word
        events.append(event)
    return events


@cache
def _readers() -> dict[bytes, tuple[str, Reader]]:
    # The bare validator: TypeAdapter's own method spends a third of the time on its options.
    return {
        word.encode(): (word, TypeAdapter(model).validator.validate_json)
        for word, model in EVENT_CLASSES.items()
    }


def _type_of(data: bytes) -> bytes:
    # Most services write the type first: then the body need not be parsed to find it.
    start, *rest = data.split(b'"', 4)
    if start == b"{" and len(rest) == 4 and rest[0] == b"eventType" and rest[1].strip() == b":":
        return rest[2]
    try:
        body = from_json(data)
    except ValueError as error:
        logger.warning("skipped an event that is no JSON: %s", error)
        return b""
    word = body.get("eventType") if isinstance(body, dict) else None
    return word.encode() if isinstance(word, str) else b""
