"""Tell whether the program of one replay can go further by itself, whatever else the process does.

A server replays several requests at once and serves others meanwhile, so "nothing runs" is never true of
the process. What belongs to a replay is known: its tasks and callbacks have its scope in their context, and
``carry_threads`` hands its work to threads and pools through :class:`Work`. Threads that nobody handed
over (those of anyio and trio, the thread of a request) belong to it from their first call on. They can only
be looked at: a thread has come to rest if no frame of it moves and the kernel does not run it.
"""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from contextvars import Context
from enum import IntEnum
from typing import Any
from weakref import WeakKeyDictionary

_QUIET = 3  # looks at a process in which nothing moves
_BUSY = 20  # looks if only others move, whose work may be for this replay
# So many other threads are looked at, each for some 10 µs. A process with more counts as one in which
# others move.
_MOST_OTHERS = 64
# A thread that waits for the interpreter's lock seems to stand still, but not for longer than this: it
# asks for the lock again after each switch interval, which the kernel counts.
_SWITCHES = 2.0
# The loops of threads: above them is what a thread does at the moment.
_POOLS = ("threading", "concurrent.futures.", "multiprocessing.pool", "anyio.", "trio.")
_BLOCKED = 0.02  # seconds that an event loop is given to answer
_RUNNABLE = ("R", "D")  # states of a thread in Linux: runnable, and reading a disk

States = dict[int, tuple[Any, ...]]

_collecting = threading.Lock()  # held while garbage collection is off
# The threads that wait for their turn: they do not count as running.
waiting_threads: set[int] = set()
# Whose work each thread did last.
_owners: WeakKeyDictionary[threading.Thread, weakref.ref[Activity]] = WeakKeyDictionary()


class Motion(IntEnum):
    """What a look has seen moving."""

    NOTHING = 0
    OTHERS = 1
    OWN = 2


class Progress:
    """How often any replay of the process went on. Not exact, and need not be."""

    count = 0


class Look:
    """What one turn has seen of its program since that moved last.

    Attributes:
        is_elsewhere: Other threads or event loops do work of the replay, and need time for it.
    """

    def __init__(self) -> None:
        self.changes = -1
        self.is_elsewhere = False
        self.states: States = {}
        self.others: States | None = None
        self.restart()

    def restart(self) -> None:
        """Forget what was seen: the program moves."""
        self.still = self.quiet = 0
        self.since = time.monotonic()

    def note(self, motion: Motion | None) -> None:
        """Note what a look has seen; None: nothing yet."""
        if motion is None:
            return
        if motion is Motion.OWN:
            self.restart()
            return
        self.still += 1
        self.quiet = self.quiet + 1 if motion is Motion.NOTHING else 0

    def rests(self, looks: int = _QUIET) -> bool:
        """Return whether the program has come to rest, after ``looks`` looks in a quiet process."""
        if self.quiet >= looks:
            return True
        longest = _SWITCHES * sys.getswitchinterval() if self.states else 0.0
        return self.still >= max(looks, _BUSY) and time.monotonic() - self.since >= longest


