"""What is done of a batch, in a file: an interrupted one goes on, and one with failures can be repeated.

The first line says what is replayed and how, each other line is the result of one session.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO

from pydantic import TypeAdapter, ValidationError
from typing_extensions import Self

from .causes import SessionResult

_FORMAT = 1
_NOT_CODE = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})
_MOST_FILES = 20_000

_results: TypeAdapter[SessionResult] = TypeAdapter(SessionResult)


class StateError(Exception):
    """The file is missing, or not one of ours. The message is for the user."""


@dataclass(frozen=True)
class BatchHeader:
    """What is replayed, and how.

    Attributes:
        sources: The sessions: their ids, or the paths of cassette files.
        app: The name of the app.
        server: The address of a running app, in place of ``app``.
        ignore: What may differ in the responses.
        freeze: The clock is held.
        code: The fingerprint of the app's code; None for a running app, whose code is not known.
    """

    sources: tuple[str, ...]
    app: str | None
    server: str | None
    ignore: tuple[str, ...]
    freeze: bool = False
    code: str | None = None
    noukai_batch: int = _FORMAT

    def is_same_run(self, other: BatchHeader) -> bool:
        """Return whether results of ``other`` would be the same again: same app, code and rules."""
        return replace(self, sources=(), ignore=()) == replace(other, sources=(), ignore=()) and (
            {*self.ignore} == {*other.ignore}
        )


_headers: TypeAdapter[BatchHeader] = TypeAdapter(BatchHeader)


@dataclass
class BatchState:
    """The contents of the file, by the names of the sessions."""

    header: BatchHeader
    results: dict[str, SessionResult] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> BatchState:
        """Read the file. The last line may be cut: the process that wrote it may have been killed.

        Raises:
            StateError: There is no such file, or it is not one of ours.
        """
        try:
            first, *lines = path.read_bytes().splitlines()
            state = cls(_headers.validate_json(first))
        except (OSError, ValueError) as error:
            missing = isinstance(error, FileNotFoundError)
            problem = (
                "there is no earlier run to go on with" if missing else "not the state of a run"
            )
            raise StateError(f"{path}: {problem}") from error
        for line in lines:
            try:
                result = _results.validate_json(line)
            except ValidationError:
                continue
            state.results[result.source] = result
        return state


class StateWriter:
    """Writes the file, line by line. Use it with ``with``.

    Args:
        path: The file. Only its owner can read it: it holds what responses said.
        header: What is replayed.
        results: Those that are known already.
    """

    def __init__(self, path: Path, header: BatchHeader, results: Sequence[SessionResult]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # In one move, so that a process that is killed here leaves the old file or the new one.
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        self._file: IO[bytes] = os.fdopen(handle, "wb")
        self._file.write(_headers.dump_json(header) + b"\n")
        for result in results:
            self._write(result)
        self._file.flush()
        temporary.replace(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, result: SessionResult) -> None:
        """Write a result. It is there even if the process is killed now."""
        self._write(result)
        self._file.flush()

    def _write(self, result: SessionResult) -> None:
        self._file.write(_results.dump_json(result) + b"\n")


def fingerprint_of_code(folder: Path) -> str:
    """Return a fingerprint of all Python files in a folder, without hidden folders and packages."""
    digest = hashlib.sha256()
    number = 0
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(each for each in folders if each[0] != "." and each not in _NOT_CODE)
        for name in sorted(names):
            if not name.endswith(".py"):
                continue
            number += 1
            if number > _MOST_FILES:
                return digest.hexdigest()
            path = Path(parent, name)
            digest.update(os.fsencode(path.relative_to(folder)) + b"\0")
            try:
                digest.update(hashlib.sha256(path.read_bytes()).digest())
            except OSError:
                continue
    return digest.hexdigest()
