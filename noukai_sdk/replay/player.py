"""The player: which recording answers a call, and what the replay reports in the end."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..errors import ReplayLeftoverError, ReplayMissError
from ..models.reports import ReplayReport, ReportEntry
from ..protocol.call import FlowCall
from ..protocol.program import Program
from .callsite import call_site
from .cassette import Cassette
from .fingerprint import differing_fields
from .lane import Decision, Ticket
from .misses import miss
from .recording import Recording


class ReplayConcurrencyWarning(UserWarning):
    """Calls of one flow overlapped, so their order alone could not tell them apart."""


@dataclass(frozen=True)
class PlayOptions:
    """How a cassette is played.

    Attributes:
        strict_inputs: An input that differs from the recorded one is a miss, not drift.
        pacing: ``"recorded"`` takes the time that the live calls took, ``"instant"`` none.
        go_live: Puts a call that has no recording to the service; None refuses it as a miss.
        redact: Makes of a call's request what a redacted recording of it holds.
    """

    strict_inputs: bool = False
    pacing: Literal["instant", "recorded"] = "instant"
    go_live: Callable[[FlowCall], Program[Any]] | None = None
    redact: Callable[[Mapping[str, Any]], dict[str, Any]] | None = None


class Player:
    """Plays one cassette for one scope. Safe to use from many threads and tasks."""

    def __init__(
        self,
        cassette: Cassette,
        options: PlayOptions | None = None,
        beside: Player | None = None,
    ) -> None:
        self.cassette = cassette
        self.options = options or PlayOptions()
        self.report: ReplayReport = beside.report if beside else ReplayReport()
        self._misses: list[ReplayMissError] = beside._misses if beside else []
        self._lock = threading.Lock()
        self._warned: set[tuple[Any, ...]] = set()
        self._ended = False

    def claim(self, call: FlowCall) -> Ticket:
        """Take the call's place, in the order of the calls."""
        site = call_site()
        with self._lock:
            lane = self.cassette.lane_for(call)
            return lane.claim(call.request, call.flow.version, site, self.options.redact)

    def begin(self, ticket: Ticket) -> None:
        """The call is on its way: from now on its recording is used up, whatever happens."""
        with self._lock:
            ticket.lane.begin()

    def finish(self, ticket: Ticket) -> None:
        """A call that began has ended: well, with an error, or cancelled."""
        with self._lock:
            ticket.lane.settle(ticket)
            ticket.lane.end()

    def take(self, call: FlowCall, ticket: Ticket) -> Recording | None:
        """The ticket's recording, used up; None where the call is to go live instead.

        Raises:
            ReplayMissError: There is no recording, and the call may not go live.
        """
        with self._lock:
            decision = ticket.lane.settle(ticket)
        if decision is not None:
            self._warn(ticket, decision)
        if self._ended:
            raise self.missed(call, ticket, "The replay's scope has ended already.")
        if ticket.index is None:
            if self.options.go_live is not None:
                return None
            raise self.missed(call, ticket)
        recording = ticket.lane.recordings[ticket.index]
        self.report.hits.append(_entry(ticket))
        self._compare(call, ticket, recording)
        return recording

    def missed(self, call: FlowCall, ticket: Ticket, reason: str | None = None) -> ReplayMissError:
        """The error for a call without an answer. It stays in the report whoever catches it."""
        error = miss(self.cassette, call, ticket, self.report, reason)
        self.report.misses.append(_entry(ticket, error.reason or ""))
        self._misses.append(error)
        return error

    def drifted(self, ticket: Ticket, detail: str) -> None:
        """Something differs from the recording, and the replay goes on."""
        self.report.drift.append(_entry(ticket, detail))

    def settle(self) -> None:
        """The scope's body has ended well: raise what must not stay unsaid."""
        self.end()
        if self._misses:
            raise self._misses[0]
        # Who lets calls go live has chosen to leave the recorded path.
        if self.report.leftovers and self.options.go_live is None:
            raise _leftover_error(self.report)

    def end(self) -> bool:
        """No call is served from now on; what is left goes into the report. False the second time."""
        if self._ended:
            return False
        self._ended = True
        self.report.leftovers += [
            ReportEntry(lane.slug, lane.kind, position, str(lane.recordings[position]))
            for lane, position in self.cassette.unplayed()
        ]
        return True

    def _compare(self, call: FlowCall, ticket: Ticket, recording: Recording) -> None:
        if recording.truncated:
            self.drifted(ticket, "the recorded output was truncated by the service")
        if recording.request is None or _same_input(recording, ticket):
            return
        if recording.message_only:
            fields = ["message"]
        else:
            fields = differing_fields(recording.request, ticket.probe()) or ["version"]
        said = f"the input differs from the recorded one in: {', '.join(fields)}"
        self.drifted(ticket, said)
        if self.options.strict_inputs:
            raise self.missed(call, ticket, f"{said[0].upper()}{said[1:]}, and inputs are strict.")

    def _warn(self, ticket: Ticket, decision: Decision) -> None:
        lane = ticket.lane
        key = (lane.kind, lane.slug, decision.ambiguous > 0)
        if not decision.surprising or key in self._warned:
            return
        self._warned.add(key)
        if decision.ambiguous:
            said = "some have the same input, so these were answered in recorded order"
        elif decision.by_input == decision.together:
            said = "each was answered by the recording of its own input"
        else:
            said = "where no recording has the call's input, position decided"
        text = f"concurrent {lane.kind} calls of flow {lane.slug!r} in a replay: {said}"
        if ticket.site is None:
            warnings.warn(text, ReplayConcurrencyWarning, stacklevel=2)
        else:
            warnings.warn_explicit(
                text, ReplayConcurrencyWarning, ticket.site.file, ticket.site.line
            )


def _same_input(recording: Recording, ticket: Ticket) -> bool:
    # Most replays send what was recorded, and comparing is cheaper than hashing.
    same = recording.request == ticket.request and recording.version == ticket.version
    return same or recording.fingerprint in ticket.fingerprints()


def _entry(ticket: Ticket, detail: str = "") -> ReportEntry:
    lane = ticket.lane
    return ReportEntry(lane.slug, lane.kind, ticket.position, detail, ticket.site)


def _leftover_error(report: ReplayReport) -> ReplayLeftoverError:
    left = [(entry.slug, entry.position) for entry in report.leftovers]
    named = ", ".join(f"{slug or '(deleted flow)'} #{position + 1}" for slug, position in left[:10])
    more = f" and {len(left) - 10} more" if len(left) > 10 else ""
    return ReplayLeftoverError(
        f"the replay ended with {len(left)} unplayed: {named}{more}. "
        "The code makes fewer calls than when it was recorded.",
        leftovers=left,
        report=report,
    )
