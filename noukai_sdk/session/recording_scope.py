"""The scope of a recording: calls go live, and are written to a cassette file at its end."""

from __future__ import annotations

import os
from typing import Any

from ..protocol.call import FlowCall
from ..protocol.jobs import JobBackend, LiveJob
from ..protocol.program import Program
from ..replay.callsite import call_site, warn_at
from ..replay.cassette_file import CassetteFile, check_writable, redacted, write_redacted
from ..replay.merging import merged
from ..replay.recorder import Recorder
from ..replay.recording import Recording
from ..replay.redaction import Redactor
from .scope import Scope


class CassetteWriter:
    """What a scope writes to its cassette file, with what the file already holds.

    Args:
        path: The file.
        redactor: Takes secrets out of what is written.
        kept: What the file already holds, and what stays.
        replaces: The Nth new recording of a flow takes the place of the Nth kept one.

    Raises:
        CassetteError: The file cannot be written. Said now, before any call is paid for.

    Attributes:
        discarded: Set it, and nothing is written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        redactor: Redactor,
        kept: CassetteFile | None = None,
        *,
        replaces: bool = False,
    ) -> None:
        check_writable(path)
        self.path = path
        self.recorder = Recorder()
        self.discarded = False
        self._redactor = redactor
        self._kept = kept
        self._replaces = replaces
        self._saved = False

    def save(self, session_id: str | None) -> None:
        """Write the file, once, if there is something new to write."""
        if self._saved or self.discarded:
            return
        self._saved = True
        if self._kept is None or self.recorder.has_news:
            self._redactor.add_secrets(self.recorder.api_keys)
            recordings = self._recordings(self._kept.recordings if self._kept else [])
            write_redacted(self.path, CassetteFile(session_id, recordings, self._redactor.paths))

    def _recordings(self, kept: list[Recording]) -> list[Recording]:
        """The new ones among the kept ones."""
        # What is kept has been through the hook, which is to see each recording once.
        again = self._redactor.without_hook()
        clean = {id(each): redacted(each, again, self.path) for each in kept}
        run = [
            clean.get(id(each)) or redacted(each, self._redactor, self.path)
            for each in self.recorder.recordings()
        ]
        return merged(list(clean.values()), run, replaces=self._replaces) if kept else run


class LateCallWarning(UserWarning):
    """A call came when its cassette file had been written: it went live, and is in no recording."""


class RecordingScope(Scope):
    """A capture scope that also writes a cassette file."""

    def __init__(self, session_id: str, tape: CassetteWriter) -> None:
        super().__init__("capture", session_id)
        self.tape = tape
        self._ended = False

    def admit(self, call: FlowCall) -> Program[Any]:
        """The live program, recorded."""
        if self._ended:
            self._say_late(call)
            return super().admit(call)
        return self.tape.recorder.listen(call, super().admit(call))

    def job(self, live: LiveJob) -> JobBackend:
        """The live job; its looks are recorded, where its submission was."""
        return self.tape.recorder.job(live)

    def discard(self) -> None:
        """Write nothing at the end."""
        self.tape.discarded = True

    def end(self) -> None:
        """Write the file."""
        self._ended = True
        self.tape.save(self.session_id)

    def _say_late(self, call: FlowCall) -> None:
        text = (
            f"a call of flow {call.flow} came after the end of what {os.fspath(self.tape.path)} "
            "records: it goes live, and a replay will refuse it. Make it, or wait for what makes it, "
            "before the block (or the test's function) ends"
        )
        warn_at(call_site(), text, LateCallWarning)
