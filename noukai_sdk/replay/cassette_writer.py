"""Write what a scope records to its cassette file, merged with the recordings that the file holds."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from ..models.boundaries import Boundary
from ..models.exchanges import Exchange
from .boundary_recordings import renumbered
from .cassette_file import (
    CassetteFile,
    check_writable,
    redacted,
    redacted_boundary,
    redacted_exchange,
    write_redacted,
)
from .recorder import Recorder
from .recording import Recording
from .redaction import Redactor


class BoundarySource(Protocol):
    """What collects the calls of recorded functions in a scope.

    Attributes:
        secrets: The API keys of the scope's clients.
    """

    secrets: set[str]

    @property
    def has_news(self) -> bool:
        """Whether any function ran."""
        ...

    def boundaries(self) -> list[Boundary]:
        """Return the calls so far, in the order in which they began."""
        ...


class CassetteWriter:
    """Writes the calls of one scope to a cassette file.

    Args:
        path: The file.
        redactor: Removes secrets from the recordings.
        kept: The contents of an existing file, to be kept.
        replaces: The Nth new recording of a flow replaces the Nth kept one.

    Raises:
        CassetteError: The file cannot be written. Raised here, before a call costs anything.

    Attributes:
        discarded: Set it to write nothing.
        exchange: The request that made the calls, if it is captured.
        boundaries: The calls of recorded functions in this scope, None if there are none.
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
        self.exchange: Exchange | None = None
        self.boundaries: BoundarySource | None = None
        self._file: CassetteFile | None = None
        self._redactor = redactor
        self._kept = kept
        self._replaces = replaces
        self._flushed = False

    def flush(self, session_id: str | None) -> None:
        """Write the file, once, if there is something new to write."""
        if self._flushed or self.discarded:
            return
        self._flushed = True
        source = self.boundaries
        has_news = self.recorder.has_news or (source is not None and source.has_news)
        if self._kept is not None and not has_news:
            return
        self._redactor.add_secrets(self.recorder.api_keys)
        if source is not None:
            self._redactor.add_secrets(source.secrets)
        kept = self._kept.recordings if self._kept is not None else []
        # The hook has seen the kept recordings before, and must see each recording only once.
        without_hook = self._redactor.without_hook()
        clean = {id(each): redacted(each, without_hook, self.path) for each in kept}
        run = [
            clean.get(id(each)) or redacted(each, self._redactor, self.path)
            for each in self.recorder.recordings()
        ]
        recordings = merged(list(clean.values()), run, replaces=self._replaces) if kept else run
        redactor = self._redactor
        exchange = self._kept.exchange if self._kept is not None else None
        if self.exchange is not None:
            exchange = redacted_exchange(self.exchange, redactor)
        boundaries = merged_boundaries(
            self._kept.boundaries if self._kept is not None else [],
            [] if source is None else source.boundaries(),
            replaces=self._replaces,
        )
        self._file = CassetteFile(
            session_id,
            recordings,
            redactor.paths,
            redactor.pii,
            exchange,
            boundaries=[redacted_boundary(each, redactor) for each in boundaries],
        )
        write_redacted(self.path, self._file)

    def add_exchange(self, exchange: Exchange | None) -> None:
        """Add the request that made the calls to the written file."""
        if self._file is not None and exchange is not None:
            self._file.exchange = redacted_exchange(exchange, self._redactor)
            write_redacted(self.path, self._file)


def merged_boundaries(
    kept: Sequence[Boundary], run: Sequence[Boundary], *, replaces: bool = False
) -> list[Boundary]:
    """Return the boundaries of a run, then the kept ones that had no part in it, as :func:`merged`."""
    played = {id(each) for each in run}
    replaced = Counter(each.name for each in run if replaces)
    others = []
    for each in kept:
        if id(each) in played:
            continue
        if replaced[each.name] > 0:
            replaced[each.name] -= 1
        else:
            others.append(each)
    return renumbered([*run, *others])


def merged(
    kept: Sequence[Recording], run: Sequence[Recording], *, replaces: bool = False
) -> list[Recording]:
    """Return the recordings of a run, then the kept ones that had no part in it.

    Args:
        kept: The recordings of the file.
        run: In the order of the calls: the new recordings, and the kept ones that were played.
        replaces: The Nth recording of a flow and kind replaces the Nth kept one.
    """
    # By identity: two recordings of the same call are equal.
    played = {id(recording) for recording in run}
    replaced = Counter((recording.kind, recording.slug) for recording in run if replaces)
    others = []
    for recording in kept:
        if id(recording) in played:
            continue
        lane = recording.kind, recording.slug
        if replaced[lane] > 0:
            replaced[lane] -= 1
        else:
            others.append(recording)
    return list(_on_one_clock([*run, *others]))


def _on_one_clock(recordings: Sequence[Recording]) -> Iterator[Recording]:
    """Shift recordings of an earlier run to their place in this order.

    Otherwise the sequential calls of two runs would seem to overlap.
    """
    shift, previous_start, latest = 0.0, float("-inf"), float("-inf")
    for recording in recordings:
        start, end = recording.started_at, recording.completed_at
        if start is None:
            yield recording
            continue
        if start + shift < previous_start:
            shift = latest - start
        moved = recording
        if shift:
            start = round(start + shift, 6)
            end = None if end is None else round(end + shift, 6)
            moved = replace(recording, started_at=start, completed_at=end)
        previous_start = start
        latest = max(latest, end or start)
        yield moved
