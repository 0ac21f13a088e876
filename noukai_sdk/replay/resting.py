"""Wait until the program can go no further: on asyncio, on trio, in threads and in greenlets of gevent.

The turn that is first watches its program (activity.py) from its own task or thread; the others sleep
until they are first.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from .activity import Look, Motion, current_frames, waiting_threads

if TYPE_CHECKING:
    import asyncio

    from .completion_order import Turn

_THREADS = 0.0003  # seconds between two looks at threads
_NAP = 0.001  # seconds between two looks while a missing call is waited for
_SLEEP = 0.05  # seconds until a turn that is not first looks by itself
_LOOKS = 3
_LOOKS_WITHOUT_READY = 50  # on loops that do not show what is ready (uvloop)


def watch_threads(turn: Turn) -> None:
    """Block this thread until ``turn`` has come."""
    if _in_event_loop():
        return  # the loop stands still meanwhile, so no other task can come before
    order, look = turn.order, Look()
    woken = threading.Event()
    turn.wake = lambda at_once: woken.set()
    green = _runs_on_gevent()
    alone = not green and _is_only_thread()
    thread = threading.get_ident()
    waiting_threads.add(thread)
    try:
        while True:
            if not order.is_first(turn):
                woken.wait(_SLEEP)
                woken.clear()
                continue
            if alone:
                look.note(Motion.NOTHING)
            elif green:
                look.note(Motion.NOTHING if _greenlets_are_still() else Motion.OWN)
            else:
                time.sleep(_NAP if turn.resting else _THREADS)
                look.note(order.activity.look(look))
            if order.has_come(turn, rests=look.rests(1 if alone else _LOOKS), alone=alone):
                return
    finally:
        waiting_threads.discard(thread)


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

    order, look = turn.order, Look()
    tasks: Any = order.activity.tasks(loop)
    looks = _LOOKS if tasks.shows else _LOOKS_WITHOUT_READY
    woken = asyncio.Event()

    def wake(at_once: bool) -> None:
        if at_once and asyncio._get_running_loop() is loop:
            woken.set()  # before the callbacks of the turn that wakes this one: they may cancel it
            return
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
        if turn.resting or look.is_elsewhere:
            await asyncio.sleep(_NAP if turn.resting else _THREADS)
        tasks.looking += 1
        try:
            await asyncio.sleep(0)
        finally:
            tasks.looking -= 1
        look.note(_both(tasks.motion(), order.activity.look(look, loop)))
        if order.has_come(turn, rests=look.rests(looks)):
            return


async def _watch_trio(turn: Turn) -> None:
    import trio

    order, look = turn.order, Look()
    woken = trio.Event()
    token = trio.lowlevel.current_trio_token()
    tasks: Any = order.activity.tasks(token)

    def wake(at_once: bool) -> None:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(woken.set)

    turn.wake, turn.loop = wake, token
    while True:
        if not order.is_first(turn):
            with trio.move_on_after(_SLEEP):
                await woken.wait()
            woken = trio.Event()
            continue
        tasks.looking = trio.lowlevel.current_task()
        try:
            if turn.resting or look.is_elsewhere:
                await trio.sleep(_NAP if turn.resting else _THREADS)
            await trio.lowlevel.checkpoint()
        finally:
            tasks.looking = None
        look.note(_both(tasks.motion(), order.activity.look(look, token)))
        if order.has_come(turn, rests=look.rests(_LOOKS)):
            return


def _both(of_loop: Motion, of_threads: Motion | None) -> Motion | None:
    """Return what moves altogether; None if that is not known yet."""
    if of_loop is Motion.OWN or of_threads is None:
        return of_loop if of_loop is Motion.OWN else None
    return max(of_loop, of_threads)


def _runs_on_gevent() -> bool:
    """Return whether threads are greenlets, of which Python and the kernel see only one."""
    monkey: Any = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def _greenlets_are_still() -> bool:
    gevent: Any = sys.modules["gevent"]
    return bool(gevent.with_timeout(_SLEEP, gevent.idle, timeout_value=0) is None)


def _is_only_thread() -> bool:
    green = "gevent" in sys.modules or "eventlet" in sys.modules
    return not green and len(current_frames()) == 1


def _in_event_loop() -> bool:
    asyncio: Any = sys.modules.get("asyncio")
    if asyncio is not None and asyncio._get_running_loop() is not None:
        return True
    trio: Any = sys.modules.get("trio")
    return trio is not None and trio.lowlevel.in_trio_run()
