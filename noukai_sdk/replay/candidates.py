"""The recordings that are nearest to a call that found none, and how they differ from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from pydantic_core import to_jsonable_python

from ..models.reports import Candidate
from ..protocol.call import FlowCall
from .cassette import Cassette
from .fingerprint import INPUT_FIELDS
from .lane import Claim, Lane
from .recording import Recording

_MOST = 3
# Comparing texts is slow, and among many that differ in the same part any three will do.
_MOST_TEXTS = 50


def nearest(cassette: Cassette, call: FlowCall, claim: Claim) -> list[Candidate]:
    """The nearest recordings of the same flow, then the flows of the nearest names: three at most."""
    same = [lane for lane in cassette.lanes() if lane.slug == call.flow.slug]
    same.sort(key=lambda lane: lane.kind != call.kind)
    found = [one for lane in same for one in _of_lane(lane, claim)][:_MOST]
    others = {_title(lane): lane for lane in cassette.lanes() if lane.slug and lane not in same}
    room = _MOST - len(found)
    wanted = f"{call.flow.slug} [{call.kind}]"
    names = get_close_matches(wanted, others, n=room, cutoff=0.0) if room else ()
    return [*found, *(_whole(others[name]) for name in names)]


def differing_parts(recorded: Mapping[str, Any], called: Mapping[str, Any]) -> list[str]:
    """The parts of the input in which a call differs from a recording, as paths.

    Example:
        >>> differing_parts({"parameters": {"level": 1}}, {"parameters": {"level": 2}})
        ['parameters.level']
    """
    return [
        part
        for name in INPUT_FIELDS
        for part in _differences(recorded.get(name), called.get(name), name)
    ]


def _differences(a: Any, b: Any, where: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a and b:
        for name in sorted({*a, *b}):
            yield from _differences(a.get(name), b.get(name), f"{where}.{name}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, f"{where}[{index}]")
    elif type(a) is not type(b) or a != b:
        yield where


def _of_lane(lane: Lane, claim: Claim) -> list[Candidate]:
    probe = to_jsonable_python(claim.probe())
    unplayed = set(lane.unplayed())
    ranked = sorted(
        (
            _candidate(lane, index, index in unplayed, _parts(recording, probe, claim.version))
            for index, recording in enumerate(lane.recordings)
        ),
        key=_distance,
    )
    first = ranked[:_MOST_TEXTS]
    return sorted(first, key=lambda one: (*_distance(one), -_likeness(lane, one, probe)))


def _candidate(
    lane: Lane, index: int, is_unplayed: bool, differs: tuple[str, ...] | None
) -> Candidate:
    return Candidate(
        lane.slug, lane.kind, recorded=1, unplayed=int(is_unplayed), position=index, differs=differs
    )


def _whole(lane: Lane) -> Candidate:
    return Candidate(lane.slug, lane.kind, recorded=len(lane.recordings), unplayed=lane.remaining)


def _title(lane: Lane) -> str:
    return f"{lane.slug} [{lane.kind}]"


def _parts(
    recording: Recording, probe: Mapping[str, Any], version: int | None
) -> tuple[str, ...] | None:
    """What differs; None where the recording does not say what its input was."""
    if recording.request is None:
        return None
    if recording.message_only:
        return tuple(
            _differences(recording.request.get("message"), probe.get("message"), "message")
        )
    parts = differing_parts(recording.request, probe)
    return (*parts, "version") if recording.version != version else tuple(parts)


def _distance(candidate: Candidate) -> tuple[bool, int, bool]:
    differs = candidate.differs
    return differs is None, len(differs or ()), not candidate.unplayed


def _likeness(lane: Lane, candidate: Candidate, probe: Mapping[str, Any]) -> float:
    assert candidate.position is not None  # it is one recording
    request = lane.recordings[candidate.position].request or {}
    a, b = (str(each.get("message", ""))[:1000] for each in (request, probe))
    return SequenceMatcher(None, a, b).quick_ratio()
