"""Explain what a replay found: a call without a recording, a call that differs, a list that does not fit.

Only a replay that is not clean imports this module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher, get_close_matches
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json, to_jsonable_python

from ..errors import ReplayMissError
from ..masking.values import Masker
from ..models.reports import Candidate, Change, Finding, ReplayReport
from ..protocol.call import FlowCall
from .cassette import Cassette
from .drift import Sent, change, changes_between, differing_parts, listed, tool_changes
from .findings import METHODS, Made, align_lanes
from .lanes import Claim, Lane
from .recorder import api_keys
from .recording import Recording
from .redaction import Redactor

if TYPE_CHECKING:
    from .player import Player

MOST_SHOWN = 100
"""The values of so many drifted calls are kept; of the others, only the names of the parts."""

# Characters of values that one replay masks to show them: masking reads some 5 million in a second.
_MOST_READ = 2_000_000
_ELSEWHERE = " (it is the input of the recorded call "
_TOO_LONG = "  too long to show"
_MOST = 3
_MOST_FINDINGS = 5
# Comparing texts is slow, and among many that differ in the same part any three will do.
_MOST_TEXTS = 50


def miss(player: Player, call: FlowCall, claim: Claim, reason: str | None) -> ReplayMissError:
    """Return the error for ``call``: the call, the cassette's contents, the probable reason."""
    cassette, lane = player.cassette, claim.lane
    explanation = ""
    # One explanation is enough: what comes after the first miss follows from it.
    if claim.index is None:
        note_sent(player, call, claim, claim.redacted_request())
    if reason is None and not player.report.misses:
        player.report.findings[:] = findings(player, complete=False)
        found = player.report.findings[:_MOST_FINDINGS]
        explanation = "; ".join(finding.text for finding in found)
    reason = reason or _reason(cassette, call, claim)
    if explanation:
        reason = f"{reason} By their inputs: {explanation}."
    candidates = nearest(cassette, call, claim)
    at = f" at {claim.site}" if claim.site else ""
    names = f" Nearest: {'; '.join(map(str, candidates))}." if candidates else ""
    number, slug = claim.position + 1, call.flow.slug
    if call.kind == "recorded":
        name = f"call {number} of the recorded function {slug!r}"
        unplayed = f"{lane.remaining} of them are unplayed"
    else:
        name = f"{call.kind} call {number} of flow {slug!r}"
        left = sum(each.remaining for each in cassette.lanes() if each.kind != "recorded")
        unplayed = f"{left} of {len(cassette.recordings)} are unplayed"
    return ReplayMissError(
        f"no recording answers {name}{at}: the cassette holds {len(lane.recordings)} for it, "
        f"{unplayed}. {reason}{names}",
        slug=call.flow.slug,
        kind=call.kind,
        position=claim.position,
        recorded=len(lane.recordings),
        remaining=cassette.remaining,
        candidates=candidates,
        reason=reason,
        call_site=claim.site,
        report=player.report,
    )


def note_sent(player: Player, call: FlowCall, claim: Claim, request: Mapping[str, Any]) -> None:
    """Keep the redacted input of a call, as it is now: the program may change it later."""
    player.keys |= api_keys(call)
    player.sent[claim] = Sent(to_jsonable_python(request), claim.version)


