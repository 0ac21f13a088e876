"""Tell when the rest of the program can go no further: on asyncio, on trio and in threads.

The turn that is first watches the program from its own task or thread; the others sleep until they are
first. asyncio has no public way to tell whether other tasks are ready. CPython's loops keep ready
callbacks in ``_ready``; loops without it (uvloop) get a number of passes in which no call comes or goes.
Threads stand still if no frame moves and, on Linux, if the kernel says that none is to run. Greenlets of
gevent stand still if their hub is idle.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    import asyncio

    from .completion_order import Turn

_THREADS = 0.0003  # seconds between two looks at threads
_NAP = 0.001  # seconds between two looks while a missing call is waited for
_SLEEP = 0.05  # seconds until a turn that is not first looks by itself
_LOOKS = 3
_LOOKS_WITHOUT_READY = 50
_RUNNABLE = ("R", "D")  # states of a thread in Linux: runnable, and reading a disk

# The threads that wait for their turn: they do not count as running.
_waiting_threads: set[int] = set()
# How many tasks of an asyncio loop are between two looks.
_looking: WeakKeyDictionary[Any, int] = WeakKeyDictionary()


class ProgramWatch(NamedTuple):
    """How the program is watched.

    Attributes:
        looks: After so many looks without a change it rests.
        alone: Nothing else can run.
    """

    looks: int
    alone: bool = False


def watch_threads(turn: Turn) -> None:
    """Block this thread until ``turn`` has come."""
    if _in_event_loop():
        return  # the loop stands still meanwhile, so no other task can come before
    order = turn.order
    order.in_threads = True
    woken = threading.Event()
    turn.wake = woken.set
    is_still = _threads_are_still
    if _runs_on_gevent():
        is_still = _greenlets_are_still
    alone = is_still is _threads_are_still and _is_only_thread()
    watch = ProgramWatch(1 if alone else _LOOKS, alone)
    thread = threading.get_ident()
    _waiting_threads.add(thread)
    try:
        while True:
            if order.is_first(turn):
                if turn.resting:
                    time.sleep(_NAP)
                if order.has_come(turn, watch, still=alone or is_still()):
                    return
            else:
                woken.wait(_SLEEP)
                woken.clear()
    finally:
        _waiting_threads.discard(thread)


async def watch_loop(turn: Turn) -> None:
    """Wait on asyncio or trio until ``turn`` has come."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        await _watch_trio(turn)
    else:
        await _watch_asyncio(turn, loop)


async def _watch_asyncio(turn: Turn, loop: asyncio.AbstractEventLoop) -> None:
    import asyncio

    order = turn.order
    ready = getattr(loop, "_ready", None)
    watch = ProgramWatch(_LOOKS if ready is not None else _LOOKS_WITHOUT_READY)
    woken = asyncio.Event()

    def wake() -> None:
        with suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(woken.set)

    turn.wake, turn.loop = wake, loop
    while True:
        if not order.is_first(turn):
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            timer = loop.call_later(_SLEEP, woken.set)
            try:
                await woken.wait()
            finally:
                timer.cancel()
            woken.clear()
            continue
        if order.comes_along(turn):
            return
        if turn.resting:
            await asyncio.sleep(_NAP)
        with _counted(loop):
            await asyncio.sleep(0)
            # Every other turn that looks has one callback among those that are ready.
            still = ready is None or len(ready) < _looking[loop]
        if order.in_threads and turn.still + _LOOKS >= watch.looks:
            still = still and _threads_are_still()
        if order.has_come(turn, watch, still=still):
            return


async def _watch_trio(turn: Turn) -> None:
    import trio
    from trio.testing import wait_all_tasks_blocked

    order = turn.order
    watch = ProgramWatch(1)
    woken = trio.Event()
    token = trio.lowlevel.current_trio_token()

    def wake() -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(woken.set)

    turn.wake, turn.loop = wake, token
    while True:
        if not order.is_first(turn):
            with trio.move_on_after(_SLEEP):
                await woken.wait()
            woken = trio.Event()
            continue
        if turn.resting:
            await trio.sleep(_NAP)
        with trio.move_on_after(_SLEEP) as limit:
            await wait_all_tasks_blocked()
        still = not limit.cancelled_caught
        still = still and (not order.in_threads or _threads_are_still())
        if order.has_come(turn, watch, still=still):
            return


@contextmanager
def _counted(loop: Any) -> Iterator[None]:
    _looking[loop] = _looking.get(loop, 0) + 1
    try:
        yield
    finally:
        _looking[loop] -= 1


def _threads_are_still() -> bool:
    """Return whether no thread runs that does not wait for its turn."""
    # This blocks an event loop, but not for long. A loop that runs meanwhile may itself use a thread
    # (trio as a guest of another loop), which would never be still.
    before = _thread_states()
    time.sleep(_THREADS)
    after = _thread_states()
    return before == after and not any(state.startswith(_RUNNABLE) for *_, state in after.values())


def _thread_states() -> dict[int | None, tuple[Any, ...]]:
    """Return how far each thread has come that does not wait for its turn."""
    own = threading.get_ident()
    frames = sys._current_frames()
    states: dict[int | None, tuple[Any, ...]] = {}
    for thread in threading.enumerate():
        if thread.ident is None:  # it is about to start
            states[None] = (_RUNNABLE[0],)
        elif thread.ident != own and thread.ident not in _waiting_threads:
            frame = frames.get(thread.ident)
            at = None if frame is None else frame.f_lasti
            states[thread.ident] = (id(frame), at, _kernel_state(thread))
    return states


def _kernel_state(thread: threading.Thread) -> str:
    """Return what Linux knows of a thread: whether it can run, and how often it stopped running.

    A thread that found the interpreter's lock taken has not moved for Python, but it has for Linux.
    """
    try:
        text = Path(f"/proc/self/task/{thread.native_id}/status").read_text()
    except (OSError, ValueError):
        return ""
    state = text.partition("State:\t")[2][:1]
    return state + text.partition("\nvoluntary_ctxt_switches:")[2]


def _runs_on_gevent() -> bool:
    """Return whether threads are greenlets, of which Python and the kernel see only one."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _greenlets_are_still() -> bool:
    gevent: Any = sys.modules["gevent"]
    return bool(gevent.with_timeout(_SLEEP, gevent.idle, timeout_value=0) is None)


def _is_only_thread() -> bool:
    green = "gevent" in sys.modules or "eventlet" in sys.modules
    return not green and len(sys._current_frames()) == 1


def _in_event_loop() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
