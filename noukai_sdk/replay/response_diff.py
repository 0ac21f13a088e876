"""Compare a captured response with the one that a replay received.

The status, the media type, the target of a redirect and the body count. A body is compared by what it
says: JSON by value, lines of JSON line by line, event streams event by event, other text as text, all else
as bytes. What was masked at capture matches anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import unified_diff
from itertools import zip_longest
from typing import Any

from pydantic_core import from_json

from ..masking.values import REDACTED
from ..models.exchanges import CapturedResponse, Header
from ..protocol.sse import SSEDecoder

MISSING = "(missing)"
"""Stands for the value of a side that has none."""
# Longer texts are not compared line by line: that could take minutes.
_MOST_LINES = 10_000
_NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
_LINES_OF_JSON = (
    "application/x-ndjson",
    "application/jsonl",
    "application/x-jsonlines",
    "application/json-seq",
)


@dataclass(frozen=True)
class ReceivedResponse:
    """A response as a client received it.

    Attributes:
        content: The body, with its content encoding removed.
    """

    status: int
    headers: Sequence[Header] = ()
    content: bytes = b""


@dataclass(frozen=True)
class ResponseDifference:
    """One difference between a captured response and a received one.

    Attributes:
        where: ``status``, ``content-type``, ``location``, ``body``, or a JSON path such as
            ``$.items[0].name``, perhaps after ``line 3`` or ``event 3``, which are counted from 1.
        captured, received: The two values; ``"(missing)"`` if a side has none.
        diff: The differing lines of two texts, as a unified diff.
    """

    where: str
    captured: Any
    received: Any
    diff: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        values = {"where": self.where, "captured": self.captured, "received": self.received}
        return {**values, "diff": self.diff} if self.diff else values

    def __str__(self) -> str:
        if self.diff:
            return f"{self.where} differs:\n{self.diff}"
        return f"{self.where}: captured {_shown(self.captured)}, received {_shown(self.received)}"


def compare_responses(
    captured: CapturedResponse, received: ReceivedResponse
) -> list[ResponseDifference]:
    """Return the differences between a captured response and a received one.

    If the captured body was cut, because it was too long or the client went away, only its first part is
    compared. For a response that never started, any error is as expected.

    Example:
        >>> from noukai_sdk.models.exchanges import CapturedBody
        >>> body = CapturedBody(text='{"n": 1, "key": "[redacted]"}')
        >>> captured = CapturedResponse(status=200, body=body)
        >>> received = ReceivedResponse(200, content=b'{"n": 2, "key": "k"}')
        >>> print(*compare_responses(captured, received))
        $.n: captured 1, received 2
    """
    status = captured.status
    if status is None:
        # The server, or a layer of the framework, responded to an exception.
        failed = received.status >= 400
        return [] if failed else [ResponseDifference("status", 500, received.status)]
    found = []
    if status != received.status:
        found.append(ResponseDifference("status", status, received.status))
    kind, received_kind = _media_type(captured.headers), _media_type(received.headers)
    if kind != received_kind:
        found.append(ResponseDifference("content-type", kind or MISSING, received_kind or MISSING))
    location = _header(captured.headers, "location")
    received_location = _header(received.headers, "location")
    same = received_location and _matches(_target(location), _target(received_location))
    if location and not same:
        found.append(ResponseDifference("location", location, received_location or MISSING))
    body = captured.body
    if body is None:
        return found
    is_part = body.truncated or not body.complete
    return found + list(_bodies(kind or received_kind, body.content, received.content, is_part))


def without_ignored(
    differences: Sequence[ResponseDifference], ignore: Sequence[str]
) -> list[ResponseDifference]:
    """Return the differences without those at the paths in ``ignore``, or inside of them.

    Example:
        >>> found = [ResponseDifference("$.items[0].id", 1, 2), ResponseDifference("$.name", "a", "b")]
        >>> [each.where for each in without_ignored(found, ["$.items[*].id"])]
        ['$.name']
    """
    # A path inside of a stream begins with the event's number: "event 3, $.id".
    patterns = [re.escape(path.strip()).replace(r"\[\*\]", r"\[\d+\]") for path in ignore]
    ignored = re.compile(rf"(?:.*, )?(?:{'|'.join(patterns)})(?=[.\[]|\Z)") if patterns else None
    return [each for each in differences if ignored is None or not ignored.match(each.where)]


def _bodies(
    kind: str, captured: bytes, received: bytes, is_part: bool
) -> Iterator[ResponseDifference]:
    if captured == received or (is_part and received.startswith(captured)):
        return
    try:
        text, other = captured.decode(), received.decode()
    except UnicodeDecodeError:
        yield from _binaries(captured, received, is_part)
        return
    if kind == "text/event-stream":
        yield from _event_streams(captured, received, is_part)
    elif kind in _LINES_OF_JSON:
        yield from _json_lines(text, other, is_part)
    else:
        yield from _values_or_texts("body", text, other, is_part)


def _binaries(captured: bytes, received: bytes, is_part: bool) -> Iterator[ResponseDifference]:
    # One character for each byte, so that masks are found.
    text, other = captured.decode("latin-1"), received.decode("latin-1")
    if _matches(text, other, is_part):
        return
    pairs = enumerate(zip(captured, received, strict=False))
    at = next((at for at, (a, b) in pairs if a != b), min(len(captured), len(received)))
    sizes = (f"{len(content)} bytes" for content in (captured, received))
    yield ResponseDifference(f"body, from byte {at}", *sizes)


def _event_streams(captured: bytes, received: bytes, is_part: bool) -> Iterator[ResponseDifference]:
    """Compare two event streams by the type and the data of their events."""
    pairs = zip_longest(_events(captured, not is_part), _events(received, True))
    for number, (event, other) in enumerate(pairs, 1):
        where = f"event {number}"
        if event is None:
            if not is_part:
                yield ResponseDifference(where, MISSING, _event_text(other))
        elif other is None:
            yield ResponseDifference(where, _event_text(event), MISSING)
        elif not _matches(event[0], other[0]):
            yield ResponseDifference(f"{where}, its type", event[0], other[0])
        else:
            yield from _values_or_texts(where, event[1], other[1])


def _events(stream: bytes, to_the_end: bool) -> list[tuple[str, str]]:
    # A stream that ends without its last blank line ends in an event all the same, for most readers.
    frames = SSEDecoder().feed(stream + (b"\n\n" if to_the_end else b""))
    return [
        ((name or b"").decode("utf-8", "replace"), data.decode("utf-8", "replace"))
        for name, data in frames
    ]


def _event_text(event: tuple[str, str]) -> str:
    return f"{event[0]}: {event[1]}" if event[0] else event[1]


def _json_lines(captured: str, received: str, is_part: bool) -> Iterator[ResponseDifference]:
    lines, others = captured.split("\n"), received.split("\n")
    if is_part:
        lines.pop()  # it may have been cut
        others = others[: len(lines)]
    for number, (line, other) in enumerate(zip_longest(lines, others, fillvalue=""), 1):
        yield from _values_or_texts(f"line {number}", line, other)


def _values_or_texts(
    where: str, captured: str, received: str, is_part: bool = False
) -> Iterator[ResponseDifference]:
    """Compare two texts by value if both are JSON."""
    root = "$" if where == "body" else f"{where}, $"
    try:
        value = from_json(captured, allow_partial=True) if is_part else json.loads(captured)
        if is_part and not isinstance(value, (dict, list)):
            raise ValueError("a part of a text, which began like JSON")
        # As a list: values can be nested too deeply, which shows while they are compared.
        found = list(_values(root, value, json.loads(received), is_part))
    except (ValueError, RecursionError):
        found = list(_texts(where, captured, received, is_part))
    yield from found


def _texts(where: str, captured: str, received: str, is_part: bool) -> Iterator[ResponseDifference]:
    if _matches(captured, received, is_part):
        return
    before, after = captured.splitlines(), received.splitlines()
    if len(before) + len(after) > _MOST_LINES:
        yield ResponseDifference(where, captured, received)
        return
    lines = unified_diff(before, after, "captured", "received", lineterm="", n=1)
    yield ResponseDifference(where, captured, received, "\n".join(lines))


def _values(
    path: str, captured: Any, received: Any, is_part: bool = False
) -> Iterator[ResponseDifference]:
    """Compare two JSON values. If ``is_part``, ``captured`` was cut, perhaps in its last item."""
    if isinstance(captured, dict) and isinstance(received, dict):
        yield from _objects(path, captured, received, is_part)
    elif isinstance(captured, list) and isinstance(received, list):
        yield from _lists(path, captured, received, is_part)
    elif not is_part and not _equal(captured, received):
        yield ResponseDifference(path, captured, received)


def _objects(
    path: str, captured: dict[str, Any], received: dict[str, Any], is_part: bool
) -> Iterator[ResponseDifference]:
    pairs, missing, new = _fields(captured, received)
    last = next(reversed(captured), None) if is_part else None
    for name, other in pairs:
        inside = path + _step(name)
        yield from _values(inside, captured[name], received[other], is_part and name == last)
    for name in missing:
        yield ResponseDifference(path + _step(name), captured[name], MISSING)
    for name in () if is_part else new:
        yield ResponseDifference(path + _step(name), MISSING, received[name])


def _fields(
    captured: dict[str, Any], received: dict[str, Any]
) -> tuple[list[tuple[str, str]], list[str], list[str]]:
    """Pair the names of two objects; return the pairs, and the names that only one of them has."""
    pairs, missing = [], []
    new = [name for name in received if name not in captured]
    for name in captured:
        if name in received:
            pairs.append((name, name))
            continue
        # A name that holds a secret is masked too.
        match = next((each for each in new if REDACTED in name and _matches(name, each)), None)
        if match is None:
            missing.append(name)
        else:
            new.remove(match)
            pairs.append((name, match))
    return pairs, missing, new


def _lists(
    path: str, captured: list[Any], received: list[Any], is_part: bool
) -> Iterator[ResponseDifference]:
    """Compare two lists. If their lengths differ, what they share at both ends is not reported."""
    start = tail = 0
    if is_part:
        received = received[: len(captured)]
    elif len(captured) != len(received):
        shorter = min(len(captured), len(received))
        while start < shorter and _equal(captured[start], received[start]):
            start += 1
        while tail < shorter - start and _equal(captured[-1 - tail], received[-1 - tail]):
            tail += 1
    values = captured[start : len(captured) - tail]
    others = received[start : len(received) - tail]
    for index, (value, other) in enumerate(zip(values, others, strict=False), start):
        cut = is_part and index == len(captured) - 1
        yield from _values(f"{path}[{index}]", value, other, cut)
    both = min(len(values), len(others))
    for index, value in enumerate(values[both:], start + both):
        yield ResponseDifference(f"{path}[{index}]", value, MISSING)
    for index, other in enumerate(others[both:], start + both):
        yield ResponseDifference(f"{path}[{index}]", MISSING, other)


def _equal(captured: Any, received: Any) -> bool:
    if isinstance(captured, str):
        if captured == REDACTED:
            return True
        return isinstance(received, str) and _matches(captured, received)
    if isinstance(captured, bool) or isinstance(received, bool):
        return captured is received
    if isinstance(captured, list) and isinstance(received, list):
        return len(captured) == len(received) and all(map(_equal, captured, received))
    if isinstance(captured, dict) and isinstance(received, dict):
        pairs, missing, new = _fields(captured, received)
        return not (missing or new) and all(_equal(captured[a], received[b]) for a, b in pairs)
    if isinstance(captured, float) and isinstance(received, float) and math.isnan(captured):
        return math.isnan(received)
    return bool(captured == received)


def _matches(captured: str, received: str, is_part: bool = False) -> bool:
    """Return whether ``received`` is ``captured`` with any text where it is masked.

    If ``is_part``, ``received`` may go on.
    """
    first, *rest = captured.split(REDACTED)
    if not rest:
        return received.startswith(first) if is_part else received == first
    if not received.startswith(first):
        return False
    position = len(first)
    last = "" if is_part else rest.pop()
    # The earliest place of each text leaves the most to those that follow.
    for text in rest:
        found = received.find(text, position)
        if found < 0:
            return False
        position = found + len(text)
    return len(received) - len(last) >= position and received.endswith(last)


def _media_type(headers: Sequence[Header]) -> str:
    return _header(headers, "content-type").partition(";")[0].strip().lower()


def _header(headers: Sequence[Header], name: str) -> str:
    return next((value for each, value in headers if each.lower() == name), "")


def _target(location: str) -> str:
    """Return an address without its origin, which is another one for each server."""
    return re.sub(r"\A(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*", "", location) or "/"


def _step(name: str) -> str:
    return f".{name}" if name and not set(name) - _NAME else f"[{json.dumps(name)}]"


def _shown(value: Any) -> str:
    if value == MISSING:
        return MISSING
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"
