"""What to say when no recording answers a call."""

from __future__ import annotations

from ..errors import ReplayMissError
from ..models.reports import ReplayReport
from ..protocol.call import FlowCall
from .candidates import nearest
from .cassette import Cassette
from .lane import Claim

_METHODS = {"execute": "execute()", "step": "steps() or events()", "job": "execute_async()"}


def miss(
    cassette: Cassette, call: FlowCall, claim: Claim, report: ReplayReport, reason: str | None
) -> ReplayMissError:
    """The error for ``call``: what was asked, what the cassette holds, what probably happened."""
    lane = claim.lane
    reason = reason or _reason(cassette, call, claim)
    candidates = nearest(cassette, call, claim)
    where = f" at {claim.site}" if claim.site else ""
    named = f" Nearest: {'; '.join(map(str, candidates))}." if candidates else ""
    return ReplayMissError(
        f"no recording answers {call.kind} call {claim.position + 1} of flow "
        f"{call.flow.slug!r}{where}: the cassette holds {len(lane.recordings)} for it, "
        f"{cassette.remaining} of {len(cassette.recordings)} are unplayed. {reason}{named}",
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
        "call then, of which no session tells."
    )
