"""Keep what recorded functions did in one scope, until the scope ends. Thread-safe."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, Literal

from pydantic_core import to_json

from ..models.boundaries import Boundaries, Boundary
from ..models.reports import CallSite
from ..replay.boundary_recordings import BoundaryRecording, renumbered
from ..replay.lanes import Claim
from ..replay.recorder import keys_of
from ..session.scope import Scope
from .functions import RecordedFunction

MOST = 10_000
"""Calls of one session that a service keeps."""
MOST_BYTES_OF_ONE = 1_000_000
MOST_BYTES = 7_000_000
MOST_CONTAINERS = 200_000
"""Lists and objects of all values: a service takes 250,000 in one body."""

logger = logging.getLogger("noukai_sdk")

_warned_unsent: list[bool] = []


class Entry:
    """One call of a recorded function, as far as it is known.

    Attributes:
        size: The size of its values as JSON, about.
        containers: How many lists and objects they have, about.
    """

    def __init__(
        self,
        function: RecordedFunction,
        arguments: Any,
        site: CallSite | None,
        now: Callable[[], float],
    ) -> None:
        self.function = function
        self.arguments = arguments
        self.size = self.containers = 0
        self.result: Any = None
        self.items: list[Any] | None = [] if function.is_generator else None
        self.error: dict[str, Any] | None = None
        self.unavailable: str | None = None
        self.abandoned = False
        self.passes: Literal[0, 1] | None = None
        self._site = site
        self._now = now
        self._started = now()
        self._ended: float | None = None
        self._chunks: list[tuple[float, int]] = [(0.0, 0)] if function.is_generator else []

    def drop_items(self) -> None:
        """Forget the items of a generator."""
        self.items = None if self.items is None else []
        self._chunks.clear()

    def note_item(self, item: Any) -> None:
        """Note an item that a generator yielded."""
        assert self.items is not None  # it is a generator
        self.items.append(item)
        self._chunks.append((round(max(0.0, self._now() - self._started), 6), 1))

    def end(self, *, completed: bool = True) -> None:
        """Note that the call has ended; not completed if its reader has left."""
        now = max(self._now(), self._started)
        if completed:
            self._ended = now
        if completed and self.items is not None and not self.abandoned:
            self._chunks.append((round(now - self._started, 6), 1))

    def values(self) -> dict[str, Any]:
        """Return the encoded values by their names on the wire, redacted."""
        values: dict[str, Any] = {"arguments": self.arguments}
        if self.items is not None:
            values["items"] = self.items
        if self.error is not None:
            values["error"] = self.error
        elif self.result is not None:
            values["result"] = self.result
        return self.function.redacted(values)

    def boundary(self) -> Boundary:
        """Return the call as a recording holds it."""
        values, unavailable = {}, self.unavailable
        try:
            values = self.values()
        except Exception as error:
            unavailable = f"its redact= raised {type(error).__name__}"
            logger.exception("the values of %s are not kept: %s", self.function.name, unavailable)
        if unavailable is not None:
            values = {"arguments": values.get("arguments")}
        return Boundary(
            name=self.function.name,
            position=0,  # counted where all calls are known
            kind="generator" if self.items is not None else "function",
            chunks=tuple(self._chunks),
            started_at=_iso(self._started),
            completed_at=None if self._ended is None else _iso(self._ended),
            abandoned=self.abandoned,
            passes=self.passes,
            live=self.function.live,
            site=None if self._site is None else self._site.short,
            unavailable=unavailable,
            **values,
        )


class LoopPasses:
    """Counts the passes of an event loop since a call has ended.

    Of calls that end in one pass or in two that follow each other, a program may see all end at once: it
    runs later, when the callbacks of the first one have run.
    """

    def __init__(self) -> None:
        self._loop: Any = None
        self._passes: Literal[0, 1] = 0
        self._ends = 0

    def restart(self) -> Literal[0, 1] | None:
        """Return how many passes ago a call ended, None if more than one; one ends now."""
        asyncio: Any = sys.modules.get("asyncio")
        loop = None if asyncio is None else asyncio._get_running_loop()
        if loop is None:
            return None
        passes = self._passes if loop is self._loop else None
        if passes != 0:
            self._loop, self._passes = loop, 0
            self._ends += 1
            loop.call_soon(self._count, loop, self._ends)
        return passes

    def _count(self, loop: Any, end: int) -> None:
        if end != self._ends:
            return  # a later call has ended, perhaps in the loop of another thread
        if self._passes == 0:
            self._passes = 1
            loop.call_soon(self._count, loop, end)
        else:
            self._loop = None


class Slot:
    """The place of one call: an entry, or the claim to the recording that serves it."""

    __slots__ = ("content",)

    def __init__(self, content: Entry | Claim) -> None:
        self.content = content

    def boundary(self) -> Boundary | None:
        """Return the call as a recording holds it; None if it was refused."""
        if isinstance(self.content, Entry):
            return self.content.boundary()
        recording = self.content.recording
        return recording.boundary if isinstance(recording, BoundaryRecording) else None


class BoundaryLog:
    """The calls of recorded functions of one scope, in the order in which they began.

    Args:
        session_id: The session, for the log.

    Attributes:
        clock: The clock of the flow calls beside them.
        secrets: The API keys of the scope's clients.
        passes: Counts those between the ends of calls.
    """

    def __init__(self, session_id: str | None) -> None:
        self.clock: Callable[[], float] = time.time
        self.secrets: set[str] = set()
        self.passes = LoopPasses()
        self._session_id = session_id
        self._slots: list[Slot] = []
        self._limited = True  # a service takes only so many
        self._dropped = 0
        self._bytes = self._containers = 0
        self._ran = False
        self._has_warned = False
        self._lock = threading.Lock()

    def write_to_file(self, clock: Callable[[], float]) -> None:
        """Keep everything, with the times of a clock: the calls go to a file."""
        self.clock = clock
        self._limited = False

    def note_clients(self, scope: Scope) -> None:
        """Note the keys of the scope's clients: they are in no recording."""
        if scope._service is not None:
            for service in (scope._service, *scope.other_services):
                self.secrets |= keys_of(service)

    def add(self, entry: Entry) -> None:
        """Add a call whose body runs."""
        self.fill(self._append(Slot(entry)), entry)

    def reserve(self, claim: Claim) -> Slot:
        """Add a call that may be served from a recording."""
        return self._append(Slot(claim))

    def fill(self, slot: Slot, entry: Entry) -> None:
        """Note that the body of a call runs."""
        with self._lock:
            slot.content = entry
            self._ran = True
            self._count(entry, entry.arguments)

    def _append(self, slot: Slot) -> Slot:
        with self._lock:
            if not self._limited or len(self._slots) < MOST:
                self._slots.append(slot)
            else:
                self._dropped += 1
                if isinstance(slot.content, Entry):
                    self._warn(f"only the first {MOST:,} calls of recorded functions are kept")
        return slot

    def note_value(self, entry: Entry, value: Any) -> None:
        """Count the size of a value that an entry got; drop the entry's values if that is too much."""
        with self._lock:
            self._count(entry, value)

    def _count(self, entry: Entry, value: Any) -> None:
        if not self._limited or entry.unavailable is not None:
            return
        data = to_json(value)
        entry.size += len(data)
        self._bytes += len(data)
        # An item of a generator has a time beside it.
        containers = data.count(b"{") + data.count(b"[") + 1
        entry.containers += containers
        self._containers += containers
        problem = None
        if entry.size > MOST_BYTES_OF_ONE:
            problem = f"its values take {entry.size:,} bytes, and {MOST_BYTES_OF_ONE:,} are kept"
        elif self._bytes > MOST_BYTES:
            problem = f"the session's values take more than {MOST_BYTES:,} bytes"
        elif self._containers > MOST_CONTAINERS:
            problem = f"the session's values have more than {MOST_CONTAINERS:,} lists and objects"
        if problem is not None:
            entry.unavailable = problem
            self._bytes -= entry.size
            self._containers -= entry.containers
            entry.arguments = entry.result = entry.error = None
            entry.drop_items()
            self._warn(f"a value of {entry.function.name} is not kept: {problem}")

    def _warn(self, problem: str) -> None:
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "session %s: %s; a replay that needs the rest will say so",
                self._session_id,
                problem,
                extra={"noukai_session": self._session_id},
            )

    def warn_unsent(self) -> None:
        """Warn, once in the process, that there is no client to send the calls with."""
        if not _warned_unsent:
            _warned_unsent.append(True)
            logger.warning(
                "the recorded functions of session %s are not kept, because no client is known to send "
                "them with: pass client= to the middleware or to trace_scope()",
                self._session_id,
                extra={"noukai_session": self._session_id},
            )

    @property
    def has_news(self) -> bool:
        """Whether any function ran."""
        return self._ran

    def size(self) -> int:
        """Return how many bytes the calls take, about."""
        return self._bytes + 500 * len(self._slots)

    def boundaries(self) -> list[Boundary]:
        """Return the calls so far, redacted. A call that is still under way has no result.

        Calls that were served are the very objects of the recording.
        """
        with self._lock:
            slots = list(self._slots)
        return [each for slot in slots if (each := slot.boundary()) is not None]

    def body(self) -> Boundaries:
        """Return what the service gets."""
        from ..replay.cassette_file import redacted_boundary
        from ..replay.redaction import Redactor

        redactor = Redactor(secrets=self.secrets)
        kept = [redacted_boundary(each, redactor) for each in renumbered(self.boundaries())]
        total = len(kept) + self._dropped if self._dropped else None
        return Boundaries(boundaries=kept, total=total)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="microseconds")
