"""Send what nobody waits for in the background: outcomes, exchanges, reports.

Nothing here raises, and nothing here delays the response of an application. A thread sends one thing after
the other, with an HTTP client of its own, so that it does not matter whether the user's client is closed
meanwhile, or the event loop ends. More threads help it while many jobs wait. What is about one session is
sent in its order. A user's own ``http_client`` is used as it is. An async one is used in
the running event loop, because its connections belong to that.
"""

from __future__ import annotations

import asyncio
import atexit
import codecs
import logging
import os
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from typing import Any, NamedTuple

from ..errors import APIConnectionError, APITimeoutError, NoukaiError
from ..protocol.call import Service
from ..protocol.program import Program, longest
from .live_calls import check_allowed

Send = Callable[..., Program[bool]]
"""A function such as ``put_outcomes``: takes a service and arguments, returns the program that sends them.

The program returns False if the service does not take such things.
"""

TIMEOUT = 5.0  # seconds for each request
LONGEST_FLUSH = 2.0  # seconds that the end of the process may wait for what is not sent yet
IDLE = 5.0  # seconds after which a thread with nothing to send ends
MOST_THREADS = 8
JOBS_OF_THREAD = 20  # with more jobs for each thread, another one starts
MOST_JOBS = 5_000
MOST_BYTES = 64_000_000
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0  # seconds after a failure of a service; doubles with each
LONGEST_OUTAGE = 60.0  # seconds after which a job that could not be sent is dropped
NOT_TAKEN = 600.0  # seconds in which a service that does not take such things is not asked again

logger = logging.getLogger("noukai_sdk")


class _Job(NamedTuple):
    service: Service
    transport: Any  # one with the user's own http_client, None to use ours
    send: Send
    args: tuple[Any, ...]
    size: int
    about: str | None
    expires: float

    @property
    def lane(self) -> Any:
        """What only one thread may use at a time; None if there is nothing of the kind.

        The reports of a session could replace each other in the wrong order. An async client of the user's
        belongs to one event loop at a time.
        """
        if self.transport is not None and self.transport.is_async:
            return id(self.transport.client)
        return self.args[0] if self.args and isinstance(self.args[0], str) else None


class _Outage(NamedTuple):
    until: float
    pause: float


def send_later(
    service: Service, send: Send, *args: Any, size: int = 1_000, about: str | None = None
) -> None:
    """Run ``send(service, *args)`` in the background. Never raises, never waits.

    Args:
        service: The client's service; it is called with a short timeout and without retries.
        send: The function that returns the program. It runs in the background too.
        *args: The other arguments of ``send``.
        size: How many bytes the arguments take, about. What is not sent yet is limited by it.
        about: The session whose replays need it, for :func:`wait_for_session`.
    """
    try:
        _sender().put(service, send, args, size, about)
    except Exception:
        logger.debug("nothing was sent in the background", exc_info=True)


def takes(service: Service, send: Send) -> bool:
    """Return False if the service is known not to take what ``send`` sends, so need not be asked."""
    return _sender().takes(service, send)


def is_sending(session_id: str) -> bool:
    """Return whether something that replays of a session need is not sent yet."""
    return _current is not None and session_id in _current.about


def wait_for_session(session_id: str, timeout: float) -> None:
    """Wait until everything is sent that replays of a session need."""
    if _current is not None:
        _current.wait_for_session(session_id, timeout)


def flush(timeout: float = LONGEST_FLUSH) -> bool:
    """Wait until the background thread has sent everything; return False if that took too long."""
    return _current is None or _current.flush(timeout)


