"""The player: which recording answers a call, and what the replay reports in the end."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic_core import to_json

from ..errors import (
    NoukaiError,
    ReplayError,
    ReplayLeftoverError,
    ReplayMissError,
    ReplayNoSnapshotsError,
)
from ..models.reports import CallSite, ReplayReport, ReportEntry
from ..protocol.call import FlowCall
from ..protocol.program import Program
from .callsite import call_site, warn_at
from .cassette import Cassette
from .fingerprint import differing_fields
from .jobs import RecordedJob
from .lane import Claim, Decision, Lane
from .misses import miss
from .pacing import InstantPace, PaceOf
from .recording import Recording
from .redaction import Redactor

ErrorT = TypeVar("ErrorT", bound=NoukaiError)


class ReplayConcurrencyWarning(UserWarning):
    """Calls of one flow overlapped, so their order alone could not tell them apart."""


@dataclass(frozen=True)
class PlayOptions:
    """How a cassette is played.

    Attributes:
        strict_inputs: An input that differs from the recorded one is a miss, not drift.
        by_input: A call whose input was not recorded has no recording, whatever its position.
        pace: When the parts of an answer come.
        go_live: Puts a call that has no recording to the service; None refuses it as a miss.
        may_leave: Recordings may stay unplayed.
        redactor: Makes of what a call sends what a redacted recording of it holds.
        heard: Told of each recording that is played.
    """

    strict_inputs: bool = False
    by_input: bool = False
    pace: PaceOf = InstantPace
    go_live: Callable[[FlowCall], Program[Any]] | None = None
    allow_leftovers: bool = False
    redactor: Redactor | None = None
    on_played: Callable[[Recording], None] | None = None


class Player:
    """Plays one cassette for one scope. Safe to use from many threads and tasks."""

    def __init__(
        self,
        cassette: Cassette,
        options: PlayOptions | None = None,
        parent: Player | None = None,
    ) -> None:
        self.cassette = cassette
        self.options = options or PlayOptions()
        self.report: ReplayReport = parent.report if parent else ReplayReport()
        self._refusals: list[NoukaiError] = parent._refusals if parent else []
        self._lock = threading.Lock()
        self._warned: set[tuple[Any, ...]] = set()
        self._ended = False
        self._passed: Counter[Lane] = Counter()
        self.jobs: dict[str, RecordedJob] = {}
        redactor = self.options.redactor
        self._redact = redactor.request if redactor is not None else None

    def claim(self, call: FlowCall, site: CallSite | None = None) -> Claim:
        """Take the call's place, in the order of the calls. ``site`` is where it was made: here."""
        site = site or call_site()
        with self._lock:
            lane = self.cassette.lane_for(call)
            return lane.claim(call.request, call.flow.version, site, self._redact)

    def begin(self, claim: Claim) -> None:
        """The call is on its way: from now on its recording is used up, whatever happens."""
        with self._lock:
            claim.lane.begin()

    def finish(self, claim: Claim) -> None:
        """A call that began has ended: well, with an error, or cancelled."""
        with self._lock:
            self._settled(claim)
            claim.lane.end()

    def take(self, call: FlowCall, claim: Claim) -> Recording | None:
        """The claim's recording, used up; None where the call is to go live instead.

        Raises:
            ReplayMissError: There is no recording, and the call may not go live.
        """
        with self._lock:
            # Under the lock: a recording is played, or left, and never both.
            ended = self._ended
            decision = None if ended else self._settled(claim)
            warning = self._warning(claim, decision) if decision is not None else None
        if ended:
            raise self._late(call, claim)
        if warning is not None:
            warn_at(claim.site, warning, ReplayConcurrencyWarning)
        if claim.index is None:
            if self.options.go_live is not None:
                self.report.live.append(_entry(claim))
                return None
            raise self.missed(call, claim)
        recording = claim.lane.recordings[claim.index]
        if recording.unavailable is not None:
            raise self.refused(claim, _no_snapshots(call, recording, self.report))
        self.report.hits.append(_entry(claim))
        if self.options.on_played is not None:
            self.options.on_played(recording)
        self._compare(call, claim, recording)
        return recording

    def check_open(self, call: FlowCall, claim: Claim) -> None:
        """Refuse a call that comes when the scope has ended."""
        if self._ended:
            raise self._late(call, claim)

    def _late(self, call: FlowCall, claim: Claim) -> ReplayError:
        return self.missed(call, claim, "The replay's scope has ended already.")

    def _settled(self, claim: Claim) -> Decision | None:
        return claim.lane.settle(claim, by_input=self.options.by_input)

    def missed(self, call: FlowCall, claim: Claim, reason: str | None = None) -> ReplayError:
        """The error for a call without an answer."""
        error = miss(self.cassette, call, claim, self.report, reason)
        return self.refused(claim, error, error.reason or "")

    def unknown_job(self, slug: str, execution_id: str) -> ReplayError:
        """The error for a job that this replay has not submitted."""
        error = ReplayMissError(
            f"job {execution_id} of flow {slug!r} was not submitted in this replay: of a job that was "
            "submitted elsewhere the cassette holds nothing",
            slug=slug,
            kind="job",
            remaining=self.cassette.remaining,
            call_site=call_site(),
            report=self.report,
        )
        self.report.misses.append(ReportEntry(slug, "job", 0, error.message, error.call_site))
        self._refusals.append(error)
        return error

    def refused(self, claim: Claim, error: ErrorT, detail: str = "") -> ErrorT:
        """``error``, which answers a call. It stays in the report whoever catches it."""
        hit = _entry(claim)
        if hit in self.report.hits:  # what was found could not be served to its end
            self.report.hits.remove(hit)
        self.report.misses.append(_entry(claim, detail or error.message))
        self._refusals.append(error)
        return error

    def passed(self, call: FlowCall) -> None:
        """The call goes live without a look at the cassette."""
        with self._lock:
            lane = self.cassette.lane_for(call)
            position = lane.calls + self._passed[lane]
            self._passed[lane] += 1
        self.report.live.append(ReportEntry(lane.slug, lane.kind, position, "", call_site()))

    def drifted(self, claim: Claim, detail: str) -> None:
        """Something differs from the recording, and the replay goes on."""
        self.report.drift.append(_entry(claim, detail))

    def verify(self) -> None:
        """The scope's body has ended well: raise what must not stay unsaid."""
        self.end()
        if self._refusals:
            raise self._refusals[0]
        if self.report.leftovers and not self.options.allow_leftovers:
            raise _leftover_error(self.report)

    def end(self) -> bool:
        """No call is served from now on; what is left goes into the report. False the second time."""
        with self._lock:
            if self._ended:
                return False
            self._ended = True
            self.report.leftovers += [
                ReportEntry(lane.slug, lane.kind, position, str(lane.recordings[position]))
                for lane, position in self.cassette.unplayed()
            ]
            return True

    def _compare(self, call: FlowCall, claim: Claim, recording: Recording) -> None:
        if recording.truncated:
            self.drifted(claim, "the recorded output was truncated by the service")
        changed = _changed(recording, claim)
        if not changed:
            return
        said = f"the input differs from the recorded one in: {', '.join(changed)}"
        self.drifted(claim, said)
        if self.options.strict_inputs:
            raise self.missed(call, claim, f"{said[0].upper()}{said[1:]}, and inputs are strict.")

    def _warning(self, claim: Claim, decision: Decision) -> str | None:
        """What to say about a decision; None where it was said before, or is nothing to speak of."""
        lane = claim.lane
        key = (lane.kind, lane.slug, decision.ambiguous > 0)
        if not decision.reordered or key in self._warned:
            return None
        self._warned.add(key)
        if decision.ambiguous:
            said = "some have the same input, so these were answered in recorded order"
        elif decision.by_input == decision.together:
            said = "each was answered by the recording of its own input"
        else:
            said = "where no recording has the call's input, position decided"
        return f"concurrent {lane.kind} calls of flow {lane.slug!r} in a replay: {said}"


