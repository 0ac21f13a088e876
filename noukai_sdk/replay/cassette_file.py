"""Cassette files: a header, then one recording a line, as JSON.

::

    {"noukai_cassette": 1, "session_id": "...", "sdk": "0.2.0", "redacted": [], "recordings": 2, ...}
    {"slug": "grade-3", "kind": "execute", ..., "seal": "9c0c3cbe1b0ad2f5"}
    {"slug": "grade-3", "kind": "step", ..., "seal": "a61d3ef2b85f6b07"}

Each line is sealed with a digest of itself and all lines before it, so that damage of any kind is an
error that names the line. Whoever edits a cassette by hand says so in the header: ``"sealed": false``.

A file is written whole, beside its place, and moved there: a reader, in this process or another,
sees the old file or the new one and never a part.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import from_json

from .._version import __version__
from ..errors import CassetteError
from ..protocol.decoding import first_problem
from .cassette import Cassette
from .recording import Recording
from .redaction import Redactor
from .sealing import Seal

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


class _Header(BaseModel):
    """The first line."""

    model_config = ConfigDict(defer_build=True, strict=True)

    noukai_cassette: int
    session_id: str | None
    sdk: str
    redacted: list[str]
    recordings: int
    sealed: bool


def read_cassette(path: str | os.PathLike[str]) -> CassetteFile:
    """Read a cassette file.

    Raises:
        CassetteError: It is missing, damaged, of an unknown version, or no cassette; the message
            names file and line.
    """
    name = os.fspath(path)
    lines = _lines(name)
    header = _header(name, lines[0])
    if header.sealed:
        _check_seals(name, lines)
    with _uncollected():
        recordings = [_recording(name, number, line) for number, line in enumerate(lines[1:], 2)]
    if len(recordings) != header.recordings:
        said = f"the file ends after {len(recordings)} recordings of {header.recordings}"
        raise _bad(name, len(recordings) + 1, said)
    return CassetteFile(header.session_id, recordings, tuple(header.redacted))


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

    Raises:
        CassetteError: The file cannot be written, or redaction left something that cannot be read.
    """
    redactor = redactor or Redactor()
    clean = [redacted(recording, redactor, path) for recording in recordings]
    write_redacted(path, CassetteFile(session_id, clean, redactor.paths))


def redacted(recording: Recording, redactor: Redactor, path: str | os.PathLike[str]) -> Recording:
    """The recording as it may be written to ``path``.

    Raises:
        CassetteError: Redaction left something that is no recording.
    """
    try:
        return Recording.model_validate(redactor(as_json(recording)))
    except ValidationError as error:
        said = f"redaction leaves no valid recording of {recording}: {first_problem(error)}"
        raise _bad(os.fspath(path), None, said) from error


def write_redacted(path: str | os.PathLike[str], file: CassetteFile) -> None:
    """Write a file as it is, with nothing taken out."""
    header = {
        _MARK: FORMAT_VERSION,
        "session_id": file.session_id,
        "sdk": __version__,
        "redacted": list(file.redacted),
        "recordings": len(file.recordings),
        "sealed": True,
    }
    seal = Seal()
    lines = (_as_line(each) for each in (header, *map(as_json, file.recordings)))
    _replace(path, b"".join(seal.put(line) + b"\n" for line in lines))


def as_json(recording: Recording) -> dict[str, Any]:
    """A recording as a file holds it: fields that say nothing are left out."""
    return recording.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise CassetteError where :func:`write_cassette` could not write to ``path``."""
    place = Path(os.path.realpath(path))
    folder = next(parent for parent in place.parents if parent.exists())
    if place.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _bad(os.fspath(path), None, "no file can be written there")


def _lines(name: str) -> list[bytes]:
    try:
        data = Path(name).read_bytes()
    except (OSError, ValueError) as error:
        raise _bad(name, None, f"cannot be read: {error}") from error
    # Git may have changed the ends of the lines; within a line JSON has no such bytes.
    lines = data.replace(b"\r\n", b"\n").split(b"\n")
    if lines.pop():
        cut = "the last line has no end: the file was cut"
        raise _bad(name, len(lines) + 1, cut if _may_be_cassette(data) else "this is no cassette")
    if not lines:
        raise _bad(name, 1, "the file is empty")
    return lines


def _may_be_cassette(data: bytes) -> bool:
    """Whether a file begins as one, as far as it goes."""
    beginning = f'{{"{_MARK}"'.encode()
    return data[: len(beginning)] == beginning[: len(data)]


def _header(name: str, line: bytes) -> _Header:
    try:
        found = from_json(line)
    except ValueError as error:
        raise _bad(name, 1, "this is no cassette: the header is no JSON") from error
    if not isinstance(found, dict) or _MARK not in found:
        raise _bad(name, 1, f"this is no cassette: the header has no {_MARK!r}")
    if found[_MARK] != FORMAT_VERSION:
        raise _bad(
            name,
            1,
            f"format version {found[_MARK]!r} is unknown to noukai-sdk {__version__}, which reads "
            f"version {FORMAT_VERSION}: update the package, or record the cassette again",
        )
    try:
        return _Header.model_validate(found)
    except ValidationError as error:
        raise _bad(name, 1, f"the header is damaged: {first_problem(error)}") from error


def _check_seals(name: str, lines: Sequence[bytes]) -> None:
    seal = Seal()
    for number, line in enumerate(lines, start=1):
        if not seal.fits(line):
            raise _bad(
                name,
                number,
                "this line was changed or moved since it was recorded. Record the cassette again; "
                'or, if the change was meant, say so in line 1: "sealed": false',
            )


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the garbage collector, which would look again and again at what is being loaded."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _recording(name: str, number: int, line: bytes) -> Recording:
    try:
        return Recording.model_validate_json(line)
    except ValidationError as error:
        said = f"this line is no recording: {first_problem(error)}"
        raise _bad(name, number, said) from error


def _as_line(value: dict[str, Any]) -> bytes:
    # Half a surrogate pair is no text that any service could have sent or read.
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")


def _replace(path: str | os.PathLike[str], data: bytes) -> None:
    place = Path(os.path.realpath(path))  # a link stays a link
    beside = place.with_name(f".{place.name}.{token_hex(4)}.tmp")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _removed_on_failure(beside):
            with beside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(place)
    except OSError as error:
        raise _bad(os.fspath(path), None, f"cannot be written: {error}") from error


@contextmanager
def _removed_on_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _bad(name: str, line: int | None, said: str) -> CassetteError:
    where = name if line is None else f"{name}:{line}"
    return CassetteError(f"{where}: {said}", path=name, line=line)
