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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any

from ..replay.cassette_file import CassetteFile
from ..replay.recording import moment_of, seconds_of
from ..session.replay_scope import ReplayScope
from ..session.scope import Scope

_LONGEST_STAND = 10.0
# A longer pause without a look at the clock is a breakpoint, and counts as this one.
_LONGEST_PAUSE = 1.0


class FreezeError(Exception):
    """The clock cannot be held: time-machine is not installed, or another replay holds it."""


class HeldClock:
    """A clock that stands still, and moves on to the recorded end of each call that is served.

    If a program has looked at it for ten seconds while it stood, it goes on: the program waits for a
    time, and would never end.

    Args:
        start: When the request began, in seconds since 1970.
        end: When its response ended: the clock does not move beyond. None if that is not known.
    """

    def __init__(self, start: float, end: float | None = None) -> None:
        self._held = start
        self._end = end
        self._stood = 0.0
        self._looked_at = time.monotonic()

    def move(self, ended_at: float) -> None:
        """Move on to the end of a call; the clock never goes back."""
        now = self._now()
        self._held = max(now, ended_at if self._end is None else min(ended_at, self._end))
        self._stood = 0.0

    def time_ns(self) -> int:
        """Return the time in nanoseconds since 1970."""
        looked_at = time.monotonic()
        self._stood += min(looked_at - self._looked_at, _LONGEST_PAUSE)
        self._looked_at = looked_at
        # A float holds a time of today to a microsecond.
        return round(self._now() * 1e6) * 1000

    def _now(self) -> float:
        return self._held + max(0.0, self._stood - _LONGEST_STAND)


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
        traveller.time_ns = clock.time_ns  # type: ignore[method-assign]
        stack.enter_context(_seeded(f"{file.session_id}{later or ''}"))
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
    start = None if exchange is None else seconds_of(exchange.started_at)
    end = None if exchange is None else seconds_of(exchange.completed_at)
    if start is None:
        begun = [
            *(each.started_at for each in file.recordings),
            *(seconds_of(each.started_at) for each in file.boundaries),
        ]
        start = min((each for each in begun if each is not None), default=None)
    if start is None:
        name = f"session {file.session_id}" if file.session_id else "this cassette"
        raise FreezeError(
            f"{name} does not say when it was recorded, so there is no time to hold: capture the request "
            "with capture_requests=True"
        )
    shift = later.total_seconds()
    return HeldClock(start + shift, None if end is None else end + shift)


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


class _SeededOs:
    """The module ``os`` as ``uuid`` sees it: its random bytes are the same in each replay."""

    def __init__(self, seed: str) -> None:
        self.urandom = random.Random(seed).randbytes  # noqa: S311  # no secret is made of them

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)


@contextmanager
def _seeded(seed: str) -> Iterator[None]:
    """Seed the functions of ``random`` and ``uuid``, however modules have imported them."""
    module: Any = uuid
    before = random.getstate(), module.os, module._node
    random.seed(f"{seed}/random")
    module.os = _SeededOs(f"{seed}/uuid")
    # uuid1() would hold the address of this machine. This bit marks an address as made up.
    module._node = random.Random(f"{seed}/node").getrandbits(48) | 1 << 40  # noqa: S311
    try:
        yield
    finally:
        state, module.os, module._node = before
        random.setstate(state)
