"""The scope of a replay: calls are served from a cassette, and never fall through to the service."""

from __future__ import annotations

from typing import Any

from ..protocol.call import FlowCall, Service
from ..protocol.program import Program
from ..protocol.reading import fetch_session
from ..replay.cassette import Cassette
from ..replay.player import Player
from ..replay.serving import play
from ..replay.sources import cassette_from_session
from .scope import Scope


class ReplayScope(Scope):
    """A scope that plays one cassette."""

    def __init__(self, cassette: Cassette) -> None:
        super().__init__("replay", cassette.session_id)
        self._player = Player(cassette)
        self.report = self._player.report

    def admit(self, call: FlowCall) -> Program[Any]:
        """Claim the call's place now; the program serves its recording."""
        ticket = self._player.claim(call)
        if call.session_id in (None, self.session_id):
            return play(self._player, call, ticket)
        self._player.skip(ticket)
        return self._from_other_session(call)

    def _from_other_session(self, call: FlowCall) -> Program[Any]:
        """One call from another session; the scope's own recording of it counts as used."""
        assert call.session_id is not None  # admit() has looked
        session = yield from fetch_session(call.service, call.session_id)
        player = Player(cassette_from_session(session), beside=self._player)
        return (yield from play(player, call, player.claim(call)))

    def settle(self) -> None:
        """Raise the first miss, else ReplayLeftoverError if recordings are left."""
        self._player.settle()

    def end(self) -> None:
        """Serve nothing from now on."""
        self._player.end()


def open_session(service: Service, session_id: str) -> Program[ReplayScope]:
    """Fetch a session and give the scope that replays it."""
    session = yield from fetch_session(service, session_id)
    return ReplayScope(cassette_from_session(session))
