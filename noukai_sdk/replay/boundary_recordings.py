"""The calls of recorded functions as recordings: the engine serves them by the rules of flow calls."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..models.boundaries import Boundary
from ..protocol.call import FlowCall, FlowRef, Service
from .lanes import Lane
from .recording import Recording, seconds_of

# Calls of recorded functions pass the engine as flow calls do, and never leave the process.
_NO_SERVICE = Service("", {}, 0.0, 0, None, spans=None)


@dataclass
class BoundaryRecording(Recording):
    """One call of a recorded function.

    Attributes:
        boundary: The call, with its encoded values.
    """

    boundary: Boundary = field(default_factory=lambda: Boundary(name="", position=0))

    @property
    def output(self) -> Any:
        """The encoded result, or the items of a generator."""
        return self.boundary.result if self.boundary.items is None else self.boundary.items

    @property
    def has_ended(self) -> bool:
        """Whether the function returned or raised while its session lasted."""
        return self.boundary.completed_at is not None


class BoundaryLane(Lane):
    """The calls of one recorded function. Those that run in a replay too need not be made."""

    @property
    def name(self) -> str:
        """Its calls, for messages."""
        return f"calls of the recorded function {self.slug!r}"

    def unplayed(self) -> list[int]:
        """Return the positions of the recordings that no call has taken, in order."""
        return [index for index in super().unplayed() if not _is_live(self.recordings[index])]

    @property
    def remaining(self) -> int:
        """How many recordings no call has taken."""
        return len(self.unplayed())


def boundary_recordings(boundaries: Iterable[Boundary]) -> list[BoundaryRecording]:
    """Return the recordings of boundaries, in their order."""
    return [_recording(each) for each in boundaries]


def boundary_lanes(recordings: Iterable[BoundaryRecording]) -> dict[str, BoundaryLane]:
    """Return a lane for each name."""
    by_name: dict[str, list[BoundaryRecording]] = {}
    for recording in recordings:
        by_name.setdefault(recording.boundary.name, []).append(recording)
    return {name: BoundaryLane(name, "recorded", group) for name, group in by_name.items()}


def renumbered(boundaries: Iterable[Boundary]) -> list[Boundary]:
    """Return the boundaries with their positions among the calls of each name."""
    counts: Counter[str] = Counter()
    result = []
    for each in boundaries:
        position = counts[each.name]
        counts[each.name] += 1
        same = each.position == position
        result.append(each if same else each.model_copy(update={"position": position}))
    return result


def timed(recordings: Iterable[BoundaryRecording]) -> list[Recording]:
    """Return the recordings whose times a replay keeps: not those of functions that run in it."""
    return [each for each in recordings if not each.boundary.live]


def boundary_call(name: str, arguments: Any) -> FlowCall:
    """Return the call of a recorded function as the engine knows calls."""
    return FlowCall("recorded", FlowRef("", "", name), _NO_SERVICE, request_of(arguments))


def request_of(arguments: Any) -> Mapping[str, Any]:
    """Return encoded arguments in the form of a request."""
    return {"arguments": arguments}


def _is_live(recording: Recording) -> bool:
    return isinstance(recording, BoundaryRecording) and recording.boundary.live


def _passes(boundary: Boundary) -> float | None:
    if boundary.items is not None:
        return None
    return math.inf if boundary.passes is None else boundary.passes


def _recording(boundary: Boundary) -> BoundaryRecording:
    return BoundaryRecording(
        slug=boundary.name,
        kind="recorded",
        request=dict(request_of(boundary.arguments)),
        started_at=seconds_of(boundary.started_at),
        completed_at=seconds_of(boundary.completed_at),
        chunks=boundary.chunks,
        abandoned=boundary.abandoned,
        passes=_passes(boundary),
        unavailable=boundary.unavailable,
        boundary=boundary,
    )
