"""Merge what the client reported of a session into the recordings that the service has.

Outcomes add calls that never became runs, and say which runs were given up or ended with an error for their
caller. The parent of a fork adds the calls that the fork was served.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from ..masking.values import REDACTED
from ..models.boundaries import Boundary
from ..models.events import EVENT_CLASSES
from ..models.sessions import EditedCall, ForkParent, Outcome
from ..protocol.call import FLOW_KINDS
from .recording import Recording, fingerprint, message_fingerprint, seconds_of
from .redaction import ServiceRedactor

# Sent by gateways too, when the service may have begun a run.
_MAYBE_BEGUN = frozenset({408, 500, 502, 503, 504})
# By so many seconds two parts of a fork overlap, if their calls did in its parent.
_OVERLAP = 1e-5

_Lane = tuple[str | None, str | None, str | None, str | None]
_Chunks = tuple[tuple[float, int], ...]


def with_outcomes(recordings: Sequence[Recording], outcomes: Iterable[Outcome]) -> list[Recording]:
    """Return the recordings as the caller knew them.

    A run is found by its id, else by the position and the input of its call.
    """
    outcomes = list(outcomes)
    merged = _on_clock_of_caller(recordings, outcomes)
    known = {each.execution_id: each for each in merged if each.execution_id is not None}
    others: dict[_Lane, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.kind not in FLOW_KINDS or outcome.completed:
            continue  # of a later version, or only its times are told
        run = known.pop(outcome.execution_id, None) if outcome.execution_id else None
        if run is not None:
            _replace(merged, run, _ended(run, outcome))
        else:
            call = outcome.call
            others[outcome.kind, call.org, call.project, call.slug].append(outcome)
    for lane, ended in others.items():
        _merge_lane(merged, lane, sorted(ended, key=lambda each: each.position), set(known))
    return merged


def _on_clock_of_caller(
    recordings: Sequence[Recording], outcomes: Sequence[Outcome]
) -> list[Recording]:
    """Return the recordings with the caller's times, and in the order of its calls, if it told them.

    Calls that overlapped reach the service in another order than they were made in, and the responses
    come in another order than the runs end in, if they are close together.
    """
    if not any(outcome.completed or outcome.chunks for outcome in outcomes):
        return list(recordings)
    told = {each.execution_id: each for each in outcomes if each.execution_id is not None}
    times_of = {
        run: (seconds_of(each.started_at), seconds_of(each.completed_at))
        for run, each in told.items()
    }
    # The caller's clock is ahead by so much. Runs that it does not tell of are shifted like the others.
    offsets = [
        began - run.started_at
        for run in recordings
        if run.started_at is not None
        and (began := times_of.get(run.execution_id or "", (None, None))[0]) is not None
    ]
    offset = offsets[0] if offsets else 0.0
    # The request that was fastest tells best how far the clocks differ: for what came within a run.
    clock = max(offsets, default=0.0)
    result: list[Recording] = []
    for run in recordings:
        began, ended = times_of.get(run.execution_id or "", (None, None))
        if began is not None and run.started_at is not None:
            offset = began - run.started_at
        start = run.started_at and run.started_at + offset
        end = run.completed_at and (ended or run.completed_at + offset)
        chunks = tuple((round(at + clock - offset, 6), count) for at, count in run.chunks)
        outcome = told.get(run.execution_id or "")
        if outcome is not None:
            chunks = _as_they_arrived(run, outcome, chunks)
        result.append(replace(run, started_at=start, completed_at=end, chunks=chunks))
    if all(run.started_at is not None for run in result):
        result.sort(key=lambda run: run.started_at or 0.0)
    return result


def before_boundaries(
    recordings: list[Recording], outcomes: Iterable[Outcome], boundaries: Iterable[Boundary]
) -> list[Recording]:
    """Return the recordings with those first that ended before any recorded function was called.

    From its first recorded function on, a caller tells the times of its calls. The others have those of the
    service, whose clock may differ.
    """
    starts = [seconds_of(each.started_at) for each in boundaries]
    first = min((start for start in starts if start is not None), default=None)
    told = {outcome.execution_id for outcome in outcomes}
    untold = [
        each
        for each in recordings
        if each.execution_id not in told and each.kind != "job" and each.completed_at is not None
    ]
    late = max((each.completed_at or 0.0 for each in untold), default=0.0) - (first or 0.0)
    if first is None or late <= 0:
        return recordings
    early = {id(each) for each in untold}
    return [_shifted(each, -late - _OVERLAP) if id(each) in early else each for each in recordings]


def _as_they_arrived(run: Recording, outcome: Outcome, chunks: _Chunks) -> _Chunks:
    """Return the times of a stream's events as the caller told them.

    What arrived after its reader had left has the times of the service, which are in ``chunks``.
    """
    known = sum(_is_known(event) for event in run.events)
    arrived = sum(count for _, count in outcome.chunks)
    if not outcome.chunks or arrived > known:
        return chunks
    later = _without_first(chunks, arrived)
    result: list[tuple[float, int]] = []
    latest = 0.0
    for at, count in (*outcome.chunks, *later):
        latest = max(latest, at)  # a clock can be set back
        result.append((latest, count))
    return tuple(result)


def _without_first(chunks: _Chunks, count: int) -> _Chunks:
    """Return the chunks without their first ``count`` events."""
    left: list[tuple[float, int]] = []
    for at, events in chunks:
        if events > count:
            left.append((at, events - count))
        count = max(0, count - events)
    return tuple(left)


def _only_first(chunks: _Chunks, count: int) -> _Chunks:
    """Return the chunks with their first ``count`` events."""
    first: list[tuple[float, int]] = []
    for at, events in chunks:
        if count <= 0:
            break
        first.append((at, min(events, count)))
        count -= events
    return tuple(first)


def has_masked_calls(outcomes: Iterable[Outcome | EditedCall]) -> bool:
    """Return whether secrets were removed from a call that only the client may tell of."""
    return any(REDACTED in str(outcome.call.request) for outcome in outcomes)


def with_parent(
    own: Sequence[Recording], parent: Sequence[Recording], link: ForkParent
) -> list[Recording]:
    """Return the recordings of a fork: its own, and those that it was served, in the fork's order.

    Args:
        own: The live calls of the fork.
        parent: The recordings of its parent.
        link: Which of them were served.
    """
    by_id = {each.execution_id: each for each in parent if each.execution_id is not None}
    parts: list[tuple[bool, list[Recording]]] = []

    def append(is_served: bool, recordings: Sequence[Recording]) -> None:
        if recordings and (not parts or parts[-1][0] != is_served):
            parts.append((is_served, []))
        if recordings:
            parts[-1][1].extend(recordings)

    taken = count = 0
    served: set[int] = set()
    for call in sorted(link.served, key=lambda each: each.order):
        recording = by_id.get(call.execution_id) if call.execution_id else None
        if recording is None and call.execution_id is None and 0 <= call.index < len(parent):
            recording = parent[call.index]
        if recording is None:  # another key can read it
            count += 1
            continue
        live = max(0, min(call.order - count, len(own) - taken))
        append(False, own[taken : taken + live])
        append(True, [recording])
        served.add(id(recording))
        taken += live
        count += live + 1
    append(False, own[taken:])
    return _one_after_the_other(parts, [each for each in parent if id(each) not in served])


def _merge_lane(
    merged: list[Recording], lane: _Lane, outcomes: Sequence[Outcome], free: set[str]
) -> None:
    """Merge the outcomes of one flow and kind that name no known run, in the order of their calls.

    ``free`` are the ids of the runs that no outcome has.
    """
    kind, org, project, slug = lane
    # Without organisation and project, if the source does not tell them.
    lanes = [(org, project, slug), (None, None, slug)]
    runs = [
        each
        for each in merged
        if each.kind in (kind, None) and (each.org, each.project, each.slug) in lanes
    ]
    have_run = _have_run(runs, outcomes)
    for outcome in outcomes:
        place = min(outcome.position, len(runs))
        run = None
        if _may_have_run(outcome) and have_run is not False:
            candidates = [each if each.execution_id in free else None for each in runs]
            run = _run_of(outcome, candidates, place, is_there=have_run is True)
        if run is not None and run.execution_id is not None:
            free.remove(run.execution_id)
            ended = _ended(run, outcome)
            _replace(merged, run, ended)
            _replace(runs, run, ended)
            continue
        recording = _recording_of(outcome)
        _insert(merged, recording, runs[:place], runs[place:])
        runs.insert(place, recording)


def _have_run(runs: Sequence[Recording], outcomes: Sequence[Outcome]) -> bool | None:
    """Return whether the calls that may have begun a run have one here: all, none, or it is not known."""
    calls = max((outcome.calls or 0 for outcome in outcomes), default=0)
    unclear = sum(map(_may_have_run, outcomes))
    missing = calls - len(runs) - (len(outcomes) - unclear)
    if not calls or missing not in (0, unclear):
        return None
    return missing == 0


def _may_have_run(outcome: Outcome) -> bool:
    error = outcome.error
    if error is None:
        return True  # it was given up
    if error.status_code is None:
        return error.details.get("request_sent") is not False
    return error.status_code in _MAYBE_BEGUN or error.code == "INVALID_RESPONSE"


def _run_of(
    outcome: Outcome, runs: Sequence[Recording | None], place: int, *, is_there: bool
) -> Recording | None:
    """Return the run of an outcome that names none: that of its input, the nearest to its position.

    Without knowing that it is there, only a run that began while the caller waited.
    """
    request = ServiceRedactor().request(outcome.call.request)
    candidates = []
    for index, run in enumerate(runs):
        if run is None:
            continue
        if (is_there or _began_within(run, outcome)) and _has_input(
            run, request, outcome.call.version
        ):
            candidates.append((abs(index - place), index))
    return runs[min(candidates)[1]] if candidates else None


def _began_within(run: Recording, outcome: Outcome) -> bool:
    """Return whether the run began while the caller waited, by clocks that agree."""
    began, ended = seconds_of(outcome.started_at), seconds_of(outcome.completed_at)
    if began is None or ended is None or run.started_at is None:
        return False
    return began <= run.started_at <= ended


def _has_input(run: Recording, request: dict[str, Any], version: int | None) -> bool:
    if run.request is None or not request:
        return True  # captured without snapshots
    if run.message_only:
        return run.fingerprint == message_fingerprint(request)
    return fingerprint(ServiceRedactor().request(run.request), run.version) == fingerprint(
        request, version
    )


def _ended(run: Recording, outcome: Outcome) -> Recording:
    """Return the recording of a run that ended for its caller as the outcome says."""
    if outcome.error is None and not outcome.abandoned:
        # The reader left between two events. A run that went on is served as it is, for code that now
        # reads on. The stream of a run that was stopped ends where it did.
        return replace(run, abandoned=False, error=None, closed=True)
    changes: dict[str, Any] = {
        "result": None,
        "error": outcome.error,
        "abandoned": outcome.abandoned,
        "closed": False,
    }
    began, ended = seconds_of(outcome.started_at), seconds_of(outcome.completed_at)
    if _began_within(run, outcome):
        changes["completed_at"] = ended
    elif began is not None and ended is not None and run.started_at is not None:
        changes["completed_at"] = run.started_at + max(0.0, ended - began)
    if outcome.seen is not None and run.kind == "step":
        changes["events"] = _first_events(run.events, outcome.seen)
        changes["chunks"] = _only_first(run.chunks, outcome.seen)
    elif outcome.seen is not None:
        changes["rounds"] = run.rounds[: outcome.seen]
    return replace(run, **changes)


def _first_events(events: Sequence[dict[str, Any]], count: int) -> tuple[dict[str, Any], ...]:
    """Return the events up to the last of so many that clients know."""
    known = [index for index, event in enumerate(events) if _is_known(event)]
    return tuple(events[: known[count - 1] + 1 if count <= len(known) else None] if count else ())


def _is_known(event: dict[str, Any]) -> bool:
    """Return whether clients know the type of an event, which may be of any JSON type."""
    return str(event.get("eventType")) in EVENT_CLASSES


def _recording_of(outcome: Outcome) -> Recording:
    """Return the recording of a call that never became a run."""
    call = outcome.call
    return Recording(
        slug=call.slug,
        kind=next(kind for kind in FLOW_KINDS if kind == outcome.kind),
        org=call.org,
        project=call.project,
        version=call.version,
        request=call.request or None,  # a flow without capture keeps none
        started_at=seconds_of(outcome.started_at),
        completed_at=seconds_of(outcome.completed_at),
        error=outcome.error,
        abandoned=outcome.abandoned,
    )


def _insert(
    merged: list[Recording],
    recording: Recording,
    before: Sequence[Recording],
    after: Sequence[Recording],
) -> None:
    """Insert a recording between those of its flow, and there by the time that it began."""
    first = _index(merged, before[-1]) + 1 if before else 0
    last = _index(merged, after[0]) if after else len(merged)
    began = recording.started_at or 0.0
    while first < last and (merged[first].started_at or 0.0) <= began:
        first += 1
    merged.insert(first, recording)


def _index(recordings: Sequence[Recording], recording: Recording) -> int:
    # By identity: two recordings of the same call are equal.
    return next(index for index, each in enumerate(recordings) if each is recording)


def _replace(recordings: list[Recording], old: Recording, new: Recording) -> None:
    recordings[_index(recordings, old)] = new


def _one_after_the_other(
    parts: Sequence[tuple[bool, list[Recording]]], unserved: Sequence[Recording]
) -> list[Recording]:
    """Shift the parts of a fork, whose clocks differ, so that each begins when the one before has ended.

    What overlapped within a part still does. If the served calls overlapped others in the parent, the
    live calls after them overlap them by a moment, so that they complete in this order.
    """
    result: list[Recording] = []
    latest = float("-inf")
    for is_served, part in parts:
        starts = [each.started_at for each in part if each.started_at is not None]
        if not starts:
            result.extend(part)
            continue
        shift = max(0.0, latest - min(starts))
        result.extend(_shifted(each, shift) if shift else each for each in part)
        end = max(each.completed_at or each.started_at or latest for each in part)
        latest = max(latest, end + shift)
        if is_served and any(
            each.started_at is not None
            and each.started_at < end
            and (each.completed_at or each.started_at) > min(starts)
            for each in unserved
        ):
            latest -= _OVERLAP
    return result


def _shifted(recording: Recording, seconds: float) -> Recording:
    start, end = (
        None if at is None else round(at + seconds, 6)
        for at in (recording.started_at, recording.completed_at)
    )
    return replace(recording, started_at=start, completed_at=end)
