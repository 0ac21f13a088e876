"""From SSE frames to typed events. A frame that cannot be read is skipped with a logged warning."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator
from functools import cache

from pydantic import TypeAdapter, ValidationError
from pydantic_core import from_json

from ..models.events import EVENT_CLASSES, StreamEvent
from .program import Program, ReadChunk
from .sse import Frame, SSEDecoder

logger = logging.getLogger("noukai_sdk")

# Most services write the type first: then the body need not be parsed to find it.
_LEADING_TYPE = re.compile(rb'\s*\{\s*"eventType"\s*:\s*"([a-z_]+)"')


def read_events(decoder: SSEDecoder) -> Program[list[StreamEvent] | None]:
    """The events of the next chunk of the open stream, None at its end."""
    chunk: bytes | None = yield ReadChunk()
    if chunk is not None:
        return list(parse_frames(decoder.feed(chunk)))
    rest = list(parse_frames(decoder.flush()))
    return rest or None


def parse_frames(frames: list[Frame]) -> Iterator[StreamEvent]:
    """The events in ``frames``; unknown types and unreadable frames are left out."""
    readers = _readers()
    for name, data in frames:
        word = name or _type_of(data)
        reader = readers.get(word)
        if reader is None:
            continue
        try:
            event = reader(data)
        except ValidationError as error:
            _warn(word.decode(), error)
            continue
        if name is not None and event.event_type != (text := name.decode()):
            event.event_type = text
        yield event


@cache
def _readers() -> dict[bytes, Callable[[bytes], StreamEvent]]:
    return {
        word.encode(): TypeAdapter(model).validate_json for word, model in EVENT_CLASSES.items()
    }


def _type_of(data: bytes) -> bytes:
    leading = _LEADING_TYPE.match(data)
    if leading:
        return leading[1]
    try:
        body = from_json(data)
    except ValueError as error:
        _warn("untyped", error)
        return b""
    word = body.get("eventType") if isinstance(body, dict) else None
    return word.encode() if isinstance(word, str) else b""


def _warn(word: str, error: ValueError) -> None:
    logger.warning("skipped a %s event that cannot be read: %s", word, type(error).__name__)
