"""The scope of a replay: calls are served from a cassette."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

from ..errors import NoukaiError
from ..protocol.call import FlowCall, Service
from ..protocol.program import Program
from ..protocol.reading import fetch_session
from ..replay.cassette import Cassette
from ..replay.lane import Ticket
from ..replay.player import Player, PlayOptions
from ..replay.redaction import Redactor
from ..replay.serving import play, use_up
from ..replay.sources import cassette_from_session
from . import guard
from .recording import Tape
from .scope import Scope, go_live, new_session_id


@dataclass(frozen=True)
class ReplayPlan:
    """How a cassette is replayed; the arguments of ``trace_scope`` of the same names.

    Attributes:
        redactor: Makes calls comparable with a redacted cassette; None for service sessions.
        tape: Records the calls that go live.
    """

    strict: bool = False
    strict_inputs: bool = False
    pacing: Literal["instant", "recorded"] = "instant"
    on_miss: Literal["raise", "live"] = "raise"
    live_from: int | None = None
    redactor: Redactor | None = None
    tape: Tape | None = None

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
        super().__init__("replay", child)
        self._calls = itertools.count()
        self._player = Player(cassette, self._play_options())
        self.report = self._player.report
        self.strict = self._plan.strict
        guard.began(self)

    def admit(self, call: FlowCall) -> Program[Any]:
        """Claim the call's place now; the program serves its recording."""
        live_from = self._plan.live_from
        if live_from is not None and next(self._calls) >= live_from:
            return self._go_live(call)
        ticket = self._player.claim(call)
        if call.session_id in (None, self.session_id, self._player.cassette.session_id):
            return play(self._player, call, ticket)
        return self._from_other_session(call, ticket)

    def settle(self) -> None:
        """Raise the first miss, else ReplayLeftoverError if recordings are left."""
        self._player.settle()

    def end(self) -> None:
        """Serve nothing from now on; write what was recorded."""
        guard.ended(self)
        if self._player.end() and self._plan.tape is not None:
            self._plan.tape.save(self._player.cassette.session_id)

    def _play_options(self) -> PlayOptions:
        plan = self._plan
        return PlayOptions(
            strict_inputs=plan.strict_inputs,
            pacing=plan.pacing,
            go_live=self._go_live if plan.forks else None,
            redact=plan.redactor.request if plan.redactor else None,
        )

    def _go_live(self, call: FlowCall) -> Program[Any]:
        program = go_live(call.tagged(self.session_id))
        tape = self._plan.tape
        return program if tape is None else tape.recorder.listen(call, program)

    def _from_other_session(self, call: FlowCall, ticket: Ticket) -> Program[Any]:
        """One call from another session; the scope's own recording of it counts as used."""
        assert call.session_id is not None  # admit() has looked
        yield from use_up(self._player, ticket)
        self._player.check_open(call, ticket)
        try:
            session = yield from fetch_session(call.service, call.session_id)
            cassette = cassette_from_session(session)
        except NoukaiError as error:
            raise self._player.refused(ticket, error) from error.__cause__
        # Nobody meant this call to go live, whatever the scope's own misses may do.
        options = replace(self._player.options, go_live=None, redact=None)
        player = Player(cassette, options, beside=self._player)
        return (yield from play(player, call, player.claim(call, ticket.site)))


def open_session(service: Service, session_id: str, plan: ReplayPlan) -> Program[ReplayScope]:
    """Fetch a session and give the scope that replays it."""
    session = yield from fetch_session(service, session_id)
    return ReplayScope(cassette_from_session(session), plan)
