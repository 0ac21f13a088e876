"""Control the clock that the user's code reads."""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
import timeit
from collections.abc import Callable
from typing import Any

from .sites import owner_of
from .source_reads import Read, Sources

# Each run with another time has another day of the week, hour, minute, second and fraction.
_DAY = 86_400.0
_SHIFTS = (
    1 * _DAY + 11 * 3600 + 17 * 60 + 41.123457,
    45 * _DAY + 5 * 3600 + 31 * 60 + 7.654321,
    190 * _DAY + 17 * 3600 + 49 * 60 + 23.271828,
    398 * _DAY + 8 * 3600 + 8 * 60 + 53.141593,
    -3 * _DAY - 2 * 3600 - 53 * 60 - 29.577215,
    12 * _DAY + 20 * 3600 + 23 * 60 + 13.414213,
    271 * _DAY + 14 * 3600 + 2 * 60 + 37.732051,
)
# Each read takes this long, so that nothing takes no time at all.
_STEP = 0.001
_OTHER_STEP = 0.0613
# After so many seconds, or reads, the clock goes on: the program may wait for it.
_FROZEN = 2.0
_FROZEN_READS = 1_000

_MONOTONIC = ("monotonic", "perf_counter", "process_time", "thread_time")


def control_clock(sources: Sources) -> None:
    """Give the user's code the time of the run, from now on. Other code has the real time."""
    import time_machine

    started, started_at = time.perf_counter(), time.time_ns()
    perf_counter = time.perf_counter
    reads = itertools.count()

    def ticked(read: Read, number: int) -> float:
        elapsed = perf_counter() - sources.began
        late = elapsed if elapsed > _FROZEN or number > _FROZEN_READS else 0.0
        return number * (_OTHER_STEP if read.varied else _STEP) + late

    def time_ns() -> int:
        read = sources.read("time", _clock_function())
        if read is None:
            return started_at + int((perf_counter() - started) * 1e9)
        shift = _SHIFTS[sources.plan.variant % len(_SHIFTS)] if read.varied else 0.0
        now = (sources.plan.clock or started_at / 1e9) + ticked(read, next(reads)) + shift
        return int(now * 1_000_000) * 1000

    traveller: Any = time_machine.travel(0, tick=False).start()
    traveller.time_ns = time_ns
    traveller.time = lambda: time_ns() / 1e9  # of earlier versions of time-machine

    # time-machine does not hold these two.
    ctime, asctime = time.ctime, time.asctime
    time.ctime = lambda seconds=None: ctime(time.time() if seconds is None else seconds)
    time.asctime = lambda t=None: asctime(time.localtime() if t is None else t)

    def monotonic(name: str, original: Callable[[], float]) -> Callable[[], float]:
        first = original()

        def read_clock() -> float:
            # The event loop has its own times, even if the user's code is on the stack.
            if owner_of(sys._getframe(1).f_code.co_filename) != "user":
                return original()
            read = sources.read("time", f"time.{name}")
            return original() if read is None else first + ticked(read, next(reads))

        read_clock.__name__ = name
        return read_clock

    for name in _MONOTONIC:
        of_clock = monotonic(name, getattr(time, name))
        setattr(time, name, of_clock)
        setattr(time, f"{name}_ns", _in_nanoseconds(name, sources, of_clock))
    timeit.default_timer = time.perf_counter
    _note_loop_times(sources)


def _note_loop_times(sources: Sources) -> None:
    """Note who reads the time of an event loop, which cannot be changed: the loop runs by it."""
    loop: Any = asyncio.BaseEventLoop
    original = loop.time

    def read_time(self: Any) -> float:
        if owner_of(sys._getframe(1).f_code.co_filename) == "user":
            sources.read("loop", "loop.time")
        value: float = original(self)
        return value

    loop.time = read_time


def _in_nanoseconds(
    name: str, sources: Sources, of_clock: Callable[[], float]
) -> Callable[[], int]:
    original: Callable[[], int] = getattr(time, f"{name}_ns")
    start = original()
    seconds = [0.0]

    def read_clock() -> int:
        if owner_of(sys._getframe(1).f_code.co_filename) != "user":
            return original()
        read = sources.read("time", f"time.{name}_ns")
        if read is None:
            return original()
        seconds[0] += _OTHER_STEP if read.varied else _STEP
        return start + int(seconds[0] * 1e9)

    read_clock.__name__ = f"{name}_ns"
    return read_clock


def _clock_function() -> str:
    """Return the function by which the clock is read, as far as time-machine shows it."""
    frame: Any = sys._getframe(2)
    name = "time"
    for _ in range(4):
        if frame is None or owner_of(frame.f_code.co_filename) != "doctor":
            break
        if "time_machine" in frame.f_code.co_filename:
            name = frame.f_code.co_name
        frame = frame.f_back
    return f"datetime.{name}" if name in ("now", "utcnow", "today") else f"time.{name}"
