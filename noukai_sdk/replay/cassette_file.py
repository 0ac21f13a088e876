"""Read and write cassette files: a header line, then one recording a line, as JSON.

::

    {"noukai_cassette": 1, "session_id": "...", "sdk": "0.2.0", "redacted": [], "recordings": 2}
    {"slug": "grade-3", "kind": "execute", ...}
    {"slug": "grade-3", "kind": "step", ...}

If the request that made the calls was captured, the header also has it, as ``"exchange"``. Calls of
recorded functions follow the recordings, a line each, and make the file one of version 3::

    {"boundary": "load_rubric", "position": 0, "arguments": {"level": "b1"}, "result": "...", ...}

A file can be edited by hand and merged by git. The header's count of recordings shows if lines were
lost; after adding or removing lines on purpose, correct the count or delete it.

A file is written to a temporary file next to it and then renamed, so that a reader, in this process or
another, sees the old file or the new one and never a part.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic_core import from_json

from .._version import __version__
from ..errors import CassetteError
from ..models.boundaries import Boundary
from ..models.exchanges import Exchange
from ..protocol.decoding import first_problem
from .cassette import Cassette
from .recording import Recording, recording_adapter
from .redaction import Redactor
from .repeated_values import SAME, with_repetitions, without_repetitions

if TYPE_CHECKING:
    from .sources import LoadedSession

FORMAT_VERSION = 1
# Of files in which a recording names repeated values: readers of version 1 would take them for null.
_WITH_SAME = 2
# Of files with calls of recorded functions: without them a replay would not be that of the session.
_WITH_BOUNDARIES = 3
# A line of fewer bytes is written as it is.
_LONG = 10_000
_MARK = "noukai_cassette"
_CONFLICT = (b"<<<<<<<", b"|||||||", b"=======", b">>>>>>>")


@dataclass
class CassetteFile:
    """The contents of a cassette file.

    Attributes:
        session_id: The session that was recorded.
        recordings: In the order in which the calls began.
        redacted: The JSON paths that were blanked in the file.
        redacted_pii: Personal data was removed from the file.
        exchange: The request that made the calls, and its response, if they were captured.
        missing_calls: How many calls of the session, made with other API keys, are not in the file.
        boundaries: The calls of recorded functions, in the order in which they began.
        total_boundaries: How many the session has, if some were not kept.
    """

    session_id: str | None
    recordings: list[Recording] = field(default_factory=list)
    redacted: tuple[str, ...] = ()
    redacted_pii: bool = False
    exchange: Exchange | None = None
    missing_calls: int = 0
    boundaries: list[Boundary] = field(default_factory=list)
    total_boundaries: int | None = None

    def cassette(self) -> Cassette:
        """Return the recordings as a cassette to play."""
        client_left = self.exchange is not None and self.exchange.client_left
        total = len(self.recordings) + self.missing_calls if self.missing_calls > 0 else None
        return Cassette(
            self.session_id,
            self.recordings,
            client_left,
            total,
            self.boundaries,
            self.total_boundaries,
        )


def file_of(session: LoadedSession, exchange: Exchange | None = None) -> CassetteFile:
    """Return a session of the service as a file would hold it, without redaction."""
    missing = max(0, (session.total_calls or 0) - len(session.recordings))
    return CassetteFile(
        session.session_id,
        session.recordings,
        exchange=exchange,
        missing_calls=missing,
        boundaries=list(session.boundaries),
        total_boundaries=session.total_boundaries,
    )


class _Header(BaseModel):
    """The first line. Files of earlier versions also hold ``sealed`` and a seal: both are ignored."""

    model_config = ConfigDict(defer_build=True, strict=True)

    noukai_cassette: int
    session_id: str | None
    sdk: str
    redacted: list[str]
    redacted_pii: bool = False
    exchange: Exchange | None = None
    recordings: int | None = None
    missing_calls: int = 0
    boundaries: int | None = None
    total_boundaries: int | None = None


def read_cassette(path: str | os.PathLike[str]) -> CassetteFile:
    """Read a cassette file.

    Raises:
        CassetteError: The file is missing, damaged, of an unknown version, or not a cassette. The
            message names the file and the line.
    """
    name = os.fspath(path)
    try:
        lines = Path(name).read_bytes().splitlines()
    except (OSError, ValueError) as error:
        raise _error(name, None, f"the file cannot be read: {error}") from error
    if not lines:
        raise _error(name, 1, "the file is empty")
    for number, line in enumerate(lines, 1):
        if line.startswith(_CONFLICT):
            raise _error(name, number, "a git merge conflict is not resolved here")
    header = _read_header(name, lines[0])
    recordings: list[Recording] = []
    boundaries: list[Boundary] = []
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        try:
            if header.noukai_cassette >= _WITH_BOUNDARIES and _is_boundary(line):
                boundaries.append(_read_boundary(line))
            else:
                recordings.append(_read_recording(line))
        except ValueError as error:
            what = first_problem(error) if isinstance(error, ValidationError) else error
            problem = f"this line is not a valid recording: {what}"
            raise _error(name, number, problem) from error
    for what, said, count in (
        ("recordings", header.recordings, len(recordings)),
        ("boundaries", header.boundaries, len(boundaries)),
    ):
        if said not in (None, count):
            raise _error(
                name,
                1,
                f'the header says "{what}": {said}, but the file holds {count}. If {what} were added '
                f'or removed on purpose, set "{what}": {count} in line 1; if not, the file was cut: '
                "restore it or record it again",
            )
    return CassetteFile(
        header.session_id,
        recordings,
        tuple(header.redacted),
        header.redacted_pii,
        header.exchange,
        header.missing_calls,
        boundaries,
        header.total_boundaries,
    )


def _is_boundary(line: bytes) -> bool:
    value = from_json(line)
    return isinstance(value, dict) and "boundary" in value


def _read_boundary(line: bytes) -> Boundary:
    value = from_json(line)
    return Boundary.model_validate({**value, "name": value["boundary"]})


def _read_recording(line: bytes) -> Recording:
    if f'"{SAME}"'.encode() in line:
        value = from_json(line)
        if isinstance(value, dict) and SAME in value:
            return recording_adapter().validate_python(with_repetitions(value))
    return recording_adapter().validate_json(line)


def _read_header(name: str, line: bytes) -> _Header:
    try:
        header = from_json(line)
    except ValueError as error:
        raise _error(name, 1, "not a cassette: the first line is not JSON") from error
    if not isinstance(header, dict) or _MARK not in header:
        raise _error(name, 1, f"not a cassette: the first line has no {_MARK!r}")
    if header[_MARK] not in (FORMAT_VERSION, _WITH_SAME, _WITH_BOUNDARIES):
        raise _error(
            name,
            1,
            f"noukai-sdk {__version__} reads format version {_WITH_BOUNDARIES}, not "
            f"{header[_MARK]!r}: update the package, or record the cassette again",
        )
    try:
        # As JSON: a tuple of the exchange is a list here.
        return _Header.model_validate_json(line)
    except ValidationError as error:
        raise _error(name, 1, f"the header is damaged: {first_problem(error)}") from error


def write_cassette(
    path: str | os.PathLike[str],
    session_id: str | None,
    recordings: Sequence[Recording],
    redactor: Redactor | None = None,
    exchange: Exchange | None = None,
    missing_calls: int = 0,
    boundaries: Sequence[Boundary] = (),
    total_boundaries: int | None = None,
) -> None:
    """Write a cassette file in one move. Missing folders are created.

    Args:
        path: The file; an existing one is replaced.
        session_id: The session that was recorded.
        recordings: In the order in which the calls began.
        redactor: Removes secrets; the default one knows the usual forms of keys and tokens.
        exchange: The request that made the calls, and its response.
        missing_calls: As in :class:`CassetteFile`.
        boundaries: As there.
        total_boundaries: As there.

    Raises:
        CassetteError: The file cannot be written, or a redacted recording is not valid any more.
    """
    file = CassetteFile(
        session_id,
        list(recordings),
        exchange=exchange,
        missing_calls=missing_calls,
        boundaries=list(boundaries),
        total_boundaries=total_boundaries,
    )
    write_redacted(path, redacted_file(file, redactor or Redactor(), path))


def redacted_file(
    file: CassetteFile, redactor: Redactor, path: str | os.PathLike[str]
) -> CassetteFile:
    """Return the contents as they may be written to ``path``.

    Raises:
        CassetteError: A redacted recording is not valid any more.
    """
    clean = [redacted(recording, redactor, path) for recording in file.recordings]
    kept = None if file.exchange is None else redacted_exchange(file.exchange, redactor)
    return CassetteFile(
        file.session_id,
        clean,
        redactor.paths,
        redactor.pii,
        kept,
        file.missing_calls,
        [redacted_boundary(each, redactor) for each in file.boundaries],
        file.total_boundaries,
    )


def redacted(recording: Recording, redactor: Redactor, path: str | os.PathLike[str]) -> Recording:
    """Return the recording as it may be written to ``path``.

    Raises:
        CassetteError: The redacted recording is not valid any more.
    """
    try:
        return recording_adapter().validate_python(redactor(as_json(recording)))
    except ValidationError as error:
        problem = f"after redaction {recording} is not a valid recording: {first_problem(error)}"
        raise _error(os.fspath(path), None, problem) from error


def redacted_boundary(boundary: Boundary, redactor: Redactor) -> Boundary:
    """Return the call of a recorded function as it may be written to a file.

    Its own ``redact=`` has removed what it removes before.
    """
    return Boundary.model_validate(redactor.boundary(boundary.model_dump(mode="json")))


def redacted_exchange(exchange: Exchange, redactor: Redactor) -> Exchange:
    """Return the exchange as it may be written to a file."""
    return Exchange.model_validate(
        redactor.exchange(exchange.model_dump(mode="json", by_alias=True))
    )


def write_redacted(path: str | os.PathLike[str], file: CassetteFile) -> None:
    """Write a file as it is, without redaction."""
    data = encode_cassette(file)
    target = Path(os.path.realpath(path))  # a link stays a link
    temporary = target.with_name(f".{target.name}.{token_hex(4)}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("xb") as out:
                out.write(data)
                out.flush()
                os.fsync(out.fileno())
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _error(os.fspath(path), None, f"the file cannot be written: {error}") from error


def encode_cassette(file: CassetteFile) -> bytes:
    """Return the content of a file as it is, without redaction."""
    header: dict[str, Any] = {
        _MARK: FORMAT_VERSION,
        "session_id": file.session_id,
        "sdk": __version__,
        "redacted": list(file.redacted),
        **({"redacted_pii": True} if file.redacted_pii else {}),
        "recordings": len(file.recordings),
        **({"missing_calls": file.missing_calls} if file.missing_calls else {}),
    }
    if file.exchange is not None:
        header["exchange"] = file.exchange.model_dump(
            mode="json", by_alias=True, exclude_defaults=True
        )
    lines = [""]
    for recording in file.recordings:
        value = as_json(recording)
        line = json.dumps(value, ensure_ascii=False)
        if len(line) >= _LONG:
            value = without_repetitions(value)
            if SAME in value:
                line = json.dumps(value, ensure_ascii=False)
                header[_MARK] = _WITH_SAME
        lines.append(line + "\n")
    if file.boundaries or file.total_boundaries:
        header[_MARK] = _WITH_BOUNDARIES
        header["boundaries"] = len(file.boundaries)
        if file.total_boundaries:
            header["total_boundaries"] = file.total_boundaries
    for boundary in file.boundaries:
        value = boundary.model_dump(mode="json", exclude_defaults=True)
        value = {"boundary": value.pop("name"), **value}
        lines.append(json.dumps(value, ensure_ascii=False) + "\n")
    lines[0] = json.dumps(header, ensure_ascii=False) + "\n"
    # Half a surrogate pair cannot be encoded; no service could have sent or read it.
    return "".join(lines).encode("utf-8", "replace")


def as_json(recording: Recording) -> dict[str, Any]:
    """Return a recording as a file holds it, without the fields that have their default."""
    (value,) = _serializer().dump_python([recording], mode="json", exclude_defaults=True)
    return value  # type: ignore[no-any-return]  # a recording is an object


@cache
def _serializer() -> TypeAdapter[list[Recording]]:
    # A service may return NaN, which pydantic would write as null; a dataclass takes no such option.
    return TypeAdapter(list[Recording], config=ConfigDict(ser_json_inf_nan="constants"))


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raise CassetteError if :func:`write_cassette` could not write to ``path``."""
    target = Path(os.path.realpath(path))
    folder = next(parent for parent in target.parents if parent.exists())
    if target.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise _error(os.fspath(path), None, "no file can be written there")


def _error(name: str, line: int | None, problem: str) -> CassetteError:
    location = name if line is None else f"{name}:{line}"
    return CassetteError(f"{location}: {problem}", path=name, line=line)
