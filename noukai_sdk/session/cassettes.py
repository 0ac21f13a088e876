"""Scopes over cassette files: which mode serves, which records."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import CassetteError, ReplayDisabledError
from ..replay.cassette_file import CassetteFile, read_cassette
from ..replay.redaction import Redactor
from .opening import plan_of
from .options import GATE, replay_enabled
from .recording_scope import CassetteWriter, RecordingScope
from .replay_scope import ReplayScope
from .scope import Scope, new_session_id


def cassette_scope(options: Mapping[str, Any]) -> Scope:
    """The scope that ``cassette``, ``record`` and ``record_mode`` ask for."""
    path = options.get("record") or options["cassette"]
    mode = "rewrite" if options.get("record") else options.get("record_mode", "none")
    found = None if mode == "rewrite" else _existing(path)
    redactor = _redactor(options, found)
    if mode in ("all", "rewrite"):
        return _recording(CassetteWriter(path, redactor, found, replaces=True))
    if found is not None:
        return _replaying(path, mode, found, redactor, options)
    if mode == "none":
        name = os.fspath(path)
        raise CassetteError(f"{name}: no such cassette: record it first", path=name)
    return _recording(CassetteWriter(path, redactor))


def _redactor(options: Mapping[str, Any], found: CassetteFile | None) -> Redactor:
    # What was redacted stays redacted, in what is compared with it and in what is written beside it.
    redacted = found.redacted if found is not None else ()
    return Redactor((*redacted, *options.get("redact_paths", ())), options.get("redact"))


def _recording(tape: CassetteWriter) -> RecordingScope:
    return RecordingScope(new_session_id(), tape)


def _replaying(
    path: str | os.PathLike[str],
    mode: str,
    found: CassetteFile,
    redactor: Redactor,
    options: Mapping[str, Any],
) -> ReplayScope:
    # No fallback to capture here: whoever names a file means that nothing goes live.
    if not replay_enabled():
        raise ReplayDisabledError(f"replay is off: set {GATE}=true to play a cassette file")
    plan = replace(plan_of(options), redactor=redactor)
    if mode == "new_episodes":
        plan = replace(
            plan, on_miss="live", by_input=True, tape=CassetteWriter(path, redactor, found)
        )
    return ReplayScope(found.cassette(), plan)


def _existing(path: str | os.PathLike[str]) -> CassetteFile | None:
    return read_cassette(path) if Path(path).exists() else None
