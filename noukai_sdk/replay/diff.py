"""Compare two cassettes call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .alignment import Input, Pair, align, input_text
from .cassette import Lane
from .recording import Recording, differing_fields, message_fingerprint

Key = tuple[str | None, str | None]


@dataclass(frozen=True)
class Difference:
    """One difference between two cassettes.

    Attributes:
        slug, kind, position: The call; positions count from 0, in ``a`` unless only ``b`` has the call.
        what: The part that differs: ``input.<field>``, ``result``, ``error``, ``events``,
            ``tools``, ``call`` if only one side has the call, or ``order`` if its number differs.
        a, b: The two values, None if a side has none.
    """

    slug: str | None
    kind: str | None
    position: int
    what: str
    a: Any
    b: Any

    def as_dict(self) -> dict[str, Any]:
        """Return the difference as plain JSON values."""
        return asdict(self)


def differences(a: Sequence[Recording], b: Sequence[Recording]) -> list[Difference]:
    """Compare two cassettes call by call: those with the same input, or in the same place.

    Returns:
        The differences of each flow and kind, in the order of the calls. Ids, times and durations differ
        between any two runs, so they do not count; nor does the order of calls that overlapped.
    """
    left, right = _lanes(a), _lanes(b)
    changes = []
    for slug, kind in {**left, **right}:
        ones, others = left.get((slug, kind), []), right.get((slug, kind), [])
        ordered = not any(Lane(slug, kind, calls).unordered for calls in (ones, others))
        pairs, moved = _pairs(ones, others)
        for index, at in pairs:
            if index is None or at is None:
                names = (
                    None if index is None else str(ones[index]),
                    None if at is None else str(others[at]),
                )
                position = at if index is None else index
                changes.append(Difference(slug, kind, position or 0, "call", *names))
                continue
            if ordered and index in moved:
                changes.append(Difference(slug, kind, index, "order", index + 1, at + 1))
            changes += [
                Difference(slug, kind, index, part, value, other_value)
                for part, value, other_value in _parts(ones[index], others[at])
                if value != other_value
            ]
    return changes


def _pairs(a: Sequence[Recording], b: Sequence[Recording]) -> tuple[list[Pair], set[int]]:
    """Pair the calls of one flow; return the pairs, and the calls of ``a`` that are elsewhere in ``b``."""
    message_only = any(recording.message_only for recording in (*a, *b))
    sides = [[_input(each, message_only=message_only) for each in side] for side in (a, b)]
    pairs = align(*sides)
    free: dict[Any, list[int]] = {}
    for index, at in reversed(pairs):
        if index is None and at is not None:
            free.setdefault(sides[1][at].key, []).append(at)
    moved = {}
    for index, at in pairs:
        if at is None and index is not None and free.get(sides[0][index].key):
            moved[index] = free[sides[0][index].key].pop()
    taken = {*moved.values()}
    merged = [
        (index, at if index is None else moved.get(index, at))
        for index, at in pairs
        if index is not None or at not in taken
    ]
    return merged, {*moved}


def _input(recording: Recording, *, message_only: bool) -> Input:
    request = recording.request
    if request is None:
        return Input(None)
    key = message_fingerprint(request) if message_only else recording.fingerprint
    return Input(key, input_text(request))


def _lanes(recordings: Sequence[Recording]) -> dict[Key, list[Recording]]:
    lanes: dict[Key, list[Recording]] = {}
    for recording in recordings:
        lanes.setdefault((recording.slug, recording.kind), []).append(recording)
    return lanes


def _parts(a: Recording, b: Recording) -> Iterator[tuple[str, Any, Any]]:
    if a.request is not None and b.request is not None:
        for name in differing_fields(a.request, b.request):
            yield f"input.{name}", a.request.get(name), b.request.get(name)
    yield "version", a.version, b.version
    yield "result", a.output, b.output
    yield "error", _error(a), _error(b)
    if a.kind == "step":  # not every source keeps the events of the other kinds
        yield "events", _events(a), _events(b)
    yield "tools", _tools(a), _tools(b)


def _error(recording: Recording) -> Any:
    error = recording.error
    return None if error is None else {"code": error.code, "message": error.message}


def _events(recording: Recording) -> list[tuple[Any, ...]]:
    return [
        tuple(event.get(name) for name in ("eventType", "stepId", "outputData", "output", "result"))
        for event in recording.events
    ]


def _tools(recording: Recording) -> list[Any]:
    return [(round_.paused.get("toolCalls"), round_.tool_results) for round_ in recording.rounds]
