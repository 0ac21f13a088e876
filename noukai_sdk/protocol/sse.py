"""From the bytes of a ``text/event-stream`` to typed events.

The decoder is our own because the known ones lose the first event after a byte order mark, and yield
an empty event for a block without data. It works on bytes, so a network chunk may end anywhere, even
inside a character.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from ..models.events import EVENT_CLASSES, StreamEvent
from .decoding import first_problem

logger: logging.Logger = logging.getLogger("noukai_sdk")

Frame = tuple[bytes | None, bytes]
"""The value of the ``event:`` line, None or empty if there is none, and the joined ``data:`` lines."""

_BOM = b"\xef\xbb\xbf"
_BLANK_LINE = b"\n\n"

# A whole frame in the two forms of nearly every service. Matching all frames of a block at once takes a
# third of the time of a loop over its lines.
_NAMED_FRAME = re.compile(rb"(?m)^event: ?(.*)\ndata: ?(.*)\n\n")
_UNNAMED_FRAME = re.compile(rb"(?m)^()data: ?(.*)\n\n")


class SSEDecoder:
    r"""Decodes chunks into the frames that they complete.

    Example:
        >>> decoder = SSEDecoder()
        >>> decoder.feed(b"event: step_output\ndata: {")
        []
        >>> decoder.feed(b"}\n\n")
        [(b'step_output', b'{}')]
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._at_start = True
        self._after_cr = False

    def read_events(self, chunk: bytes | None) -> list[StreamEvent] | None:
        """Return the events that ``chunk`` completes, or None after the last chunk, which is None.

        A frame without its blank line was cut off by the end of the stream: it is dropped.
        """
        return None if chunk is None else parse_frames(self.feed(chunk))

    def feed(self, chunk: bytes) -> list[Frame]:
        """Return the frames that end in this chunk."""
        if b"\r" in chunk or self._after_cr:
            chunk = self._with_line_feeds(chunk)
        buffer = self._buffer
        if not (buffer or self._at_start) and chunk.endswith(_BLANK_LINE):
            return _frames(chunk)
        # A blank line can be split between two chunks, so look one byte back.
        unseen = max(0, len(buffer) - 1)
        buffer += chunk
        if self._at_start:
            if len(buffer) < len(_BOM) and _BOM.startswith(buffer):
                return []  # the byte order mark may still be incomplete
            if buffer.startswith(_BOM):
                del buffer[: len(_BOM)]
            self._at_start = False
        end = buffer.rfind(_BLANK_LINE, unseen)
        if end < 0:
            return []
        complete = bytes(buffer[: end + 2])
        del buffer[: end + 2]
        return _frames(complete)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):  # the other half of a CRLF
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        return chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def _frames(block: bytes) -> list[Frame]:
    """Split a block that ends in a blank line into its frames."""
    is_named = block.startswith(b"event")
    frames: list[Frame] = (_NAMED_FRAME if is_named else _UNNAMED_FRAME).findall(block)
    # Each match has this many lines, so equal counts mean that nothing was left out.
    if len(frames) * (3 if is_named else 2) == block.count(b"\n"):
        return frames
    frames = []
    for text in block.split(_BLANK_LINE):
        name: bytes | None = None
        data: bytes | None = None
        for line in text.split(b"\n"):
            field, _, value = line.partition(b":")
            value = value[1:] if value.startswith(b" ") else value
            if field == b"data":
                data = value if data is None else data + b"\n" + value
            elif field == b"event":
                name = value
        if data is not None:
            frames.append((name, data))
    return frames


class _Parser(NamedTuple):
    """How to read the events of one type."""

    event_type: str
    from_bytes: Callable[[bytes], StreamEvent]
    from_object: Callable[[Any], StreamEvent]


def parse_frames(frames: list[Frame]) -> list[StreamEvent]:
    """Return the events in ``frames``. Unknown types are skipped, and bad frames with a logged warning."""
    events: list[StreamEvent] = []
    parser_of = _parsers().get
    for name, data in frames:
        body: Any = None
        if name:
            parser = parser_of(name)
        else:  # then the type stands in the data, which has to be parsed to find it
            try:
                body = from_json(data)
            except ValueError as error:
                logger.warning("skipped an event that is not valid JSON: %s", error)
                continue
            event_type = body.get("eventType") if isinstance(body, dict) else None
            parser = parser_of(event_type) if isinstance(event_type, str) else None
        if parser is None:
            continue
        event_type, from_bytes, from_object = parser
        try:
            event = from_bytes(data) if name else from_object(body)
        except ValidationError as error:
            logger.warning("skipped a %s event: %s", event_type, first_problem(error))
            continue
        if name and event.event_type != event_type:
            event.event_type = event_type
        events.append(event)
    return events


@cache
def _parsers() -> dict[str | bytes, _Parser]:
    """Return the parsers by the name in the data, and by the bytes of an ``event:`` line."""
    parsers: dict[str | bytes, _Parser] = {}
    for event_type, model in EVENT_CLASSES.items():
        # The bare validator, which a model builds at first use: model_validate_json spends a third of
        # its time on options.
        model.model_rebuild()
        validator = model.__pydantic_validator__
        parser = _Parser(event_type, validator.validate_json, validator.validate_python)
        parsers[event_type] = parsers[event_type.encode()] = parser
    return parsers
