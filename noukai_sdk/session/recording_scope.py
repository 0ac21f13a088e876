"""The scope of a recording: calls go live, and are written to a cassette file at its end."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..models.exchanges import Exchange
from ..protocol.call import FlowCall
from ..protocol.jobs import JobBackend, LiveJob
from ..protocol.program import Program
from ..replay.callsite import call_site, warn_at
from ..replay.cassette_writer import CassetteWriter
from ..replay.recording_builder import wall_time
from .scope import Scope, joinable_scope, new_session_id


class LateCallWarning(UserWarning):
    """A call came after its cassette file was written: it went live, and is in no recording."""


class RecordingScope(Scope):
    """A capture scope that also writes a cassette file."""

    def __init__(self, writer: CassetteWriter) -> None:
        super().__init__("capture", new_session_id())
        self._reports_outcomes = False  # the file has them
        self._writer = writer
        self._ended = False
        # The request that this scope is opened in, if it is captured; its response is not known yet.
        outer = joinable_scope()
        self._around = None if outer is None else outer.captured

    def admit(self, call: FlowCall) -> Program[Any]:
        """Return the live program, recorded."""
        program = super().admit(call)
        if not self._ended:
            return self._writer.recorder.listen(call, program)
        text = (
            f"a call of flow {call.flow} came after the recording to "
            f"{os.fspath(self._writer.path)} had ended: it goes live, and a replay will refuse it. "
            "Make the call, or wait for the task that makes it, before the block (or the test's "
            "function) ends"
        )
        warn_at(call_site(), text, LateCallWarning)
        return program

    def job(self, live: LiveJob) -> JobBackend:
        """Return the live job; its polls are recorded if its submission was recorded here."""
        return self._writer.recorder.job(live)

    def keep_exchange(self, build: Callable[[], Exchange | None]) -> None:
        """Write the request that runs in this scope into the file; of several requests the first."""
        if self._writer.exchange is None:
            self._writer.exchange = build()

    def discard(self) -> None:
        """Write no cassette file at the end."""
        self._writer.discarded = True

    def keep_boundaries(self, log: Any, send: Any) -> None:
        """Write the calls of recorded functions into the file."""
        log.write_to_file(wall_time)
        self._writer.boundaries = log

    def end(self) -> None:
        """Write the file."""
        self._ended = True
        super().end()
        self._writer.flush(self.session_id)
        if self._around is not None:
            self._around.files.append(self._writer)