class Activity:
    """The tasks and threads of one replay. Safe to use from many threads.

    Args:
        whose: Returns whether code in a context belongs to the replay; None if it belongs to nobody.
    """

    def __init__(self, whose: Callable[[Context], bool | None] = lambda _: True) -> None:
        self.whose = whose
        self.changes = 0
        self._works: set[Work] = set()
        self._callers: dict[threading.Thread, Caller] = {}
        self._loops: WeakKeyDictionary[Any, LoopTasks] = WeakKeyDictionary()
        self._lock = threading.RLock()  # finalizers of abandoned calls run at any time

    def hand_over(self, pool: Any = None) -> Work:
        """Return the work that this thread hands over to a pool, or to a new thread."""
        self.note_loop()
        work = ThreadWork(self, None) if pool is None else Work(self, pool)
        with self._lock:
            self._works.add(work)
            self.changes += 1
        return work

    def moved(self, ended: Work | None = None) -> None:
        """Note that the program has moved, perhaps as a work has ended."""
        with self._lock:
            self.changes += 1
            if ended is not None:
                self._works.discard(ended)

    def note_caller(self) -> None:
        """Note that the running thread or event loop makes a call."""
        if not self.note_loop():
            thread = threading.current_thread()
            with self._lock:
                if all(work.thread is not thread for work in self._works):
                    self._callers[thread] = Caller(sys._getframe())
                    _owners[thread] = weakref.ref(self)

    def note_loop(self) -> bool:
        """Return whether an event loop runs in this thread; if so, note that it has tasks of the replay."""
        loop = _running_loop()
        if loop is not None and loop not in self._loops:
            with self._lock:
                self._loops[loop] = tasks_of(loop, self)
        return loop is not None

    def tasks(self, loop: Any) -> LoopTasks:
        """Return the tasks of the replay on a loop that is noted."""
        return self._loops[loop]

    @property
    def is_queued(self) -> bool:
        """Whether work has been handed over that no thread has begun, but may begin."""
        running: dict[int, int] = {}
        with self._lock:
            works = [*self._works]
        for work in works:
            if work.thread is not None:
                running[id(work.pool)] = running.get(id(work.pool), 0) + 1
        # If all workers of a pool run work of this replay, they decide when the next begins.
        return any(
            work.thread is None and running.get(id(work.pool), 0) < work.most_at_once
            for work in works
        )

    def look(self, look: Look, own_loop: Any = None) -> Motion | None:
        """Return what moves in threads, and on other loops than the one of the caller.

        None: a loop has not answered yet.
        """
        with self._lock:
            if look.changes != self.changes:
                look.changes = self.changes
                return Motion.OWN
            if any(work.is_leaving for work in [*self._works]):
                return Motion.OWN
            loops = [tasks for loop, tasks in self._loops.items() if loop is not own_loop]
            threads = {work.thread for work in self._works if work.thread is not None}
            callers = [*self._callers.items()]
        look.is_elsewhere = bool(loops or look.states)
        motion = Motion.NOTHING
        answered: set[int] = set()
        silent: set[int] = set()
        for tasks in loops:
            answer = tasks.ask()
            if tasks.has_ended:
                continue
            if answer is not None:
                motion = max(motion, answer)
                answered.add(tasks.thread)
            elif tasks.is_blocked:
                silent.add(tasks.thread)
            else:
                return None
        if motion is Motion.OWN:
            return motion
        frames = current_frames()
        for thread, caller in callers:
            if _owner(thread) is not self or not caller.is_there(frames.get(thread.ident or 0)):
                self._callers.pop(thread, None)
            else:
                threads.add(thread)
        own = {thread.ident or 0 for thread in threads} | silent
        # The question wakes the thread of a loop, whose answer says all.
        own -= answered | waiting_threads | {threading.get_ident()}
        states = thread_states(own)
        moves = states != look.states or not _all_sleep(states)
        look.states = states
        if moves:
            look.others = None
            return Motion.OWN
        if not states and not loops and own_loop is not None:
            return motion
        return max(motion, self._others(look, own | answered | {threading.get_ident()}))

    def _others(self, look: Look, seen: set[int]) -> Motion:
        """Return whether threads move that may work for this replay, as far as anybody knows."""
        if look.still and not look.quiet:
            return Motion.OTHERS  # found before: looking at all threads takes long
        idents = set()
        for thread in threading.enumerate():
            if thread.ident is None:  # it is about to start
                return Motion.OTHERS
            if _owner(thread) in (None, self):
                idents.add(thread.ident)
        if len(idents) > _MOST_OTHERS:
            return Motion.OTHERS
        before, look.others = look.others, thread_states(idents - seen - waiting_threads)
        still = before == look.others and _all_sleep(look.others)
        # Nothing to compare with yet: no reason to think that the process is busy.
        return Motion.NOTHING if still else Motion.OWN if before is None else Motion.OTHERS