def describe_drift(
    player: Player, claim: Claim, recording: Recording, fields: Sequence[str], *, in_order: bool
) -> tuple[str, tuple[Change, ...]]:
    """Describe a call whose input differs from its recording in ``fields``: as text, and with values.

    ``in_order`` says that the call was served by its position alone.
    """
    sent = player.sent[claim]
    request = recording.request or {}
    field_of = {
        part: re.split(r"[.\[]", part, maxsplit=1)[0]
        for part in differing_parts(request, sent.request)
    }
    parts = [part for part, field in field_of.items() if field in fields]
    # Some differences have no path of their own, such as that of the version.
    parts += [name for name in fields if name not in field_of.values()]
    text = f"the input differs from the recorded one in: {_masker(player).text(listed(parts))}"
    if len(player.report.drift) >= MOST_SHOWN:
        return text, ()
    inputs = [name for name in fields if name != "version"]
    if _may_read(player, [side.get(name) for side in (request, sent.request) for name in inputs]):
        changes = changes_between(request, sent.request, inputs, shown_by(player))
    else:
        changes = tuple(Change(name, None, None, _TOO_LONG) for name in inputs)
    if "version" in fields:
        versions = [str(each or "draft") for each in (recording.version, claim.version)]
        changes += (change("version", *versions),)
    hint = _elsewhere(claim, sent) if in_order else ""
    return text + hint, changes


def describe_tools(
    player: Player, call: FlowCall, number: int, recorded: Sequence[Any], sent: Sequence[Any]
) -> tuple[Change, ...]:
    """Return the changes in the tool results of round ``number``, counted from 0."""
    if len(player.report.drift) >= MOST_SHOWN:
        return ()
    player.keys |= api_keys(call)
    redactor = player.options.redactor
    if not _may_read(player, [recorded, sent]):
        return (Change("toolResults", None, None, _TOO_LONG),)
    if redactor is not None:  # its hook removes from these what it removes from recordings
        sent = redactor.tool_results(call.request, number, list(sent)) or ()
    return tool_changes(number, recorded, sent, shown_by(player))


def note_live_drift(
    player: Player, claim: Claim, differing: Sequence[tuple[str, Any, Any]]
) -> None:
    """Report a function that runs in replays too, and did something else than in the recording.

    Args:
        player: The player.
        claim: The call.
        differing: Name, recorded value and value of now of each part that differs.
    """
    names = [name for name, _, _ in differing]
    text = f"the function ran, and differs from its recording in: {listed(names)}"
    then = {name: value for name, value, _ in differing}
    now = {name: value for name, _, value in differing}
    changes: tuple[Change, ...] = ()
    if len(player.report.drift) < MOST_SHOWN and _may_read(player, [then, now]):
        changes = changes_between(then, now, names, shown_by(player))
    player.drifted(claim, text, changes)


def _may_read(player: Player, values: Any) -> bool:
    size = len(to_json(values))
    if player.shown + size > _MOST_READ:
        return False
    player.shown += size
    return True


def shown_by(player: Player) -> Redactor:
    """Return what masks values before they are shown: as the recordings are masked, and keys."""
    redactor = (player.options.redactor or Redactor()).without_hook()
    redactor.add_secrets(player.keys)
    return redactor


def findings(player: Player, *, complete: bool) -> list[Finding]:
    """Return what happened to the calls of a replay, as far as their inputs tell."""
    made = [Made(claim, player.sent.get(claim)) for claim in list(player.made)]
    return align_lanes(
        player.cassette.lanes(),
        made,
        complete=complete,
        mask=_masker(player).text,
    )


def _masker(player: Player) -> Masker:
    """Return the masker for texts outside of a request."""
    redactor = player.options.redactor
    return Masker(redactor is not None and redactor.pii, tuple(player.keys))


def _elsewhere(claim: Claim, sent: Sent) -> str:
    """Return a note on the recording that has exactly the input of a call, if it is another one."""
    lane, position = claim.lane, claim.position
    same = [
        index
        for index, recording in enumerate(lane.recordings)
        if recording.fingerprint in sent.keys and index != claim.index
    ]
    if not same:
        return ""
    unplayed = {*lane.unplayed()}
    other = min(same, key=lambda index: (index not in unplayed, abs(index - position)))
    first, second = sorted((position + 1, other + 1))
    edit = "removed" if other > position else "added"
    return (
        f"{_ELSEWHERE}{other + 1}: calls {first} and {second} look swapped, "
        f"or a call was {edit} before)"
    )


