"""A scope: the session that calls share, and who answers them."""

from __future__ import annotations

import os
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ..models.reports import ReplayReport
from ..protocol.live import program_for
from . import lost_scope as guard
from .context import current_scope

if TYPE_CHECKING:
    from ..protocol.call import FlowCall
    from ..protocol.jobs import JobBackend, LiveJob
    from ..protocol.program import Program

Mode = Literal["normal", "capture", "replay"]


class Scope:
    """What ``trace_scope`` yields.

    Attributes:
        mode: ``"capture"``: calls go live and carry ``session_id``. ``"replay"``: calls are served
            from a cassette. ``"normal"``: calls go live and carry no session.
        session_id: The session of this scope, None in normal mode.
    """

    def __init__(self, mode: Mode, session_id: str | None) -> None:
        self.mode = mode
        self.session_id = session_id

    @cached_property
    def report(self) -> ReplayReport:
        """What a replay saw so far; stays empty in the other modes."""
        # Made when it is asked for: every request of a production server has a scope.
        return ReplayReport()

    def admit(self, call: FlowCall) -> Program[Any]:
        """The program that answers ``call`` here. Runs when the method is called, not when awaited."""
        return program_for(
            call.tagged(call.session_id or self.session_id or call.service.session_id)
        )

    def job(self, live: LiveJob) -> JobBackend:
        """Who answers for a job that was submitted before; ``live`` asks the service."""
        return live

    def settle(self) -> None:
        """Called once, when the scope's body has ended well: a replay raises what is unsettled."""

    def end(self) -> None:
        """Called when the scope's body has ended, well or not; may be called again."""

    def discard(self) -> None:
        """Write nothing at the end."""


def capture_scope() -> Scope:
    """A scope with a new session."""
    return Scope("capture", new_session_id())


def new_session_id() -> str:
    """A random UUID's text (version 4, RFC 4122), in a third of the time of ``uuid.uuid4()``."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 0b11]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


def admit(call: FlowCall) -> Program[Any]:
    """The one seam: every flow call passes here once, and whoever answers it is decided here."""
    scope = current_scope()
    if scope is not None:
        return scope.admit(call)
    guard.check_lost(call)
    return program_for(call.tagged(call.session_id or call.service.session_id))


def known_job(live: LiveJob) -> JobBackend:
    """A job by its id, as the current scope knows it; ``live`` asks the service."""
    scope = current_scope()
    return live if scope is None else scope.job(live)
