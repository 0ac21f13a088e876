"""Hold clock, uuids and random numbers of this process at the values of a captured request.

For what the app reads by itself: ``datetime.now()``, ``uuid.uuid4()``, ``random.random()``. The values of
recorded functions come from the recording.

Everything here is process-wide: it is for tests and the command line, and no server uses it.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta, timezone
from typing import Any

from ..replay.cassette_file import CassetteFile
from ..replay.recording import moment_of, seconds_of
from ..session.replay_scope import ReplayScope
from ..session.scope import Scope
from .seen_values import (
    SeenTime,
    nanoseconds,
    times_of_production,
    to_nanoseconds,
    uuids_of_production,
)

# Seconds.
_LONGEST_STAND = 10.0
# Nanoseconds. The times of calls may be those of the service, by another clock.
_TOLERANCE = 50_000_000
# Seconds. A longer pause without a look at the clock is a breakpoint, and counts as this one.
_LONGEST_PAUSE = 1.0
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


class FreezeError(Exception):
    """The clock cannot be held: time-machine is not installed, or another replay holds it."""


class HeldClock:
    """A clock that stands still, and moves on to the recorded end of each call that is served.

    If a program has looked at it for ten seconds while it stood, it goes on: the program waits for a
    time, and would never end.

    Args:
        start: When the request began, in nanoseconds since 1970.
        end: When its response ended: the clock does not move beyond. None if that is not known.
        known: The times that production read, as far as they are known. The clock stands at the next one
            if it was read before another call began.
        starts: When the calls began.
    """

    def __init__(
        self,
        start: int,
        end: int | None = None,
        known: Sequence[SeenTime] = (),
        starts: Sequence[int] = (),
    ) -> None:
        self._end = end
        self._known = known
        self._starts = starts
        self._held = self._next_known(start, start)
        self._stood = 0.0
        self._looked_at = time.monotonic()

    def move(self, ended_at: float) -> None:
        """Move on to the end of a call, in seconds since 1970; the clock never goes back."""
        ended = to_nanoseconds(ended_at)
        moment = ended if self._end is None else min(ended, self._end)
        self._held = max(self._now(), self._next_known(moment, ended))
        self._stood = 0.0

    def _next_known(self, moment: int, ended: int) -> int:
        """Return the next known time from ``moment`` on; ``moment`` if there is none before the next call.

        Those that were sent with a call that had ``ended`` by then were read before.
        """
        for each in self._known:
            if each.until > ended and each.time >= moment - _TOLERANCE:
                late = any(moment < start < each.time - _TOLERANCE for start in self._starts)
                return moment if late else each.time
        return moment

    def time_ns(self) -> int:
        """Return the time in nanoseconds since 1970."""
        looked_at = time.monotonic()
        self._stood += min(looked_at - self._looked_at, _LONGEST_PAUSE)
        self._looked_at = looked_at
        return self._now()

    def _now(self) -> int:
        return self._held + int(max(0.0, self._stood - _LONGEST_STAND) * 1e9)


_lock = threading.Lock()
_clocks: list[HeldClock] = []  # the innermost is last
_current: ContextVar[HeldClock | None] = ContextVar("noukai_held_clock", default=None)


@contextmanager
def frozen(file: CassetteFile, *, later: timedelta = timedelta()) -> Iterator[HeldClock]:
    """Hold clock, uuids and random numbers while the block runs.

    Timers and timeouts go on, as ``time.monotonic()`` is not held.

    Args:
        file: The session, with its captured request.
        later: Hold another time, so much later, and other uuids and random numbers: what differs then
            depends on them.

    Yields:
        The clock, which is to be moved at the end of each call.

    Raises:
        FreezeError: time-machine is not installed; another replay holds the clock; or the session does
            not say when it was recorded.
    """
    try:
        import time_machine
    except ModuleNotFoundError as error:
        raise FreezeError("freeze needs time-machine: pip install time-machine") from error

    exchange = file.exchange
    moment = None if exchange is None else moment_of(exchange.started_at)
    with ExitStack() as stack:
        clock = stack.enter_context(_only(_clock_of(file, later)))
        stack.enter_context(_time_zone(moment))
        try:
            traveller = stack.enter_context(time_machine.travel(0, tick=False))
        except RuntimeError as error:  # freezegun holds it
            raise FreezeError(f"the clock cannot be held: {error}") from error
        traveller.time_ns = clock.time_ns  # type: ignore[method-assign]  # time-machine asks it for the time
        stack.enter_context(_texts_of_now())
        known = [] if later else uuids_of_production(file)
        stack.enter_context(_seeded(f"{file.session_id}{later or ''}", known))
        yield clock


@contextmanager
def frozen_replay(
    scope: Scope, file: CassetteFile, *, later: timedelta = timedelta()
) -> Iterator[None]:
    """Hold what :func:`frozen` holds while a scope replays ``file``.

    Nothing is held in a scope whose calls may go live: a service would refuse the time of the capture, or
    take the same uuid for the same request.
    """
    if not isinstance(scope, ReplayScope) or scope.is_fork:
        yield
        return
    with frozen(file, later=later) as clock, scope.notifying(clock.move):
        yield


@contextmanager
def _only(clock: HeldClock) -> Iterator[HeldClock]:
    """Refuse a second replay at the same time. One inside the other is no such thing."""
    with _lock:
        if _clocks and _clocks[-1] is not _current.get():
            raise FreezeError(
                "another replay holds the clock of this process: run replays with freeze one after the "
                "other, or in processes of their own"
            )
        _clocks.append(clock)
    token = _current.set(clock)
    try:
        yield clock
    finally:
        _current.reset(token)
        with _lock:
            _clocks.remove(clock)


def _clock_of(file: CassetteFile, later: timedelta) -> HeldClock:
    """Return the clock at the time of the request; without one, of the first call."""
    exchange = file.exchange
    start = None if exchange is None else moment_of(exchange.started_at)
    end = None if exchange is None else moment_of(exchange.completed_at)
    begun = [
        *(each.started_at for each in file.recordings),
        *(seconds_of(each.started_at) for each in file.boundaries),
    ]
    starts = [to_nanoseconds(each) for each in begun if each is not None]
    if start is None and not starts:
        name = f"session {file.session_id}" if file.session_id else "this cassette"
        raise FreezeError(
            f"{name} does not say when it was recorded, so there is no time to hold: capture the request "
            "with capture_requests=True"
        )
    first = min(starts) if start is None else nanoseconds(start)
    if later:
        return HeldClock(first + nanoseconds(_EPOCH + later))
    last = None if end is None else nanoseconds(end)
    return HeldClock(first, last, times_of_production(file), starts)


@contextmanager
def _time_zone(moment: datetime | None) -> Iterator[None]:
    """Give the process the UTC offset of a moment, for naive datetimes. On Windows there is no way to."""
    offset = None if moment is None else moment.utcoffset()
    if moment is None or offset is None or offset == moment.astimezone().utcoffset():
        yield
        return
    minutes = round(offset.total_seconds() / 60)
    east = f"{abs(minutes) // 60:02}{abs(minutes) % 60:02}"
    # POSIX counts to the west.
    name, west = (f"+{east}", "-") if minutes > 0 else (f"-{east}", "+")
    before = os.environ.get("TZ")
    _set_time_zone(f"<{name}>{west}{east[:2]}:{east[2:]}" if minutes else "UTC0")
    try:
        yield
    finally:
        _set_time_zone(before)


def _set_time_zone(name: str | None) -> None:
    if not hasattr(time, "tzset"):
        return
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = name
    time.tzset()


@contextmanager
def _texts_of_now() -> Iterator[None]:
    """Hold ``time.ctime()`` and ``time.asctime()``, which time-machine leaves alone."""
    ctime, asctime = time.ctime, time.asctime
    time.ctime = lambda seconds=None: ctime(time.time() if seconds is None else seconds)
    time.asctime = lambda t=None: asctime(time.localtime() if t is None else t)
    try:
        yield
    finally:
        time.ctime, time.asctime = ctime, asctime


class _SeededOs:
    """The module ``os`` as ``uuid`` sees it: its random bytes are the same in each replay.

    Args:
        seed: What the bytes depend on.
        known: The uuids of production, which come first.
    """

    def __init__(self, seed: str, known: Sequence[uuid.UUID]) -> None:
        self._random = random.Random(seed)  # noqa: S311  # no secret is made of it
        self._known = deque(known)

    def urandom(self, size: int) -> bytes:
        """Return the bytes of a uuid."""
        if size == 16 and self._known:
            return self._known.popleft().bytes
        return self._random.randbytes(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@contextmanager
def _seeded(seed: str, known: Sequence[uuid.UUID]) -> Iterator[None]:
    """Seed the functions of ``random`` and ``uuid``, however modules have imported them."""
    module: Any = uuid
    before = random.getstate(), module.os, module._node
    random.seed(f"{seed}/random")
    module.os = _SeededOs(f"{seed}/uuid", known)
    # uuid1() would hold the address of this machine. This bit marks an address as made up.
    module._node = random.Random(f"{seed}/node").getrandbits(48) | 1 << 40  # noqa: S311  # no secret is made of it
    try:
        yield
    finally:
        state, module.os, module._node = before
        random.setstate(state)
