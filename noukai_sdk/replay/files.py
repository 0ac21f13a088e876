"""Cassette files: a header, then one recording a line, as JSON.

::

    {"noukai_cassette": 1, "session_id": "...", "sdk": "0.2.0", "redacted": [], "recordings": 2}
    {"slug": "grade-3", "kind": "execute", ...}
    {"slug": "grade-3", "kind": "step", ...}

A file is written whole, beside its place, and moved there: a reader, in this process or another,
sees the old file or the new one and never a part.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from .._version import __version__
from ..errors import CassetteError
from .cassette import Cassette
from .recording import Recording
from .redaction import Redactor

FORMAT_VERSION = 1
_MARK = "noukai_cassette"


@dataclass
class CassetteFile:
    """What a cassette file holds. ``redacted`` are the JSON paths that were blanked in it."""

    session_id: str | None
    recordings: list[Recording] = field(default_factory=list)
    redacted: tuple[str, ...] = ()

    def cassette(self) -> Cassette:
        """The recordings, ready to be played."""
        return Cassette(self.session_id, self.recordings)


def read_cassette(path: str | os.PathLike[str]) -> CassetteFile:
    """Read a cassette file.

    Raises:
        CassetteError: It is missing, damaged, of an unknown version, or no cassette; the message
            names file and line.
    """
    name = os.fspath(path)
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _bad(name, None, f"cannot be read: {error.strerror or error}") from error
    lines = data.split(b"\n")
    if lines.pop():
        raise _bad(name, len(lines) + 1, "the last line is torn: the file was cut")
    header = _header(name, lines[0] if lines else b"")
    recordings = [_recording(name, number, line) for number, line in enumerate(lines[1:], start=2)]
    if header.get("recordings") != len(recordings):
        raise _bad(
            name,
            None,
            f"holds {len(recordings)} recordings of {header.get('recordings')}: it was cut",
        )
    return CassetteFile(header.get("session_id"), recordings, tuple(header.get("redacted") or ()))


def write_cassette(
    path: str | os.PathLike[str],
    session_id: str | None,
    recordings: Sequence[Recording],
    redactor: Redactor | None = None,
) -> None:
    """Write a cassette file, in one move. Folders are made as needed.

    Args:
        path: Where; an older file there is replaced.
        session_id: The session that was recorded.
        recordings: In the order in which the calls began.
        redactor: Takes secrets out; the default one knows the usual forms of keys and tokens.
    """
    redactor = redactor or Redactor()
    header = {
        _MARK: FORMAT_VERSION,
        "session_id": session_id,
        "sdk": __version__,
        "redacted": list(redactor.paths),
        "recordings": len(recordings),
    }
    lines = [header, *(redactor(as_json(recording)) for recording in recordings)]
    _replace(Path(path), "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def as_json(recording: Recording) -> dict[str, Any]:
    """A recording as a file holds it: fields that say nothing are left out."""
    return recording.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(beside).replace(path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _header(name: str, line: bytes) -> dict[str, Any]:
    try:
        header = from_json(line)
    except ValueError as error:
        raise _bad(name, 1, "this is no cassette: the header is no JSON") from error
    if not isinstance(header, dict) or _MARK not in header:
        raise _bad(name, 1, f"this is no cassette: the header has no {_MARK!r}")
    if header[_MARK] != FORMAT_VERSION:
        raise _bad(
            name,
            1,
            f"format version {header[_MARK]!r} is unknown to noukai-sdk {__version__}, which reads "
            f"version {FORMAT_VERSION}: update the package, or record the cassette again",
        )
    return header


def _recording(name: str, number: int, line: bytes) -> Recording:
    try:
        return Recording.model_validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        said = f"{where}: {first['msg']}" if where else first["msg"]
        raise _bad(name, number, f"this line is no recording: {said}") from error


def _bad(name: str, line: int | None, said: str) -> CassetteError:
    where = name if line is None else f"{name}:{line}"
    return CassetteError(f"{where}: {said}", path=name, line=line)
