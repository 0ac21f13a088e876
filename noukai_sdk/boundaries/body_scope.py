"""The scope around the body of a recorded function in a capture.

In a replay the body does not run, so what it does is no part of the session: its flow calls go live without
a session, and recorded functions that it calls are not kept.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from ..session.scope import Scope, active, current_scope

if TYPE_CHECKING:
    from ..protocol.call import FlowCall, Service
    from ..protocol.program import Program

logger = logging.getLogger("noukai_sdk")

_warned: set[tuple[str, str]] = set()


class BodyScope(Scope):
    """A scope that keeps nothing. Logs of the body still have the session's id."""

    def __init__(self, outer: Scope | None, name: str) -> None:
        super().__init__("normal", None if outer is None else outer.session_id)
        self._reports_outcomes = False
        self._service = None if outer is None else outer._service
        self._name = name

    def admit(self, call: FlowCall) -> Program[Any]:
        """Return the live program, in no session."""
        place = (self._name, str(call.flow))
        if place not in _warned:
            _warned.add(place)
            logger.warning(
                "flow %s is called inside the recorded function %s, so the call is no part of the "
                "session: a replay serves what the function returned. To replay the call itself, declare "
                "the function live=True, or call the flow outside of it",
                call.flow,
                self._name,
                extra={"noukai_session": self.session_id},
            )
        return call.live()

    def opened_by(self, service: Service) -> None:
        """Do nothing: the calls belong to no session."""


def outside_of_session(name: str) -> active:
    """Return the context manager that runs the body of a recorded function."""
    return active(BodyScope(current_scope(), name))
