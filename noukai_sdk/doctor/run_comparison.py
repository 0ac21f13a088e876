"""Compare two runs: the inputs of their calls and their responses."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..adapters.redacted_bodies import BodyRedactor
from ..masking.values import Masker
from ..models.exchanges import CapturedBody, CapturedResponse
from ..models.reports import printable
from ..replay.drift import changes_between
from ..replay.recording import INPUT_FIELDS
from ..replay.redaction import Redactor
from ..replay.response_diff import ReceivedResponse, compare_responses, without_ignored
from .observation import MadeCall, Observation, Response

_FIELDS = (*INPUT_FIELDS, "version", "headers")
_SHOWN = 300
_ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}")


@dataclass(frozen=True)
class Change:
    """One place in which two runs differ.

    Attributes:
        place: What names it: the same in all comparisons with one run.
        where: The place for a reader, such as ``message of call 1 (acme/spelling/grade-3)``.
        before, after: The two values as texts, with secrets masked.
        site: The line that made the call, None for the response.
    """

    place: tuple[Hashable, ...]
    where: str
    before: str
    after: str
    site: tuple[str, int] | None = None

    @property
    def area(self) -> Hashable:
        """The flow of the call, or the response."""
        return self.place[:2] if self.place[0] == "call" else self.place[0]

    @property
    def is_address(self) -> bool:
        """Whether only the addresses of objects differ."""
        before, after = (_ADDRESS.sub("", text) for text in (self.before, self.after))
        return before == after

    def as_dict(self, *, values: bool = True) -> dict[str, Any]:
        """Return the change as JSON values, with or without the values that differ."""
        where = {"where": self.where}
        return {**where, "before": self.before, "after": self.after} if values else where


def changes_of(one: Observation, other: Observation, ignore: Sequence[str] = ()) -> list[Change]:
    """Return the places in which ``other`` differs from ``one``.

    Calls to one flow are compared by position, or by input if they overlapped: as a replay does.
    """
    lanes = list(dict.fromkeys(call.lane for call in (*one.calls, *other.calls)))
    numbers = {id(call): number for number, call in enumerate(one.calls, 1)}
    found: list[Change] = []
    for lane in lanes:
        calls = [call for call in one.calls if call.lane == lane]
        others = [call for call in other.calls if call.lane == lane]
        found += _changes_in_lane(lane[0], calls, others, numbers)
    if one.refusal or other.refusal:
        if not (one.refusal and other.refusal):
            before, after = (_short(each or "served") for each in (one.refusal, other.refusal))
            found.append(Change(("replay",), "whether the replay has all calls", before, after))
        return found
    if (one.failure is None) != (other.failure is None):
        before, after = (_short(each or "no exception") for each in (one.failure, other.failure))
        found.append(Change(("failure",), "whether it fails", before, after))
    if one.response is not None and other.response is not None:
        found += _changes_in_response(one.response, other.response, ignore)
    return found


def live_changes(one: Observation, other: Observation, ignore: Sequence[str] = ()) -> list[Change]:
    """Return what differs between two live runs through no fault of the models.

    The inputs of calls count up to the first call with another output, and the response if there is none.
    """
    same = _same_outputs(one.calls, other.calls)
    if same is None:
        return changes_of(one, other, ignore)
    return changes_of(_cut(one, same), _cut(other, same))


def _same_outputs(calls: Sequence[MadeCall], others: Sequence[MadeCall]) -> int | None:
    """Return the number of the first call whose output differs, None if there is none."""
    for number, (call, other) in enumerate(zip(calls, others, strict=False)):
        if call.lane != other.lane or call.input != other.input or call.output != other.output:
            return number
    return None


def _cut(observation: Observation, last: int) -> Observation:
    """Return the calls up to this one, without the response."""
    return replace(
        observation, calls=observation.calls[: last + 1], response=None, failure=None, refusal=None
    )


def _changes_in_lane(
    name: str, calls: list[MadeCall], others: list[MadeCall], numbers: dict[int, int]
) -> Iterator[Change]:
    lane = (calls or others)[0].lane
    if any(call.overlapped for call in (*calls, *others)):
        # Their order says nothing.
        known = Counter(_canonical(call.input) for call in others)
        left: list[MadeCall] = []
        for call in calls:
            key = _canonical(call.input)
            if known[key]:
                known[key] -= 1
            else:
                left.append(call)
        new: list[MadeCall] = []
        for call in reversed(others):
            key = _canonical(call.input)
            if known[key]:
                known[key] -= 1
                new.insert(0, call)
        pairs = list(zip(left, new, strict=False))
        removed, added = left[len(pairs) :], new[len(pairs) :]
    else:
        pairs = list(zip(calls, others, strict=False))
        removed, added = calls[len(pairs) :], others[len(pairs) :]
    place: tuple[Hashable, ...]
    for call, now in pairs:
        number = numbers[id(call)]
        for change in changes_between(call.input, now.input, _FIELDS, Redactor()):
            where = f"{change.path} of call {number} ({printable(name, 80)})"
            place = ("call", lane, number, change.path)
            before, after = _different_parts(change.recorded, change.sent)
            yield Change(place, where, before, after, call.site)
    for what, some in (("removed", removed), ("added", added)):
        for call in some:
            where = f"a call to {printable(name, 80)}"
            place = ("call", lane, what)
            texts = (_short(call.input), "not made")
            before, after = texts if what == "removed" else texts[::-1]
            yield Change(place, where, before, after, call.site)


def _changes_in_response(one: Response, other: Response, ignore: Sequence[str]) -> Iterator[Change]:
    captured = CapturedResponse(status=one.status, headers=tuple(one.headers), body=_masked(one))
    received = ReceivedResponse(other.status, other.headers, other.content)
    masker = Masker()
    for each in without_ignored(compare_responses(captured, received), ignore):
        before, after = _different_parts(masker.value(each.captured), masker.value(each.received))
        yield Change(("response", each.where), f"response, {each.where}", before, after)


def _masked(response: Response) -> CapturedBody | None:
    """Return the body as a capture holds it: what is masked there matches anything in a replay."""
    content = response.content
    if not content:
        return CapturedBody()
    kind = next((text for name, text in response.headers if name.lower() == "content-type"), "")
    clean = BodyRedactor(Masker()).body(content, kind, False)
    if clean is None:
        return None
    return CapturedBody(text=clean[0], encoding=clean[1], size=len(content), truncated=clean[2])


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _different_parts(before: Any, after: Any) -> tuple[str, str]:
    """Return two values as short texts that show where they differ."""
    one, other = (
        each if isinstance(each, str) else json.dumps(each, ensure_ascii=False, default=str)
        for each in (before, after)
    )
    start = 0
    while start < min(len(one), len(other)) and one[start] == other[start]:
        start += 1
    first = max(0, start - 40)
    lead = "…" if first else ""
    return _short(lead + one[first:]), _short(lead + other[first:])


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return printable(text, _SHOWN)
