"""Compare two cassettes call by call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

from .recording import Recording, differing_fields

Key = tuple[str | None, str | None]


@dataclass(frozen=True)
class Difference:
    """One difference between the Nth call of a flow in two cassettes.

    Attributes:
        slug, kind, position: The call; positions count from 0.
        what: The part that differs: ``input.<field>``, ``result``, ``error``, ``events``,
            ``tools``, or ``call`` if only one side has the call.
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
    """Compare two cassettes call by call: the Nth call of a flow and kind with the Nth.

    Returns:
        The differences in the order of the calls of ``a``, then the calls that only ``b`` has. Ids,
        times and durations differ between any two runs, so they do not count.
    """
    left, right = _lanes(a), _lanes(b)
    changes = []
    for slug, kind in {**left, **right}:
        pairs = zip_longest(left.get((slug, kind), ()), right.get((slug, kind), ()))
        for position, (one, other) in enumerate(pairs):
            if one is None or other is None:
                names = (one and str(one), other and str(other))
                changes.append(Difference(slug, kind, position, "call", *names))
                continue
            changes += [
                Difference(slug, kind, position, part, value, other_value)
                for part, value, other_value in _parts(one, other)
                if value != other_value
            ]
    return changes


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