class Work:
    """A function that another thread runs for a replay, until those who wait for its result know of it."""

    def __init__(self, activity: Activity, pool: Any) -> None:
        self.pool = pool
        self.thread: threading.Thread | None = None
        self._activity = activity
        self._finished = False
        self._future: Any = None

    @property
    def most_at_once(self) -> float:
        """How many works its pool runs at once."""
        return getattr(self.pool, "_max_workers", float("inf"))

    @property
    def is_leaving(self) -> bool:
        """Whether the function has returned, and its thread still has to say so."""
        return self._finished

    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call the function in the thread that does the work."""
        self.thread = thread = threading.current_thread()
        _owners[thread] = weakref.ref(self._activity)
        Progress.count += 1
        self._activity.moved()
        try:
            return function(*args, **kwargs)
        finally:
            self._finished = True
            self._end_after(self._future)

    def becomes(self, future: Any) -> None:
        """Note the future of the work. It may have been done, or cancelled, by now."""
        self._future = future
        future.add_done_callback(self._end_if_cancelled)
        if self._finished:
            self._end_after(future)

    def end(self, _: Any = None) -> None:
        """Note that nothing follows from the work any more."""
        self._future = None
        self._activity.moved(self)

    def _end_after(self, future: Any) -> None:
        # The callback that was added last runs last: by then an event loop has been told.
        if future is not None:
            future.add_done_callback(self.end)

    def _end_if_cancelled(self, future: Any) -> None:
        if future.cancelled():
            self.end()


class ThreadWork(Work):
    """All that a thread does, from its start until it has ended."""

    @property
    def is_leaving(self) -> bool:
        """Whether the thread is about to end."""
        if self._finished and self.thread is not None and not self.thread.is_alive():
            self._activity._works.discard(self)  # called with the lock
            return False
        return self._finished


class Caller:
    """A thread that nobody handed over, as long as it runs the function that made a call."""

    def __init__(self, frame: Any) -> None:
        self._function = _outermost(frame)
        self._since = 0.0

    def is_there(self, frame: Any) -> bool:
        """Return whether the thread still runs the function, or has a moment to hand its result over."""
        if frame is None:
            return False
        function = _outermost(frame)
        if function == self._function:
            return True
        now = time.monotonic()
        self._since = self._since or now
        return function is None and now - self._since < _SWITCHES * sys.getswitchinterval()


def _outermost(frame: Any) -> tuple[int, int] | None:
    """Return the identity of the first frame of a thread that is not of a pool's own loop."""
    outermost = None
    while frame is not None:
        if not str(frame.f_globals.get("__name__")).startswith(_POOLS):
            outermost = id(frame), id(frame.f_code)
        frame = frame.f_back
    return outermost


class LoopTasks:
    """The tasks of one replay on an event loop, as other threads see them.

    Attributes:
        thread: The thread of the loop.
        has_ended: The loop runs no more.
    """

    def __init__(self, post: Callable[[Callable[[], None]], Any], activity: Activity) -> None:
        self.thread = threading.get_ident()
        self._post = post
        self._activity = weakref.ref(activity)
        self.has_ended = False
        self._asked_at = 0.0  # not asked
        self._answer: Motion | None = None

    @property
    def is_blocked(self) -> bool:
        """Whether the loop has not answered for so long that it stands still, or is very busy."""
        return self._asked_at > 0 and time.monotonic() - self._asked_at > _BLOCKED

    def motion(self) -> Motion:
        """Return what is ready to run on the loop. Called on the loop."""
        raise NotImplementedError

    def ask(self) -> Motion | None:
        """Return what the loop has answered since the last question, None without an answer; ask again."""
        answer, self._answer = self._answer, None
        if not self._asked_at:
            self._asked_at = time.monotonic()
            try:
                self._post(self._respond)
            except RuntimeError:
                self.has_ended = True
        return answer

    def _respond(self) -> None:
        # What belongs to nobody does not count: that the question came has made callbacks ready.
        self._answer = Motion.OWN if self.motion() is Motion.OWN else Motion.NOTHING
        self._asked_at = 0.0


