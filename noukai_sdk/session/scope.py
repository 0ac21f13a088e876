"""A scope: the session that calls share, and who answers them."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, Literal

from ..models.reports import ReplayReport
from ..protocol.live import program_for
from .context import current_scope

if TYPE_CHECKING:
    from ..protocol.call import FlowCall
    from ..protocol.program import Program

Mode = Literal["normal", "capture", "replay"]


class Scope:
    """What ``trace_scope`` yields.

    Attributes:
        mode: ``"capture"``: calls go live and carry ``session_id``. ``"replay"``: calls are served
            from a cassette. ``"normal"``: calls go live and carry no session.
        session_id: The session of this scope, None in normal mode.
        report: What a replay saw so far; stays empty in the other modes.
    """

    def __init__(self, mode: Mode, session_id: str | None) -> None:
        self.mode = mode
        self.session_id = session_id
        self.report = ReplayReport()

    def admit(self, call: FlowCall) -> Program[Any]:
        """The program that answers ``call`` here. Runs when the method is called, not when awaited."""
        return program_for(call.tagged(call.session_id or self.session_id))

    def settle(self) -> None:
        """Called once, when the scope's body has ended well: a replay raises what is unsettled."""


def capture_scope() -> Scope:
    """A scope with a new session."""
    return Scope("capture", str(uuid.uuid4()))


def admit(call: FlowCall) -> Program[Any]:
    """The one seam: every flow call passes here once, and whoever answers it is decided here."""
    scope = current_scope()
    if scope is not None:
        return scope.admit(call)
    return program_for(call.tagged(call.session_id or call.service.session_id))
