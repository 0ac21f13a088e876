"""Play a cassette: serve each call from its recording, and report what the replay found."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

from pydantic_core import to_json

from ..errors import (
    NoukaiError,
    ReplayError,
    ReplayMissError,
    ReplayNoSnapshotsError,
)
from ..models.reports import CallSite, Change, ReplayReport, ReportEntry
from ..protocol.call import FlowCall
from ..protocol.program import CHECKPOINT, AwaitTurn, Program
from ..protocol.requests import encode
from .activity import Activity
from .boundary_recordings import BoundaryRecording, timed
from .callsite import call_site, warn_at
from .cassette import Cassette, CassetteClosed
from .cassette_writer import CassetteWriter
from .completion_order import UNORDERED, CompletionOrder, OrderedPace
from .jobs import RecordedJob
from .lanes import Claim, Decision, Redact
from .leftovers import OF_OTHER_CLIENT, leftover_error, of_other_clients
from .pacing import Pace, PaceOf
from .recording import Recording
from .redaction import Redactor
from .serving import RecordedRun

if TYPE_CHECKING:
    from ..whatif.changes import WhatIfOptions
    from .drift import Sent

ErrorT = TypeVar("ErrorT", bound=NoukaiError)


# Recordings of clients that the replay does not know: so many are listed.
_MOST_ELSEWHERE = 10_000
_ENDED_BY_CLIENT = (
    "In production the client left in the middle of the response, after the last of these calls: what "
    "the code does then was not recorded. Let the client of the replay leave there, too."
)


class ReplayConcurrencyWarning(UserWarning):
    """Calls of one flow overlapped, so their order alone could not tell them apart."""


logger = logging.getLogger("noukai_sdk")


@dataclass(frozen=True)
class ReplayOptions:
    """How a cassette is replayed.

    Attributes:
        lost: ``"refuse"`` refuses calls from threads and tasks that lost the scope, ``"live"`` warns.
        strict_inputs: An input that differs from the recorded one is a miss, not drift.
        by_input: A call whose input was not recorded is a miss, whatever its position.
        pace: When the parts of a response come; None: at once, but overlapping calls in recorded order.
        on_miss: ``"live"`` sends a call that has no recording to the service.
        live_from: Serve this many calls and let the rest go live.
        edit: Fields of the first live call's request, instead of those of the application.
        redactor: Makes calls comparable with a redacted cassette or session.
        writer: Records the calls that go live.
        what_if: The calls that go live in place of being served, with a change.
        is_stored: The service has the recorded session, so forks of it name it as their parent.
        on_served: Called with the end of each served call: seconds since 1970, 0 if it is not known.
    """

    lost: Literal["refuse", "live"] = "live"
    strict_inputs: bool = False
    by_input: bool = False
    pace: PaceOf | None = None
    on_miss: Literal["raise", "live"] = "raise"
    live_from: int | None = None
    edit: Mapping[str, Any] | None = None
    redactor: Redactor | None = None
    writer: CassetteWriter | None = None
    what_if: WhatIfOptions | None = None
    is_stored: bool = False
    on_served: Callable[[float], object] | None = None

    @property
    def allow_live(self) -> bool:
        """Whether calls may go live. Then recordings may also stay unplayed."""
        forks = self.on_miss == "live" or self.live_from is not None
        return forks or self.what_if is not None


class Player:
    """Plays one cassette for one scope. Safe to use from many threads and tasks.

    Args:
        cassette: The recordings.
        options: How they are replayed.
        go_live: Sends a call to the service, if ``on_miss`` is ``"live"``.
        parent: The player of the scope, for the recordings of another session: they share the report.
        activity: What the program does at the moment.

    Attributes:
        made: The calls that have got their recording or had none, in this order.
        sent: The inputs of those that differ from their recording or have none.
        keys: The API keys of these calls.
        shown: How many characters of their inputs were read to be shown.
        divert: Returns the program of a call that goes live although it may have a recording, None for
            one that is served. Called when the recording is chosen, which is then used up.
        diverted: The claims of those calls.
    """

    divert: Callable[[FlowCall, Claim], Program[Any] | None] | None = None

    def __init__(
        self,
        cassette: Cassette,
        options: ReplayOptions | None = None,
        *,
        go_live: Callable[[FlowCall], Program[Any]] | None = None,
        parent: Player | None = None,
        activity: Activity | None = None,
    ) -> None:
        self.cassette = cassette
        self.options = options or ReplayOptions()
        self.report: ReplayReport = parent.report if parent else ReplayReport()
        self.jobs: dict[str, RecordedJob] = {}
        self._errors: list[NoukaiError] = parent._errors if parent else []
        self._past_end: list[tuple[ReportEntry, NoukaiError]] = []
        self._warned: dict[tuple[Any, ...], Claim] = {}
        self.made: list[Claim] = []
        self.diverted: set[Claim] = set()
        self.sent: dict[Claim, Sent] = {}
        self.keys: set[str] = set()
        self.shown = 0
        timed_calls = [*cassette.recordings, *timed(cassette.boundaries)]
        self._order = CompletionOrder(timed_calls, activity)
        self._go_live = go_live if self.options.on_miss == "live" else None

    def claim(
        self,
        call: FlowCall,
        site: CallSite | None = None,
        part: int = 0,
        redact: Redact | None = None,
    ) -> Claim:
        """Take the call's place, in the order of the calls.

        Args:
            call: The call.
            site: Where it was made.
            part: The part of the session that its client can read.
            redact: Makes the call of a recorded function comparable with its recordings.
        """
        redactor = self.options.redactor
        if redact is None and redactor is not None:
            redact = redactor.request
        return self.cassette.claim(call, site, redact, part)

    def claim_later(self, call: FlowCall, site: CallSite | None, key: Any) -> Claim:
        """Take the place of a call whose part of the session comes with :meth:`add`."""
        redactor = self.options.redactor
        redact = redactor.request if redactor is not None else None
        return self.cassette.claim_later(call, site, redact, key)

    def add(
        self,
        recordings: Sequence[Recording],
        part: int,
        key: Any,
        redactor: Redactor | None,
        problem: str | None,
    ) -> None:
        """Add a part of the session, as :meth:`Cassette.add`."""
        if self.options.redactor is None and redactor is not None:
            self.options = replace(self.options, redactor=redactor)
        redactor = self.options.redactor
        redact = redactor.request if redactor is not None else None
        self._order.add(recordings)
        self.cassette.add(recordings, part, key, redact=redact, problem=problem)

    def play(self, call: FlowCall, claim: Claim) -> Program[Any]:
        """Serve ``call`` from the recording of its claim."""
        sent = encode(call.request)  # a request that cannot be sent fails in a replay too
        self.cassette.begin(claim)
        pace: Pace | None = None
        try:
            # The tasks that were started with this one claim their places first, as they would
            # during a live call.
            yield CHECKPOINT
            if self.cassette.loading is not None:
                yield AwaitTurn(self.cassette.loading)  # a call in it may complete before this one
            decision = self._assign(call, claim, settled=self.options.pace is not None)
            if not claim.assigned:
                yield from self._order.settle()
                decision = self._assign(call, claim)
            divert = None if call.kind == "recorded" else self.divert
            live = None if divert is None else divert(call, claim)
            if live is not None:
                self._pass_by(claim)
                return (yield from live)
            recording = self._take(call, claim, sent, decision)
            if recording is None:
                if call.kind == "recorded":
                    return None  # its caller runs it
                assert self._go_live is not None  # _take() has checked
                return (yield from self._go_live(call))
            pace = self._pace(claim, recording)
            run = RecordedRun(self, call, claim, recording, pace)
            if isinstance(recording, BoundaryRecording):
                return (yield from run.boundary(recording))
            if call.kind == "execute":
                return (yield from run.execute())
            return (yield from (run.stream() if call.kind == "step" else run.job()))
        finally:
            self.cassette.finish(claim, by_input=self.options.by_input)
            if isinstance(pace, OrderedPace):
                pace.close()
            if self.options.on_served is not None and claim.index is not None:
                self.options.on_served(claim.lane.recordings[claim.index].completed_at or 0.0)

    def _pass_by(self, claim: Claim) -> None:
        """Note that a call goes live instead of using its recording, so no other call waits for it."""
        self.diverted.add(claim)
        self.made.append(claim)
        if claim.recording is not None:
            pace = self._pace(claim, claim.recording)
            if isinstance(pace, OrderedPace):
                pace.close()

    def recording_of(self, claim: Claim) -> BoundaryRecording | None:
        """Return the recording of a function that runs in the replay too; None if there is none."""
        self.cassette.begin(claim)
        try:
            self.cassette.assign(claim)
        except CassetteClosed:
            return None
        finally:
            self.cassette.finish(claim)
        return claim.recording if isinstance(claim.recording, BoundaryRecording) else None

    def moves(self) -> int | None:
        """Return how often calls came to their turns or left them; None while one waits."""
        return self._order.moves()

    def use_up(self, call: FlowCall, claim: Claim) -> Program[None]:
        """Use the claim's recording up without serving it.

        Raises:
            ReplayMissError: The replay's scope has ended.
        """
        self.cassette.begin(claim)
        try:
            yield CHECKPOINT
        finally:
            self.cassette.finish(claim, by_input=self.options.by_input)
        if self.cassette.closed:
            raise self._late(call, claim)
        if claim.index is not None:
            self.made.append(claim)

    def skip(self, call: FlowCall, detail: str = "") -> None:
        """Report a call that goes live without using a recording up."""
        lane, position = self.cassette.skip(call)
        self.report.live.append(ReportEntry(lane.slug, lane.kind, position, detail, call_site()))

    def missed(self, call: FlowCall, claim: Claim, reason: str | None = None) -> ReplayError:
        """Report a call that has no recording; return its error."""
        from .misses import miss

        error = miss(self, call, claim, reason)
        return self.refused(claim, error, error.reason or "")

    def refused(self, claim: Claim, error: ErrorT, detail: str = "") -> ErrorT:
        """Report the error of a call; return it. The report keeps it even if the caller catches it."""
        hit = _entry(claim)
        if (
            claim.index is not None and hit in self.report.hits
        ):  # its recording could not be served to its end
            self.report.hits.remove(hit)
        self.report.misses.append(_entry(claim, detail or error.message))
        self._errors.append(error)
        return error

    def unknown_job(self, slug: str, execution_id: str) -> ReplayError:
        """Report a job that this replay has not submitted; return its error."""
        error = ReplayMissError(
            f"job {execution_id} of flow {slug!r} was not submitted in this replay: the cassette "
            "has no recording of jobs submitted elsewhere",
            slug=slug,
            kind="job",
            remaining=self.cassette.remaining,
            call_site=call_site(),
            report=self.report,
        )
        self.report.misses.append(ReportEntry(slug, "job", 0, error.message, error.call_site))
        self._errors.append(error)
        return error

    def drifted(self, claim: Claim, detail: str, changes: tuple[Change, ...] = ()) -> None:
        """Report a difference from the recording; the replay goes on."""
        self.report.drift.append(_entry(claim, detail, changes))

    def tools_drifted(
        self,
        call: FlowCall,
        claim: Claim,
        number: int,
        recorded: Sequence[Any],
        sent: Sequence[Any],
    ) -> None:
        """Report that the tools of round ``number``, from 0, returned other results."""
        from .misses import describe_tools

        changes = describe_tools(self, call, number, recorded, sent)
        detail = f"tool results of round {number + 1} differ from the recorded ones"
        self.drifted(claim, detail, changes)

    def end(self, calls: int = 0, *, complete: bool = True, client_left: bool = False) -> None:
        """Serve no more calls; report the unplayed recordings, and what explains them. Call it once.

        Args:
            calls: How many calls were made, also those that failed before they had a recording.
            complete: The program has come to its end. One that failed may lack calls at its end.
            client_left: The client of the request left before the end of the response.
        """
        report = self.report
        unplayed = self.cassette.close()
        elsewhere = min(
            self.cassette.missing, (self.cassette.total_calls or 0) - calls, _MOST_ELSEWHERE
        )
        if client_left and self.cassette.client_left:
            # How far a program comes for a client that leaves is chance.
            unplayed, elsewhere = [], 0
            for entry, error in self._past_end:
                report.misses.remove(entry)
                self._errors.remove(error)
        for lane, position in unplayed:
            recording = lane.recordings[position]
            report.leftovers.append(ReportEntry(lane.slug, lane.kind, position, str(recording)))
        if self.options.allow_live:
            elsewhere = 0  # a fork need not make them
        for position in range(elsewhere):
            report.leftovers.append(ReportEntry(None, None, position, OF_OTHER_CLIENT))
        if not (report.misses or report.drift or report.leftovers) or self.options.by_input:
            return
        from .misses import confirm_swaps, findings

        complete = complete and not report.misses and not self.options.allow_live
        report.findings[:] = findings(self, complete=complete)
        if elsewhere > 0:
            report.findings.append(of_other_clients(elsewhere))
        confirm_swaps(report)
        if report.drift:
            logger.warning(
                "the replay of session %s differs from its recording: %s\n%s",
                self.cassette.session_id,
                report.summary(),
                "\n".join(report.lines()),
                extra=self._log_fields(),
            )

    def verify(self, *, caught: bool = True) -> None:
        """Raise the first error of an ended replay, or ReplayLeftoverError if recordings are left.

        With ``caught=False`` the errors that calls have raised before are logged, not raised again.
        """
        if self._errors and caught:
            raise self._errors[0]
        if self._errors:
            logger.warning(
                "a replay succeeded despite errors that the application caught: %s",
                self.report.summary(),
                extra=self._log_fields(),
            )
        if self.report.leftovers and not self.options.allow_live:
            raise leftover_error(self.report)

    def _log_fields(self) -> dict[str, Any]:
        report = self.report.summary()
        fields = {"noukai_session": self.cassette.session_id, "noukai_report": report}
        return {**fields, "noukai_replay": True}

    def _pace(self, claim: Claim, recording: Recording) -> Pace:
        pace_of = self.options.pace
        if pace_of is not None:
            return pace_of(recording)
        return self._order.pace(recording, lambda: self._doubt_order(claim))

    def _doubt_order(self, claim: Claim) -> None:
        """Report, once, that a call may have completed in another order than it was recorded."""
        entry = _entry(claim, UNORDERED)
        if entry not in self.report.unordered:
            self.report.unordered.append(entry)

    def _assign(self, call: FlowCall, claim: Claim, *, settled: bool = True) -> Decision | None:
        """Choose the claim's recording, as :meth:`Cassette.assign`, and warn if calls overlap."""
        by_input = self.options.by_input
        try:
            decision = self.cassette.assign(claim, by_input=by_input, settled=settled)
        except CassetteClosed:
            raise self._late(call, claim) from None
        if decision is not None and decision.reordered:
            self._warn(claim, decision)
        return decision

    def _take(
        self, call: FlowCall, claim: Claim, sent: bytes, decision: Decision | None
    ) -> Recording | None:
        """Return the claim's recording; None if the call is to go live instead.

        ``sent`` is the call's request as JSON.
        """
        if claim.index is None:
            may_go_live = (
                self.options.allow_live if call.kind == "recorded" else self._go_live is not None
            )
            if not may_go_live:
                if self.cassette.client_left and not self.cassette.remaining:
                    raise self._ended_by_client(call, claim)
                self.made.append(claim)
                raise self.missed(call, claim)
            self.report.live.append(_entry(claim))
            return None
        self.made.append(claim)
        recording = claim.lane.recordings[claim.index]
        if recording.unavailable is not None:
            error = ReplayNoSnapshotsError(
                f"the recording of {call.flow.slug!r} cannot be replayed: {recording.unavailable}",
                execution_id=recording.execution_id,
                report=self.report,
            )
            raise self.refused(claim, error)
        self.report.hits.append(_entry(claim))
        if self.options.writer is not None and call.kind != "recorded":
            self.options.writer.recorder.on_played(recording)
        if recording.truncated:
            self.drifted(claim, "the recorded output was truncated by the service")
        # Most replays send what was recorded, and that comparison needs no redaction.
        same_version = recording.version == claim.version
        if recording.request is None or (same_version and to_json(recording.request) == sent):
            return recording
        fields, request = claim.changed_fields(recording)
        if fields:
            from .misses import describe_drift, note_sent

            note_sent(self, call, claim, request)
            in_order = decision is None
            text, changes = describe_drift(self, claim, recording, fields, in_order=in_order)
            self.drifted(claim, text, changes)
            if self.options.strict_inputs:
                reason = f"{text[0].upper()}{text[1:]}, and inputs are strict."
                raise self.missed(call, claim, reason)
        return recording

    def _ended_by_client(self, call: FlowCall, claim: Claim) -> ReplayError:
        """Report a call that production may not have come to, as its client left before."""
        if self._past_end:  # said once
            return cast("ReplayError", self._past_end[0][1])
        error = self.missed(call, claim, _ENDED_BY_CLIENT)
        self._past_end.append((self.report.misses[-1], error))
        return error

    @property
    def is_past_end(self) -> bool:
        """Whether the program went on after the last call that production made for a client that left."""
        return bool(self._past_end)

    def _late(self, call: FlowCall, claim: Claim) -> ReplayError:
        reason = (
            "The replay's scope has ended already. Start tasks and threads that outlive their request "
            "in noukai_sdk.detached()."
        )
        return self.missed(call, claim, reason)

    def _warn(self, claim: Claim, decision: Decision) -> None:
        """Warn of a decision, once for each lane and kind of decision."""
        lane = claim.lane
        if lane.kind == "recorded" and not (decision.ambiguous and claim.request["arguments"]):
            return  # of a clock, say, any order is right
        key = (lane.kind, lane.slug, decision.ambiguous > 0)
        if self._warned.setdefault(key, claim) is not claim:
            return
        warn_at(
            claim.site,
            f"concurrent {lane.name} in a replay: {decision}",
            ReplayConcurrencyWarning,
        )


def _entry(claim: Claim, detail: str = "", changes: tuple[Change, ...] = ()) -> ReportEntry:
    lane = claim.lane
    return ReportEntry(lane.slug, lane.kind, claim.position, detail, claim.site, changes)