class AsyncioTasks(LoopTasks):
    """The callbacks that are ready on an asyncio loop. uvloop does not show them.

    Attributes:
        shows: Whether they can be seen.
        looking: How many tasks of the replay are between two looks.
    """

    def __init__(self, loop: Any, activity: Activity) -> None:
        loop_ref = weakref.ref(loop)

        def post(respond: Callable[[], None]) -> None:
            found = loop_ref()
            if found is None:
                raise RuntimeError
            found.call_soon_threadsafe(respond, context=_NO_CONTEXT)

        super().__init__(post, activity)
        self._ready = getattr(loop, "_ready", None)
        # What a loop does when another thread wakes it, in the context in which the loop was made.
        self._wake_up = getattr(type(loop), "_read_from_self", None)
        self.shows = self._ready is not None
        self.looking = 0

    def motion(self) -> Motion:
        """Return whose callbacks are ready."""
        activity = self._activity()
        own = others = 0
        if activity is None:
            return Motion.NOTHING
        for handle in [*(self._ready or ())]:  # a copy: other threads add to it
            if self._wake_up and getattr(handle._callback, "__func__", None) is self._wake_up:
                continue
            whose = activity.whose(handle._context)
            own += whose is True
            others += whose is None
        if own > self.looking:
            return Motion.OWN
        return Motion.OTHERS if others else Motion.NOTHING


_NO_CONTEXT = Context()  # of callbacks that only look


def _running_loop() -> Any:
    """Return the asyncio loop or the trio token of this thread."""
    asyncio: Any = sys.modules.get("asyncio")
    loop = None if asyncio is None else asyncio._get_running_loop()
    trio: Any = sys.modules.get("trio")
    if loop is None and trio is not None and trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token()
    return loop


def tasks_of(loop: Any, activity: Activity) -> LoopTasks:
    """Return the tasks of a replay on the loop that runs in this thread."""
    if hasattr(loop, "call_soon_threadsafe"):
        return AsyncioTasks(loop, activity)
    from .trio_tasks import TrioTasks

    return TrioTasks(loop, activity)


def current_frames() -> dict[int, Any]:
    """Return the frame of each thread, by its ident.

    Before Python 3.13 a garbage collection in between can stop the process for ever: its finalizers let
    a thread start, which then waits for the list of threads and keeps the interpreter's lock.
    """
    with _collecting:
        is_enabled = gc.isenabled()
        gc.disable()
        try:
            return sys._current_frames()
        finally:
            if is_enabled:
                gc.enable()


def thread_states(idents: Iterable[int]) -> States:
    """Return how far each thread has come."""
    idents = set(idents)
    if not idents:
        return {}
    frames = current_frames()
    states: States = {}
    for thread in threading.enumerate():
        if thread.ident in idents:
            frame = frames.get(thread.ident)
            at = None if frame is None else frame.f_lasti
            states[thread.ident] = (id(frame), at, _kernel_state(thread))
    return states


def _all_sleep(states: States) -> bool:
    return not any(state.startswith(_RUNNABLE) for *_, state in states.values())


def _kernel_state(thread: threading.Thread) -> str:
    """Return what Linux knows of a thread: whether it can run, and how often it stopped running.

    A thread that found the interpreter's lock taken has not moved for Python, but it has for Linux.
    """
    try:
        status = os.open(f"/proc/self/task/{thread.native_id}/status", os.O_RDONLY)
    except OSError:
        return ""
    try:
        text = os.read(status, 4096).decode()
    except (OSError, ValueError):
        return ""
    finally:
        os.close(status)
    state = text.partition("State:\t")[2][:1]
    return state + text.partition("\nvoluntary_ctxt_switches:")[2]


def _owner(thread: threading.Thread) -> Activity | None:
    owner = _owners.get(thread)
    return None if owner is None else owner()
