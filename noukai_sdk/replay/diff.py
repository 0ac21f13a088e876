"""Compare two cassettes call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .alignment import Input, Pair, align, input_text
from .boundary_recordings import BoundaryRecording
from .lanes import Lane
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


@dataclass(frozen=True)
class AlignedCall:
    """A call of two cassettes, or of one of them.

    Attributes:
        slug, kind: The flow and how it is called.
        index, at: The position in each cassette, from 0; None if it does not have the call.
        a, b: The recordings.
        parts: The parts that differ, with both values; ``order`` if the number of the call does.
    """

    slug: str | None
    kind: str | None
    index: int | None
    at: int | None
    a: Recording | None
    b: Recording | None
    parts: tuple[tuple[str, Any, Any], ...] = ()


def differences(a: Sequence[Recording], b: Sequence[Recording]) -> list[Difference]:
    """Compare two cassettes call by call: those with the same input, or in the same place.

    Returns:
        The differences of each flow and kind, in the order of the calls. Ids, times and durations differ
        between any two runs, so they do not count; nor does the order of calls that overlapped.
    """
    changes = []
    for call in align_calls(a, b):
        position = (call.at if call.index is None else call.index) or 0
        if call.a is None or call.b is None:
            names = (
                None if call.a is None else str(call.a),
                None if call.b is None else str(call.b),
            )
            changes.append(Difference(call.slug, call.kind, position, "call", *names))
        changes += [Difference(call.slug, call.kind, position, *part) for part in call.parts]
    return changes


def align_calls(a: Sequence[Recording], b: Sequence[Recording]) -> list[AlignedCall]:
    """Pair the calls of two cassettes: those with the same input, or in the same place.

    Returns:
        All calls of each flow and kind, in their order, with the parts in which they differ.
    """
    left, right = _lanes(a), _lanes(b)
    aligned = []
    for slug, kind in {**left, **right}:
        ones, others = left.get((slug, kind), []), right.get((slug, kind), [])
        ordered = not any(Lane(slug, kind, calls).unordered for calls in (ones, others))
        pairs, moved = _pairs(ones, others)
        for index, at in pairs:
            one = None if index is None else ones[index]
            other = None if at is None else others[at]
            parts: list[tuple[str, Any, Any]] = []
            if one is not None and other is not None and index is not None and at is not None:
                if ordered and index in moved:
                    parts.append(("order", index + 1, at + 1))
                parts += [part for part in _parts(one, other) if part[1] != part[2]]
            aligned.append(AlignedCall(slug, kind, index, at, one, other, tuple(parts)))
    return aligned


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
    if isinstance(recording, BoundaryRecording):
        raised = recording.boundary.error
        return None if raised is None else f"{raised.get('name')}: {raised.get('message')}"
    error = recording.error
    return None if error is None else {"code": error.code, "message": error.message}


def _events(recording: Recording) -> list[tuple[Any, ...]]:
    return [
        tuple(event.get(name) for name in ("eventType", "stepId", "outputData", "output", "result"))
        for event in recording.events
    ]


def _tools(recording: Recording) -> list[Any]:
    return [(round_.paused.get("toolCalls"), round_.tool_results) for round_ in recording.rounds]