class _Sender:
    """The jobs of this process, the thread that sends them, and which services not to ask.

    Made at first use: its locks must be those of the process, and of gevent if that has patched it.
    """

    def __init__(self) -> None:
        # Reentrant: the collector may close a response, and so send something, at any point.
        self._changed = threading.Condition(threading.RLock())
        self.about: Counter[str] = Counter()  # the sessions of the jobs that are not done
        self._jobs: deque[_Job] = deque()
        self._bytes = 0
        self._threads = 0
        self._sending: list[_Job] = []  # one for each thread that is not waiting
        self._dropping = False
        self._not_taken: dict[tuple[str | None, ...], float] = {}
        self._outages: dict[str, _Outage] = {}
        self._closing = False
        self._by_loop: dict[Any, deque[_Job]] = {}
        self._tasks: set[Any] = set()

    def takes(self, service: Service, send: Send) -> bool:
        name = _name(send)
        for key in ((service.base_url, name), (*service.key, name)):
            until = self._not_taken.get(key)
            if until is not None:
                if time.monotonic() < until:
                    return False
                self._not_taken.pop(key, None)
        return True

    def put(
        self, service: Service, send: Send, args: tuple[Any, ...], size: int, about: str | None
    ) -> None:
        if not self.takes(service, send):
            return
        check_allowed(service, "")  # now, because the rule may not hold any more in the background
        quick = service._replace(timeout=min(TIMEOUT, longest(service.timeout)), max_retries=0)
        transport = None
        if service.custom_http:
            from .drivers import custom_transport

            original = custom_transport(service)
            if original is None:
                return
            # Of its own, because closing a client does not close an http_client that is the user's.
            transport = type(original)(quick, original.client)
        expires = time.monotonic() + LONGEST_OUTAGE
        job = _Job(quick, transport, send, args, size, about, expires)
        with self._changed:
            if self._bytes + size > MOST_BYTES or self._waiting() >= MOST_JOBS:
                if not self._dropping:
                    self._dropping = True
                    logger.warning("more reports than %s takes: some are dropped", service.base_url)
                return
            self._bytes += size
            if about is not None:
                self.about[about] += 1
        if transport is None or not transport.is_async or not self._put_in_loop(job):
            self._put_in_thread(job)

    def _waiting(self) -> int:
        return len(self._jobs) + sum(map(len, list(self._by_loop.values())))

    def _finish(self, job: _Job) -> None:
        with self._changed:
            self._bytes -= job.size
            if job.about is not None:
                self.about[job.about] -= 1
                if not self.about[job.about]:
                    del self.about[job.about]
            self._changed.notify_all()
            if not self._waiting() and all(each is job for each in self._sending):
                self._dropping = False

    def _program(self, job: _Job) -> Program[bool]:
        """Send one job; return False if the service could not take it now."""
        if not self.takes(job.service, job.send):
            return True
        base_url, name = job.service.base_url, _name(job.send)
        try:
            try:
                taken = yield from job.send(job.service, *job.args)
            except APITimeoutError:
                raise
            except APIConnectionError:  # the service may have closed an idle connection
                taken = yield from job.send(job.service, *job.args)
        except NoukaiError as error:
            logger.debug("%s was not sent to %s: %s", name, base_url, error)
            status = error.status_code or 0
            if isinstance(error, APIConnectionError) or status >= 500 or status in (408, 429):
                self._note_outage(base_url)
                return False
            # That a session is another organisation's says nothing about other sessions.
            if status in (401, 402, 403) and error.code != "SESSION_FORBIDDEN":
                this_key = (*job.service.key, name)
                self._not_taken[this_key] = time.monotonic() + NOT_TAKEN
            taken = True
        self._outages.pop(base_url, None)
        if not taken:
            self._not_taken[base_url, name] = time.monotonic() + NOT_TAKEN
        return True

    def _note_outage(self, base_url: str) -> None:
        now = time.monotonic()
        last = self._outages.get(base_url)
        if last is not None and now < last.until:
            return  # another thread has met the same outage
        pause = min(last.pause * 2, LONGEST_PAUSE) if last else FIRST_PAUSE
        self._outages[base_url] = _Outage(now + pause, pause)

    # In the threads.

    def _put_in_thread(self, job: _Job) -> None:
        with self._changed:
            self._jobs.append(job)
            if self._threads == 0:
                # A process that is forked while another thread imports a module can never use it. The
                # first request imports this one.
                codecs.lookup("idna")
                try:
                    self._start_thread()
                except BaseException:  # no threads here, or the process is ending
                    self._jobs.clear()
                    self.about.clear()
                    self._bytes = 0
                    raise
                _flush_children()
            elif self._threads < MOST_THREADS and len(self._jobs) > JOBS_OF_THREAD * self._threads:
                with suppress(RuntimeError):  # no more threads here: there is one
                    self._start_thread()
            self._changed.notify_all()

    def _start_thread(self) -> None:
        thread = threading.Thread(target=self._work, name="noukai-background", daemon=True)
        self._threads += 1
        try:
            # In an empty context: the thread belongs to no request.
            Context().run(thread.start)
        except BaseException:
            self._threads -= 1
            raise

    def _work(self) -> None:
        from .drivers import SyncTransport
        from .library import sync_client

        client: Any = None
        job: _Job | None = None
        while (job := self._next(job)) is not None:
            sent = True
            try:
                program = self._program(job)
                if job.transport is None:
                    if client is None:
                        client = sync_client()
                    sent = SyncTransport(job.service, client).run(program)
                elif job.transport.is_async:
                    sent = asyncio.run(job.transport.run(program))
                else:
                    sent = job.transport.run(program)
            except Exception:
                logger.debug("nothing was sent in the background", exc_info=True)
            if sent:
                self._finish(job)
            else:
                self._keep(job)
            del program
        if client is not None:
            client.close()

    def _next(self, last: _Job | None) -> _Job | None:
        """Wait for the next job whose service can be asked; None after a while without any job."""
        with self._changed:
            self._sending = [job for job in self._sending if job is not last]
            self._changed.notify_all()
            idle_until = time.monotonic() + IDLE
            while True:
                now = time.monotonic()
                wake = idle_until if now < idle_until else None
                busy = {job.lane for job in self._sending} - {None}
                for job in list(self._jobs):
                    if job.lane in busy:
                        continue
                    outage = self._outages.get(job.service.base_url)
                    if outage is not None and now >= job.expires:
                        self._jobs.remove(job)
                        self._drop(job)
                    elif outage is None or outage.until <= now or self._closing:
                        self._jobs.remove(job)
                        self._sending.append(job)
                        return job
                    else:
                        wake = outage.until if wake is None else min(wake, outage.until)
                if now >= idle_until and (not self._jobs or self._threads > 1):
                    self._threads -= 1
                    return None
                self._changed.wait(None if wake is None else wake - now)

    def _keep(self, job: _Job) -> None:
        """Keep a job that could not be sent for the end of the outage."""
        with self._changed:
            if self._closing:
                self._drop(job)
            else:
                self._jobs.appendleft(job)

    def _drop(self, job: _Job) -> None:
        if not self._dropping:
            self._dropping = True
            logger.warning("%s cannot be reached: reports to it are dropped", job.service.base_url)
        self._finish(job)

    def wait_for_session(self, session_id: str, timeout: float) -> None:
        with self._changed:
            # Its jobs first: somebody waits for them.
            self._jobs = deque(sorted(self._jobs, key=lambda job: job.about != session_id))
            # An outage may last.
            self._changed.wait_for(lambda: session_id not in self.about or self._outages, timeout)

    def flush(self, timeout: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: not (self._jobs or self._sending), timeout)

    def close(self) -> None:
        """Send what is left without a pause, each job once."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self.flush(LONGEST_FLUSH)

    # In an event loop.

    def _put_in_loop(self, job: _Job) -> bool:
        """Send the job in the running event loop; return False if there is none."""
        loop, start_task = _running_loop()
        if loop is None:
            return False
        for other in list(self._by_loop):
            if other is not loop and getattr(other, "is_closed", lambda: False)():
                self._leave_loop(other, self._by_loop[other])
        jobs = self._by_loop.get(loop)
        if jobs is not None:
            jobs.append(job)
            return True
        jobs = self._by_loop[loop] = deque([job])
        task = Context().run(start_task, self._work_in_loop, loop, jobs)
        if isinstance(task, asyncio.Task):
            self._tasks.add(task)  # the loop holds it weakly
            # Also for a task that is cancelled before it has begun.
            task.add_done_callback(self._tasks.discard)
            task.add_done_callback(lambda _: self._leave_loop(loop, jobs))
        return True

    async def _work_in_loop(self, loop: Any, jobs: deque[_Job]) -> None:
        try:
            while jobs:
                try:
                    await jobs[0].transport.run(self._program(jobs[0]))
                except Exception:
                    logger.debug("nothing was sent in the background", exc_info=True)
                self._finish(jobs.popleft())
        finally:
            self._leave_loop(loop, jobs)

    def _leave_loop(self, loop: Any, jobs: deque[_Job]) -> None:
        """Let the thread send what is left in a loop that is ending."""
        if self._by_loop.get(loop) is jobs:
            del self._by_loop[loop]
        with suppress(Exception):
            while jobs:
                self._put_in_thread(jobs.popleft())


def _name(send: Send) -> str:
    return getattr(send, "__name__", repr(send))


def _running_loop() -> tuple[Any, Any]:
    """Return the running event loop and the function that starts a task in it; None without one."""
    with suppress(RuntimeError):
        loop = asyncio.get_running_loop()
        return loop, lambda function, *args: loop.create_task(function(*args))
    trio: Any = sys.modules.get("trio")
    if trio is not None and trio.lowlevel.in_trio_run():
        return trio.lowlevel.current_trio_token(), trio.lowlevel.spawn_system_task
    return None, None


_current: _Sender | None = None


def _sender() -> _Sender:
    global _current  # noqa: PLW0603 - one for the process
    if _current is None:
        _current = _Sender()
    return _current


def _flush_at_exit() -> None:
    with suppress(BaseException):
        if _current is not None:
            _current.close()


def _flush_children() -> None:
    """Flush at the end of this process, if ``multiprocessing`` started it: that runs no ``atexit``."""
    from multiprocessing import parent_process, util

    if parent_process() is not None:
        util.Finalize(None, _flush_at_exit, exitpriority=100)


def _after_fork() -> None:
    # What the parent has not sent yet, the parent sends.
    global _current  # noqa: PLW0603 - one for the process
    if _current is not None:
        _inherited.append(_current)
        _current = None


_inherited: list[_Sender] = []  # never collected: the thread that holds the connections is not here

atexit.register(_flush_at_exit)
if hasattr(os, "register_at_fork"):  # pragma: no branch - not on Windows
    os.register_at_fork(after_in_child=_after_fork)
