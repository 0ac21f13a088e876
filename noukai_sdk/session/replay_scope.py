"""The scope of a replay: calls are served from a cassette."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import NoukaiError
from ..protocol.call import FlowCall, Service
from ..protocol.fetching import fetch_session
from ..protocol.jobs import JobBackend, LiveJob
from ..protocol.program import Program
from ..replay.cassette import Cassette
from ..replay.lane import Claim
from ..replay.pacing import InstantPace, PaceOf, RecordedPace
from ..replay.player import Player, PlayOptions
from ..replay.recorder import api_keys
from ..replay.redaction import Redactor
from ..replay.serving import play, use_up
from ..replay.sources import cassette_from_session
from . import lost_scope as guard
from .recording_scope import CassetteWriter
from .scope import Scope, new_session_id

_PACES: dict[str, PaceOf] = {"instant": InstantPace, "recorded": RecordedPace}


@dataclass(frozen=True)
class ReplayPlan:
    """How a cassette is replayed; the arguments of ``trace_scope`` of the same names.

    Attributes:
        by_input: A call whose input was not recorded is a miss, whatever its position.
        redactor: Makes calls comparable with a redacted cassette; None for service sessions.
        tape: Records the calls that go live.
        pace: In place of what ``pacing`` names.
    """

    strict: bool = False
    strict_inputs: bool = False
    pacing: Literal["instant", "recorded"] = "instant"
    on_miss: Literal["raise", "live"] = "raise"
    live_from: int | None = None
    by_input: bool = False
    redactor: Redactor | None = None
    tape: CassetteWriter | None = None
    pace: PaceOf | None = None

    @property
    def forks(self) -> bool:
        """Whether calls may go live, by somebody's choice in writing."""
        return self.on_miss == "live" or self.live_from is not None


class ReplayScope(Scope):
    """A scope that plays one cassette. Calls go live only where the plan says so."""

    def __init__(self, cassette: Cassette, plan: ReplayPlan | None = None) -> None:
        self._plan = plan or ReplayPlan()
        # Live calls of a fork belong to a session of their own, and so does the answer.
        child = new_session_id() if self._plan.forks else cassette.session_id
        self._recorded_session = cassette.session_id
        super().__init__("replay", child)
        self._calls = itertools.count()
        self._ended = False
        self._player = Player(cassette, self._play_options())
        self.report = self._player.report
        self.strict = self._plan.strict
        guard.began(self)

    def admit(self, call: FlowCall) -> Program[Any]:
        """Claim the call's place now; the program serves its recording."""
        live_from = self._plan.live_from
        # A call that comes when the scope has ended is refused below, whatever was allowed in it.
        if live_from is not None and not self._ended and next(self._calls) >= live_from:
            self._player.passed(call)
            return self._go_live(call)
        if self._plan.redactor is not None:
            self._plan.redactor.add_secrets(api_keys(call))
        claim = self._player.claim(call)
        if call.session_id in (None, self.session_id, self._recorded_session):
            return play(self._player, call, claim)
        return self._from_other_session(call, claim)

    def job(self, live: LiveJob) -> JobBackend:
        """The recorded job of this id; the live one where the scope has put it to the service."""
        recorded = self._player.jobs.get(live.execution_id)
        if recorded is not None:
            return recorded.by_id()
        if self._plan.forks:
            return live if self._plan.tape is None else self._plan.tape.recorder.job(live)
        raise self._player.unknown_job(live.flow.slug, live.execution_id)

    def verify(self) -> None:
        """Raise the first miss, else ReplayLeftoverError if recordings are left."""
        self._player.verify()

    def discard(self) -> None:
        """Write nothing at the end."""
        if self._plan.tape is not None:
            self._plan.tape.discarded = True

    def end(self) -> None:
        """Serve nothing from now on; write what was recorded."""
        guard.ended(self)
        self._ended = True
        self._player.end()
        if self._plan.tape is not None:
            self._plan.tape.save(self._recorded_session)

    def _play_options(self) -> PlayOptions:
        plan = self._plan
        return PlayOptions(
            strict_inputs=plan.strict_inputs,
            by_input=plan.by_input,
            pace=plan.pace or _PACES[plan.pacing],
            # Up to live_from a miss is a miss: only on_miss says that calls may go live by themselves.
            go_live=self._go_live if plan.on_miss == "live" else None,
            allow_leftovers=plan.forks,
            redactor=plan.redactor,
            on_played=plan.tape.recorder.played if plan.tape else None,
        )

    def _go_live(self, call: FlowCall) -> Program[Any]:
        # Never into the recorded session: what it holds must stay what was recorded.
        named = call.session_id if call.session_id != self._recorded_session else None
        program = super().admit(call.tagged(named))
        tape = self._plan.tape
        return program if tape is None else tape.recorder.listen(call, program)

    def _from_other_session(self, call: FlowCall, claim: Claim) -> Program[Any]:
        """One call from another session; the scope's own recording of it counts as used."""
        assert call.session_id is not None  # admit() has looked
        yield from use_up(self._player, claim)
        self._player.check_open(call, claim)
        try:
            session = yield from fetch_session(call.service, call.session_id)
            cassette = cassette_from_session(session)
        except NoukaiError as error:
            raise self._player.refused(claim, error) from error.__cause__
        # Nobody meant this call to go live, whatever the scope's own misses may do.
        options = replace(
            self._player.options, go_live=None, redactor=None, by_input=False, on_played=None
        )
        player = Player(cassette, options, parent=self._player)
        return (yield from play(player, call, player.claim(call, claim.site)))


def open_session(service: Service, session_id: str, plan: ReplayPlan) -> Program[ReplayScope]:
    """Fetch a session and give the scope that replays it."""
    session = yield from fetch_session(service, session_id)
    return ReplayScope(cassette_from_session(session), plan)
