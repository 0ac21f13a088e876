"""The scope of a recording: calls go live, and are written to a cassette file at its end."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from ..protocol.call import FlowCall
from ..protocol.program import Program
from ..replay.files import CassetteFile, write_cassette
from ..replay.recorder import Recorder
from ..replay.recording import Recording
from ..replay.redaction import Redactor
from .scope import Scope


class Tape:
    """What a scope writes to its cassette file, beside what the file already holds.

    Args:
        path: The file.
        redactor: Takes secrets out of what is written.
        kept: Recordings that the file already holds and that stay.
        replaces: The Nth new recording of a flow takes the place of the Nth kept one.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        redactor: Redactor,
        kept: CassetteFile | None = None,
        *,
        replaces: bool = False,
    ) -> None:
        self.path = path
        self.recorder = Recorder()
        self.discarded = False
        self._redactor = redactor
        self._kept = kept
        self._replaces = replaces

    def save(self, session_id: str | None) -> None:
        """Write the file, if there is something new to write."""
        new = self.recorder.recordings()
        if self.discarded or (not new and self._kept is not None):
            return
        kept = self._kept.recordings if self._kept else []
        merged = replaced(kept, new) if self._replaces else [*kept, *new]
        self._redactor.add_secrets(self.recorder.api_keys)
        write_cassette(self.path, session_id, merged, self._redactor)


class RecordingScope(Scope):
    """A capture scope that also writes a cassette file."""

    def __init__(self, session_id: str, tape: Tape) -> None:
        super().__init__("capture", session_id)
        self.tape = tape
        self._saved = False

    def admit(self, call: FlowCall) -> Program[Any]:
        """The live program, recorded."""
        return self.tape.recorder.listen(call, super().admit(call))

    def end(self) -> None:
        """Write the file."""
        if not self._saved:
            self._saved = True
            self.tape.save(self.session_id)


def replaced(kept: Sequence[Recording], new: Sequence[Recording]) -> list[Recording]:
    """``kept``, in which the Nth new recording of a flow and kind replaces the Nth old one."""
    fresh: dict[tuple[Any, Any], list[Recording]] = {}
    for recording in new:
        fresh.setdefault((recording.kind, recording.slug), []).append(recording)
    merged = []
    for old in kept:
        waiting = fresh.get((old.kind, old.slug))
        merged.append(waiting.pop(0) if waiting else old)
    # By identity: two recordings of the same call are equal.
    used = {id(recording) for recording in merged}
    return merged + [recording for recording in new if id(recording) not in used]
