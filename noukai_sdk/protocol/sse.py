"""An incremental decoder of ``text/event-stream``, on bytes.

Written here because the known decoders lose the first event after a byte order mark and give an
empty event for a block that holds no data (DEPENDENCIES.md). Working on bytes, it does not mind
where a network chunk cuts a line or a character.
"""

from __future__ import annotations

Frame = tuple[bytes | None, bytes]
"""The ``event:`` line's value, None where there was none, and the joined ``data:`` lines."""

_BOM = b"\xef\xbb\xbf"


class SSEDecoder:
    r"""Feed it chunks as they come; it gives the frames that they complete.

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

    def feed(self, chunk: bytes) -> list[Frame]:
        """The frames that end in this chunk."""
        scanned = len(self._buffer)
        self._buffer += self._with_line_feeds(chunk)
        if self._at_start and not self._skip_bom():
            return []
        # A blank line can be split between the chunks, so look one byte back.
        end = self._buffer.rfind(b"\n\n", max(0, scanned - 1))
        if end < 0:
            return []
        complete = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        return _frames(complete)

    def flush(self) -> list[Frame]:
        """What is left at the end of the stream, where the last blank line is missing."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        return _frames(rest)

    def _with_line_feeds(self, chunk: bytes) -> bytes:
        if self._after_cr and chunk.startswith(b"\n"):  # the other half of a CRLF
            chunk = chunk[1:]
            self._after_cr = False
        if chunk:
            self._after_cr = chunk.endswith(b"\r")
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return chunk

    def _skip_bom(self) -> bool:
        """False while a byte order mark may still be incomplete."""
        if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        self._at_start = False
        return True


def _frames(block: bytes) -> list[Frame]:
    frames = []
    for text in block.split(b"\n\n"):
        frame = _frame(text)
        if frame is not None:
            frames.append(frame)
    return frames


def _frame(text: bytes) -> Frame | None:
    name: bytes | None = None
    data: bytes | None = None
    for line in text.split(b"\n"):
        if line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            data = value if data is None else data + b"\n" + value
        elif line.startswith(b"event:"):
            name = line[6:].strip()
    return None if data is None else (name or None, data)
