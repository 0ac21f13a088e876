"""A cassette: recordings in order, and the lanes that calls find them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..protocol.call import FlowCall
from .lane import Lane
from .recording import Recording


class Cassette:
    """The recordings of one session, each to be played once.

    Args:
        session_id: The session that they were recorded in.
        recordings: In the order in which the calls began.
    """

    def __init__(self, session_id: str | None, recordings: Sequence[Recording]) -> None:
        self.session_id = session_id
        self.recordings = recordings
        # Where one recording of a flow does not say how it was called, the kinds of the others
        # cannot be counted apart either: all of them answer any kind of call, in their order.
        unsaid = {recording.slug for recording in recordings if recording.kind is None}
        grouped: dict[tuple[str | None, str | None], list[Recording]] = {}
        for recording in recordings:
            kind = None if recording.slug in unsaid else recording.kind
            grouped.setdefault((kind, recording.slug), []).append(recording)
        self._lanes = {key: Lane(key[1], key[0], group) for key, group in grouped.items()}

    def lane_for(self, call: FlowCall) -> Lane:
        """Where the recordings for ``call`` are; an empty lane where there are none."""
        slug = call.flow.slug
        lane = self._lanes.get((call.kind, slug)) or self._lanes.get((None, slug))
        if lane is None:
            lane = self._lanes[call.kind, slug] = Lane(slug, call.kind, ())
        return lane

    def unplayed(self) -> Iterator[tuple[Lane, int]]:
        """What is left, lane by lane in the order of their first recording."""
        for lane in self._lanes.values():
            for position in lane.unplayed():
                yield lane, position

    @property
    def remaining(self) -> int:
        """How many recordings are left."""
        return sum(lane.remaining for lane in self._lanes.values())

    def lanes(self) -> list[Lane]:
        """All lanes that hold recordings."""
        return [lane for lane in self._lanes.values() if lane.recordings]
