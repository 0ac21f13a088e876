"""From SSE frames to typed events. A frame that cannot be read is skipped with a logged warning."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import cast

from pydantic import ValidationError
from pydantic_core import from_json

from ..models.events import EVENT_CLASSES, StreamEvent
from .decoding import first_problem
from .sse import Frame, SSEDecoder

logger: logging.Logger = logging.getLogger("noukai_sdk")

Reader = Callable[[bytes], StreamEvent]


def read_events(decoder: SSEDecoder, chunk: bytes | None) -> list[StreamEvent] | None:
    """The events that ``chunk`` completes; after the last chunk, which is None, None."""
    if chunk is not None:
        return parse_frames(decoder.feed(chunk))
    return parse_frames(decoder.flush()) or None


def parse_frames(frames: list[Frame]) -> list[StreamEvent]:
    """The events in ``frames``; unknown types and unreadable frames are left out."""
    events: list[StreamEvent] = []
    known_as = _readers().get
    for name, data in frames:
        # Most services write the type first: then the body need not be parsed to find it.
        known = known_as(name or data[: data.find(b'"', 16) + 1])
        if known is None and (name or not (known := known_as(_type_of(data)))):
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
    readers = {}
    for word, model in EVENT_CLASSES.items():
        for key in (word, f'{{"eventType":"{word}"', f'{{"eventType": "{word}"'):
            readers[key.encode()] = word, _reader(model)
    return readers


def _reader(model: type[StreamEvent]) -> Reader:
    # The bare validator, which the model has put off to build: model_validate_json spends a third of
    # its time on options.
    model.model_rebuild()
    return cast("Reader", model.__pydantic_validator__.validate_json)


def _type_of(data: bytes) -> bytes:
    try:
        body = from_json(data)
    except ValueError as error:
        logger.warning("skipped an event that is no JSON: %s", error)
        return b""
    word = body.get("eventType") if isinstance(body, dict) else None
    return word.encode() if isinstance(word, str) else b""