def _changed(recording: Recording, claim: Claim) -> list[str]:
    """The parts of the input that are known to differ from the recorded ones."""
    if recording.request is None:
        return []
    # Most replays send what was recorded, and comparing that takes no redaction.
    same_version = recording.version == claim.version
    if same_version and to_json(recording.request) == to_json(claim.request):
        return []
    probe = claim.probe()
    if recording.message_only:
        return ["message"] if recording.request.get("message") != probe.get("message") else []
    changed = differing_fields(recording.request, probe)
    return changed if same_version else [*changed, "version"]


def _entry(claim: Claim, detail: str = "") -> ReportEntry:
    lane = claim.lane
    return ReportEntry(lane.slug, lane.kind, claim.position, detail, claim.site)


def _no_snapshots(call: FlowCall, recording: Recording, report: ReplayReport) -> ReplayError:
    return ReplayNoSnapshotsError(
        f"the recording of {call.flow.slug!r} cannot be replayed: {recording.unavailable}",
        execution_id=recording.execution_id,
        report=report,
    )


def _leftover_error(report: ReplayReport) -> ReplayLeftoverError:
    left = [(entry.slug, entry.position) for entry in report.leftovers]
    named = ", ".join(f"{slug or '(deleted flow)'} #{position + 1}" for slug, position in left[:10])
    more = f" and {len(left) - 10} more" if len(left) > 10 else ""
    counted = "1 recording" if len(left) == 1 else f"{len(left)} recordings"
    return ReplayLeftoverError(
        f"the replay ended with {counted} unplayed: {named}{more}. "
        "The code makes fewer calls than when it was recorded.",
        leftovers=left,
        report=report,
    )
