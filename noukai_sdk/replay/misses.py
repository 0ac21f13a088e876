"""Explain a call that has no recording: the error, and the recordings nearest to the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher, get_close_matches
from typing import Any

from pydantic_core import to_jsonable_python

from ..errors import ReplayMissError
from ..models.reports import Candidate, ReplayReport
from ..protocol.call import FlowCall
from .cassette import Cassette, Claim, Lane
from .recording import INPUT_FIELDS

_MOST = 3
# Comparing texts is slow, and among many that differ in the same part any three will do.
_MOST_TEXTS = 50
_METHODS = {"execute": "execute()", "step": "steps() or events()", "job": "execute_async()"}


def miss(
    cassette: Cassette, call: FlowCall, claim: Claim, report: ReplayReport, reason: str | None
) -> ReplayMissError:
    """Return the error for ``call``: the call, the cassette's contents, the probable reason."""
    lane = claim.lane
    reason = reason or _reason(cassette, call, claim)
    candidates = nearest(cassette, call, claim)
    at = f" at {claim.site}" if claim.site else ""
    names = f" Nearest: {'; '.join(map(str, candidates))}." if candidates else ""
    return ReplayMissError(
        f"no recording answers {call.kind} call {claim.position + 1} of flow "
        f"{call.flow.slug!r}{at}: the cassette holds {len(lane.recordings)} for it, "
        f"{cassette.remaining} of {len(cassette.recordings)} are unplayed. {reason}{names}",
        slug=call.flow.slug,
        kind=call.kind,
        position=claim.position,
        recorded=len(lane.recordings),
        remaining=cassette.remaining,
        candidates=candidates,
        reason=reason,
        call_site=claim.site,
        report=report,
    )


def _reason(cassette: Cassette, call: FlowCall, claim: Claim) -> str:
    slug = call.flow.slug
    if claim.lane.recordings:
        return "The code calls this flow more often than when it was recorded."
    if not cassette.recordings:
        return "The session holds no calls: it was recorded elsewhere, or is not complete yet."
    kinds = {lane.kind for lane in cassette.lanes() if lane.slug == slug and lane.kind}
    if kinds:
        recorded = ", ".join(_METHODS[kind] for kind in sorted(kinds))
        return f"The flow was recorded through {recorded}, and is called another way now."
    if any(lane.slug is None for lane in cassette.lanes()):
        return "A flow of this session was deleted since, and its recordings lost their name."
    return (
        "The code calls a flow that it did not call when it was recorded; or the service refused the "
        "call then, which a session does not record."
    )


def nearest(cassette: Cassette, call: FlowCall, claim: Claim) -> list[Candidate]:
    """Return at most three candidates: recordings of the same flow, then flows of similar names."""
    lanes = cassette.lanes()
    same = [lane for lane in lanes if lane.slug == call.flow.slug]
    same.sort(key=lambda lane: lane.kind != call.kind)
    candidates = [each for lane in same for each in _nearest_in(lane, claim)][:_MOST]
    others = {
        f"{lane.slug} [{lane.kind}]": lane for lane in lanes if lane.slug and lane not in same
    }
    free = _MOST - len(candidates)
    name = f"{call.flow.slug} [{call.kind}]"
    for similar in get_close_matches(name, others, n=free, cutoff=0.0) if free else ():
        lane = others[similar]
        candidates.append(
            Candidate(lane.slug, lane.kind, len(lane.recordings), unplayed=lane.remaining)
        )
    return candidates


def differing_parts(recorded: Mapping[str, Any], called: Mapping[str, Any]) -> list[str]:
    """Return the parts of the input in which a call differs from a recording, as paths.

    Example:
        >>> differing_parts({"parameters": {"level": 1}}, {"parameters": {"level": 2}})
        ['parameters.level']
    """
    return [
        part
        for name in INPUT_FIELDS
        for part in _differences(recorded.get(name), called.get(name), name)
    ]


def _differences(a: Any, b: Any, path: str) -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict) and a and b:
        for name in sorted({*a, *b}):
            yield from _differences(a.get(name), b.get(name), f"{path}.{name}")
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _differences(one, other, f"{path}[{index}]")
    elif type(a) is not type(b) or a != b:
        yield path


def _nearest_in(lane: Lane, claim: Claim) -> list[Candidate]:
    """Return the recordings of one lane, those that differ in the fewest parts first."""
    request = to_jsonable_python(claim.redacted_request())
    unplayed = set(lane.unplayed())
    candidates = []
    for index, recording in enumerate(lane.recordings):
        differs: tuple[str, ...] | None = None
        if recording.request is not None and recording.message_only:
            same = recording.request.get("message") == request.get("message")
            differs = () if same else ("message",)
        elif recording.request is not None:
            differs = tuple(differing_parts(recording.request, request))
            if recording.version != claim.version:
                differs = (*differs, "version")
        candidates.append(
            Candidate(lane.slug, lane.kind, 1, int(index in unplayed), index, differs)
        )

    def distance(candidate: Candidate) -> tuple[bool, int, bool]:
        parts = candidate.differs
        return parts is None, len(parts or ()), not candidate.unplayed

    def likeness(candidate: Candidate) -> float:
        assert candidate.position is not None  # it is a single recording
        recorded = lane.recordings[candidate.position].request or {}
        a, b = (str(each.get("message", ""))[:1000] for each in (recorded, request))
        return SequenceMatcher(None, a, b).quick_ratio()

    candidates = sorted(candidates, key=distance)[:_MOST_TEXTS]
    return sorted(candidates, key=lambda each: (*distance(each), -likeness(each)))
