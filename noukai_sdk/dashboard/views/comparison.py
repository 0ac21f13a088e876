"""Two sessions side by side: which calls were added, removed or changed, and how."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any
from urllib.parse import quote

from ...boundaries.display import arguments_text, value_text
from ...models.exchanges import CapturedBody, CapturedResponse, Exchange
from ...replay.diff import AlignedCall, align_calls
from ...replay.recording import Recording
from ...replay.response_diff import ReceivedResponse, compare_responses
from .replay import ChangedPart, DiffLine, response_part
from .texts import count

_MOST_CALLS = 300
_MOST_SAME = 1_000
# Longer values are not compared line by line: that takes seconds.
_LONGEST_DIFF, _MOST_DIFF_LINES = 50_000, 2_000
_MOST_LINES = 400
_LONGEST_SHOWN = 2_000
# Lines around a change.
_CONTEXT = 2

_STATES = {"added": "added", "removed": "removed", "changed": "changed", "same": "unchanged"}
_WORDS = {
    "error": "error",
    "events": "events of the stream",
    "tools": "tool calls and their results",
}


@dataclass(frozen=True)
class ComparedSession:
    """One of the two sessions: its recordings, and its request if that was captured.

    Attributes:
        functions: The calls of its recorded functions.
    """

    session_id: str
    recordings: Sequence[Recording]
    exchange: Exchange | None = None
    functions: Sequence[Recording] = ()

    @property
    def url(self) -> str:
        """Return the URL of its page."""
        return f"/sessions/{quote(self.session_id, safe='')}"

    @property
    def title(self) -> str:
        """Return the request line, else the number of calls."""
        if self.exchange is None:
            return count(len(self.recordings), "call")
        request = self.exchange.request
        return f"{request.method} {request.target}"


@dataclass(frozen=True)
class ComparedCall:
    """A call of one or of both sessions.

    Attributes:
        state: ``same``, ``changed``, ``added`` or ``removed``.
        preview: The beginning of its input.
    """

    state: str
    title: str
    preview: str
    parts: tuple[ChangedPart, ...] = ()


@dataclass
class Comparison:
    """Two sessions, aligned by the inputs of their calls.

    Attributes:
        request, response: The parts in which the captured requests and responses differ; None if they
            cannot be compared.
        calls: The calls that differ, in the order of the first session.
        same: The calls that do not.
        functions: The calls of recorded functions that differ.
        function_counts: How many of their calls were added, removed, changed, or are the same.
        more: How many calls are not shown.
    """

    a: ComparedSession
    b: ComparedSession
    request: list[ChangedPart] | None = None
    response: list[ChangedPart] | None = None
    calls: list[ComparedCall] = field(default_factory=list)
    same: list[ComparedCall] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    more: int = 0
    functions: list[ComparedCall] = field(default_factory=list)
    function_counts: dict[str, int] = field(default_factory=dict)

    @property
    def swapped_url(self) -> str:
        """Return the URL of the comparison the other way round."""
        return f"{self.b.url}/compare/{quote(self.a.session_id, safe='')}"

    @property
    def is_equal(self) -> bool:
        """Return whether nothing differs."""
        return not (self.calls or self.functions or self.request or self.response)

    @property
    def summary(self) -> str:
        """Return the outcome in one line."""
        return _summary(self.counts) or "no calls"

    @property
    def summary_of_functions(self) -> str:
        """Return the outcome for the recorded functions in one line; empty if there are none."""
        return _summary(self.function_counts)


def compare_sessions(a: ComparedSession, b: ComparedSession) -> Comparison:
    """Compare two sessions. Large ones take a second."""
    found = Comparison(a, b)
    if a.exchange is not None and b.exchange is not None:
        found.request = list(_requests(a.exchange, b.exchange))
        found.response = _responses(a.exchange.response, b.exchange.response)
    for call in _in_order(a.recordings, align_calls(a.recordings, b.recordings)):
        state = _state(call)
        found.counts[state] = found.counts.get(state, 0) + 1
        shown, most = (found.same, _MOST_SAME) if state == "same" else (found.calls, _MOST_CALLS)
        if len(shown) < most:
            shown.append(_compared(call, state))
        else:
            found.more += 1
    for call in _in_order(a.functions, align_calls(a.functions, b.functions)):
        state = _state(call)
        found.function_counts[state] = found.function_counts.get(state, 0) + 1
        if state == "same":
            continue
        if len(found.functions) < _MOST_CALLS:
            found.functions.append(_compared(call, state))
        else:
            found.more += 1
    return found


def _summary(counts: Mapping[str, int]) -> str:
    words = [
        f"{count(counts[state], 'call')} {word}"
        for state, word in _STATES.items()
        if counts.get(state)
    ]
    return ", ".join(words)


def _state(call: AlignedCall) -> str:
    if call.a is None:
        return "added"
    if call.b is None:
        return "removed"
    return "changed" if call.parts else "same"


def _in_order(recordings: Sequence[Recording], calls: Sequence[AlignedCall]) -> list[AlignedCall]:
    """Return the calls of all flows in the order of the first session; added ones after the call before."""
    places = {id(each): place for place, each in enumerate(recordings)}
    ordered = []
    before: dict[tuple[str | None, str | None], int] = {}
    for number, call in enumerate(calls):
        lane = (call.slug, call.kind)
        if call.a is not None:
            before[lane] = places[id(call.a)]
        ordered.append((before.get(lane, -1), call.a is None, number, call))
    return [call for *_, call in sorted(ordered, key=lambda each: each[:3])]


def _compared(call: AlignedCall, state: str) -> ComparedCall:
    recording = call.a or call.b
    assert recording is not None
    numbers = [each + 1 for each in (call.index, call.at) if each is not None]
    number = " → ".join(map(str, dict.fromkeys(numbers)))
    kind = "call" if call.kind in (None, "recorded") else call.kind
    title = f"{call.slug or '(deleted flow)'}, {kind} {number}"
    is_recorded = call.kind == "recorded"
    shown = [(what, *map(_as_python, sides)) for what, *sides in call.parts]
    parts = [_part(*part) for part in (shown if is_recorded else call.parts)]
    if state in ("added", "removed"):
        kind, sign = ("added", "+") if state == "added" else ("removed", "-")
        values = [("input", recording.request), ("result", recording.output)]
        if is_recorded:
            arguments = (recording.request or {}).get("arguments")
            values = [
                ("arguments", _as_python(arguments)),
                ("result", _as_python(recording.output)),
            ]
        for name, value in values:
            if value is not None:
                lines = [f"{sign} {line}" for line in _lines(value)[:_MOST_LINES]]
                parts.append(ChangedPart(name, tuple(DiffLine(kind, line) for line in lines)))
    return ComparedCall(state, title, _preview(recording), tuple(parts))


def _as_python(value: Any) -> Any:
    """Return an encoded value of a recorded function for reading."""
    return value if value is None or isinstance(value, str) else value_text(value)


def _part(what: str, a: Any, b: Any) -> ChangedPart:
    if what == "order":
        return ChangedPart(f"call {a} is now call {b}", ())
    name = what.removeprefix("input.")
    return ChangedPart(_WORDS.get(name, name), value_diff(a, b))


def _requests(a: Exchange, b: Exchange) -> Iterator[ChangedPart]:
    one, other = a.request, b.request
    for name, left, right in (
        ("method", one.method, other.method),
        ("server", one.origin, other.origin),
        ("path", one.target, other.target),
        ("headers", _headers(one.headers), _headers(other.headers)),
    ):
        if left != right:
            yield ChangedPart(name, value_diff(left, right))
    left_body, right_body = _text(one.body), _text(other.body)
    if left_body != right_body:
        yield ChangedPart("body", value_diff(_parsed(left_body), _parsed(right_body)))


def _headers(headers: Sequence[tuple[str, str]]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in headers)


def _text(body: CapturedBody | None) -> str:
    return "" if body is None else body.text


def _parsed(text: str) -> Any:
    try:
        return json.loads(text) if len(text) <= _LONGEST_DIFF else text
    except (ValueError, RecursionError):
        return text


def _responses(a: CapturedResponse, b: CapturedResponse) -> list[ChangedPart] | None:
    if a.status is None or b.status is None:
        words = [str(each.status or "none: the app failed") for each in (a, b)]
        return [] if a.status == b.status else [ChangedPart("status", value_diff(*words))]
    content = b"" if b.body is None else b.body.content
    found = compare_responses(a, ReceivedResponse(b.status, b.headers, content))
    return [response_part(each.as_dict()) for each in found[:_MOST_CALLS]]


def value_diff(a: Any, b: Any) -> tuple[DiffLine, ...]:
    r"""Return the difference of two values line by line, with a few lines around each change.

    Example:
        >>> [line.text for line in value_diff("one\ntwo", "one\n2")]
        ['  one', '- two', '+ 2']
    """
    left, right = _lines(a), _lines(b)
    characters = sum(map(len, left)) + sum(map(len, right))
    if characters > _LONGEST_DIFF or len(left) + len(right) > _MOST_DIFF_LINES:
        return tuple(
            DiffLine(kind, f"{sign} {_shortened(lines)}")
            for kind, sign, lines in (("removed", "-", left), ("added", "+", right))
        )
    found: list[DiffLine] = []
    for group in SequenceMatcher(None, left, right).get_grouped_opcodes(_CONTEXT):
        if found:
            found.append(DiffLine("place", "…"))
        for tag, start, stop, first, last in group:
            if tag == "equal":
                found += [DiffLine("same", f"  {line}") for line in left[start:stop]]
                continue
            found += [DiffLine("removed", f"- {line}") for line in left[start:stop]]
            found += [DiffLine("added", f"+ {line}") for line in right[first:last]]
    more = len(found) - _MOST_LINES
    if more > 0:
        found[_MOST_LINES:] = [DiffLine("place", f"… {count(more, 'more line')}")]
    return tuple(found)


def _lines(value: Any) -> list[str]:
    if value is None:
        return []
    if isinstance(value, str):
        return value.splitlines() or [""]
    try:
        return json.dumps(value, ensure_ascii=False, indent=2, default=str).splitlines()
    except RecursionError:
        return ["(a value that is nested too deep to be shown)"]


def _shortened(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    more = len(text) - _LONGEST_SHOWN
    return text if more <= 0 else f"{text[:_LONGEST_SHOWN]}… {more:,} more characters"


def _preview(recording: Recording) -> str:
    request = recording.request or {}
    arguments = request.get("arguments")
    if isinstance(arguments, dict) and "$type" not in arguments:
        return " ".join(arguments_text(arguments).split())[:120]
    value = request.get("message", request.get("messages", ""))
    text = value[:300] if isinstance(value, str) else json.dumps(value, default=str)[:300]
    return " ".join(text.split())[:120]