def confirm_swaps(report: ReplayReport) -> None:
    """Correct the guesses in the report, made at the time of each call, by its findings."""
    swapped = {
        (finding.slug, finding.kind, position): finding
        for finding in report.findings
        if finding.what == "swapped"
        for position in finding.made
    }
    for index, entry in enumerate(report.drift):
        text, guess, rest = entry.detail.partition(_ELSEWHERE)
        if guess:
            number = rest.partition(":")[0]
            finding = swapped.get((entry.slug, entry.kind, entry.position))
            swap = f": {finding.text.partition(' (')[0]}" if finding is not None else ""
            report.drift[index] = entry._replace(detail=f"{text}{guess}{number}{swap})")


def _reason(cassette: Cassette, call: FlowCall, claim: Claim) -> str:
    slug = call.flow.slug
    if claim.lane.problem is not None:
        return claim.lane.problem
    if call.kind == "recorded":
        return _reason_of_function(cassette, claim)
    if claim.lane.recordings:
        return "The code calls this flow more often than when it was recorded."
    if not cassette.recordings:
        return "The session holds no calls: it was recorded elsewhere, or is not complete yet."
    same = [lane for lane in cassette.lanes() if lane.slug == slug and lane.kind != "recorded"]
    others = sorted({"/".join(map(str, lane.address)) for lane in same if lane.address})
    if others and all(lane.address not in (None, call.flow[:2]) for lane in same):
        return (
            f"The flow was recorded in {' and '.join(others)}, and the call is to {call.flow.org}/"
            f"{call.flow.project}: a flow of another organisation or project is a different flow."
        )
    kinds = {lane.kind for lane in same if lane.kind}
    if kinds:
        recorded = ", ".join(METHODS[kind] for kind in sorted(kinds))
        return f"The flow was recorded through {recorded}, and is now called by another method."
    if any(lane.slug is None for lane in cassette.lanes()):
        return "A flow of this session has since been deleted, so its recordings have no name."
    return (
        "The code calls a flow that it did not call when it was recorded; or the service refused the "
        "call then, and did not accept the client's report of it."
    )


def _reason_of_function(cassette: Cassette, claim: Claim) -> str:
    lane = claim.lane
    kept, total = len(cassette.boundaries), cassette.total_boundaries or 0
    if total > kept:
        return (
            f"The session has {total} calls of recorded functions, and {kept} of them were kept: the "
            "log of the application that was recorded says why."
        )
    if lane.recordings:
        return "The code calls this function more often than when it was recorded."
    if kept:
        return (
            "The function was not called when the session was recorded, was not decorated with "
            "@noukai_sdk.recorded yet, or had another name. If it was renamed or moved, declare it with "
            f"{_name_to_declare(cassette, claim)}. Else record the request again, or declare it "
            "live=True, so that it runs in replays."
        )
    return (
        "The session holds no calls of recorded functions: it was recorded before a function was "
        "decorated with @noukai_sdk.recorded, or by a service that does not keep such calls. Record "
        "the request again, or declare the function live=True, so that it runs in replays."
    )


def _name_to_declare(cassette: Cassette, claim: Claim) -> str:
    """Return the option that names a function as it was recorded, as far as that can be told."""
    left = {
        str(lane.slug): [lane.recordings[index].request for index in lane.unplayed()]
        for lane in cassette.lanes()
        if lane.kind == "recorded" and lane.remaining
    }
    last, request = str(claim.lane.slug).rpartition(".")[2], claim.redacted_request()
    names = [name for name in left if name.rpartition(".")[2] == last]
    if not names and request["arguments"]:
        names = [name for name, requests in left.items() if request in requests]
    return f'name="{names[0]}"' if len(names) == 1 else "name= and its old name"


def nearest(cassette: Cassette, call: FlowCall, claim: Claim) -> list[Candidate]:
    """Return at most three candidates: recordings of the same flow, then flows of similar names."""
    is_recorded = call.kind == "recorded"
    lanes = [lane for lane in cassette.lanes() if (lane.kind == "recorded") is is_recorded]
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
