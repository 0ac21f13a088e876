"""New recordings and those that a cassette file holds, as one cassette."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from .recording import Recording

Lane = tuple[str | None, str | None]


def merged(
    kept: Sequence[Recording], run: Sequence[Recording], *, replaces: bool = False
) -> list[Recording]:
    """The recordings of a run, then the kept ones that have no part in it.

    Args:
        kept: What the file holds.
        run: In the order of the calls: new recordings, and of the kept ones those that were played.
        replaces: The Nth recording of a flow and kind takes the place of the Nth kept one.
    """
    # By identity: two recordings of the same call are equal.
    played = {id(recording) for recording in run}
    others: Iterable[Recording] = [r for r in kept if id(r) not in played]
    if replaces:
        others = _without(others, Counter(map(_lane, run)))
    return list(_one_clock([*run, *others]))


def _without(recordings: Iterable[Recording], replaced: Counter[Lane]) -> Iterator[Recording]:
    for recording in recordings:
        if replaced[_lane(recording)] > 0:
            replaced[_lane(recording)] -= 1
        else:
            yield recording


def _lane(recording: Recording) -> Lane:
    return recording.kind, recording.slug


def _one_clock(recordings: Sequence[Recording]) -> Iterator[Recording]:
    """Move what was recorded at another time to where it stands now.

    Otherwise calls of two runs would seem to overlap, and not to come one after the other.
    """
    shift, began_last, latest = 0.0, float("-inf"), float("-inf")
    for recording in recordings:
        if recording.started_at is None:
            yield recording
            continue
        if recording.started_at + shift < began_last:
            shift = latest - recording.started_at
        moved = _moved(recording, shift)
        assert moved.started_at is not None  # as recording's
        began_last = moved.started_at
        latest = max(latest, moved.completed_at or began_last)
        yield moved


def _moved(recording: Recording, shift: float) -> Recording:
    if not shift or recording.started_at is None:
        return recording
    ended = recording.completed_at
    return recording.model_copy(
        update={
            "started_at": round(recording.started_at + shift, 6),
            "completed_at": None if ended is None else round(ended + shift, 6),
        }
    )
