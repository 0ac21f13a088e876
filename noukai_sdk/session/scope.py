"""The scope that flow calls share, and the context variable that holds the current one.

This is the only module that touches the ContextVar.
"""

from __future__ import annotations

import logging
import os
import sys
import time
import uuid
from collections.abc import Awaitable, Callable
from contextvars import Context, ContextVar, copy_context
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from ..protocol.call import Watch
from .clients_beside import MOST_CLIENTS, Key, note_client
from .lost_scope import check_lost, open_captures, requests, warn_early, watch_late
from .whatif_method import whatif

if TYPE_CHECKING:
    from ..models.reports import ReplayReport
    from ..protocol.call import FlowCall, Service
    from ..protocol.jobs import JobBackend, LiveJob
    from ..protocol.program import Program
    from ..replay.activity import Activity
    from ..replay.verdicts import Verdict
    from ..transport.background import Send
    from .outcomes import OutcomeLog

logger = logging.getLogger("noukai_sdk")

Mode = Literal["normal", "capture", "replay"]
T = TypeVar("T")

_MOST_ENDS, _MOST_ARRIVALS = 1_000, 100_000
_current: ContextVar[Scope | None] = ContextVar("noukai_scope", default=None)


class Scope:
    """What ``trace_scope`` yields.

    Attributes:
        mode: ``"capture"``: calls go live and carry ``session_id``. ``"replay"``: calls are served
            from a cassette. ``"normal"``: calls go live and carry no session.
        session_id: The session of this scope, None in normal mode.
        cassette_path: The cassette file that it plays or records, None without one.
        captured: The request that an adapter captures in this scope.
        is_captured: An adapter stores that request with the session.
        is_fork: Calls of a replay may go live, under the new session ``session_id``.
        verdict: The result of a replay that has an id.
        file: The cassette file that a request's header names, as ``file:<name>``.
        other_services: The clients of its calls beside the first client.
        activity: What its tasks and threads do at the moment, if it is a replay.
    """

    cassette_path: str | os.PathLike[str] | None = None
    captured: Any = None
    is_captured = False
    is_fork = False
    verdict: Verdict | None = None
    file: str | None = None
    other_services: tuple[Service, ...] = ()
    activity: Activity | None = None
    boundaries: Any = None  # the log of what recorded functions did

    # The clients of live calls with another key than the first one's; their calls; those a fork was served.
    _others: dict[Key, Service] | None = None
    _calls_of_others = 0
    _served = 0

    def __init__(self, mode: Mode, session_id: str | None) -> None:
        self.mode = mode
        self.session_id = session_id
        # The client whose log handler hears of it, and whether it is still open.
        self._service: Service | None = None
        self._open = True
        self._had_late_call = False
        self._sends: list[tuple[Any, ...]] | None = None
        # Whether the service is told how calls ended, and the calls of each flow.
        self._reports_outcomes = session_id is not None
        self._calls_of: dict[tuple[str, ...], int] = {}
        # How many calls were made, have ended, and whether they overlapped. Not exact in threads.
        self._made, self.ended, self.has_overlap = 0, 0, False
        self._ends: list[tuple[Any, ...]] = []
        self._arrivals = 0

    @cached_property
    def report(self) -> ReplayReport:
        """The report of a replay so far; stays empty in the other modes."""
        # Made on demand: every request of a production server has a scope.
        from ..models.reports import ReplayReport

        return ReplayReport()

    @property
    def replay_id(self) -> str | None:
        """The id of this replay, to request its report with. None without a client."""
        return None if self.verdict is None else self.verdict.replay_id

    def admit(self, call: FlowCall) -> Program[Any]:
        """Return the program that serves ``call``.

        Runs when the method is called, not when its result is awaited.
        """
        if self._open or self.session_id is None or call.session_id is not None:
            if not self._reports_outcomes or call.session_id not in (None, self.session_id):
                return call.live(self.session_id)
            flow = call.flow
            lane = call.kind, flow.org, flow.project, flow.slug
            position = self._calls_of.get(lane, 0)
            self._calls_of[lane] = position + 1
            self.has_overlap = self.has_overlap or self._made > self.ended
            self._made += 1
            if call.service is not self._service:
                self._count_other(call.service)
            return call.live(self.session_id, Watch(self, position, time.time(), []))
        # Whatever outlives a request may work for others by now (a worker that the first request
        # started), so a late call belongs to no session but its own.
        own = new_session_id()
        level = logging.INFO if self._had_late_call else logging.WARNING
        self._had_late_call = True
        text = (
            "a call of flow %s came after the end of session %s, and is in session %s of its own: "
            "start tasks and threads that outlive their request in noukai_sdk.detached()"
        )
        extra = {"noukai_session": own, "noukai_ended_session": self.session_id}
        logger.log(level, text, call.flow, self.session_id, own, extra=extra)
        return watch_late(call, call.live(own))

    def _count_other(self, service: Service) -> None:
        """Count a call of another client than the first, if it has another key."""
        if self._service is None or service.key == self._service.key:
            return
        if self._others is None:
            self._others = {}
        if len(self._others) < MOST_CLIENTS:
            self._others[service.key] = service
        self._calls_of_others += 1

    def _report_total(self) -> None:
        """Tell the organisation of each key how many calls there are: a replay may read only some."""
        first = self._service
        assert first is not None  # there are others
        others = [] if self._others is None else [*self._others.values()]
        made_own = self._made > self._calls_of_others
        # A client that made all calls can read them.
        told = others if made_own or len(others) > 1 else []
        if made_own or self.is_fork or self.is_captured:
            told.append(first)
        if told and (others or self.is_fork):
            total = self._made + self._served
            self._report_at_end(self._outcomes.note_total(total, told))

    def note_failure(
        self,
        call: FlowCall,
        error: BaseException,
        run: str | None,
        seen: int | None,
        at_reader: bool,
    ) -> None:
        """Note how a live call of this session ended, for the service to know. Never raises."""
        try:
            now = time.time()
            is_news = self._outcomes.note(call, error, run, seen, now, at_reader=at_reader)
            self._report_at_end(is_news)
            self.ended += 1
            failed_run = getattr(error, "execution_id", None)
            if failed_run is not None and self.has_overlap:
                self.note_end(call, failed_run)
        except Exception:
            logger.debug("the outcome of %r is not reported", call, exc_info=True)

    def forget_failure(self, call: FlowCall) -> None:
        """Note that a call goes on that had failed or was given up."""
        self._outcomes.forget(call)

    def note_end(self, call: FlowCall, run: str | None) -> None:
        """Note when a call ended, if calls of this session overlap: its caller alone knows it well."""
        assert call.watch is not None  # only watched calls are noted
        if len(self._ends) < _MOST_ENDS:
            self._ends.append((call.service, call.kind, call.watch, run, time.time()))
            self._report_at_end(self._outcomes.note_end())

    def note_events(self, watch: Watch, count: int) -> None:
        """Note when events of a stream arrived: a replay interleaves overlapping streams by it."""
        self._arrivals += 1
        if self._arrivals <= _MOST_ARRIVALS:
            watch.arrivals.append((round(time.time() - watch.made_at, 6), count))

    @cached_property
    def _outcomes(self) -> OutcomeLog:
        from .outcomes import OutcomeLog

        return OutcomeLog(self._calls_of, self._ends)

    def _report_at_end(self, is_news: bool) -> None:
        if is_news:
            from .outcomes import send_outcomes

            self.send_at_end(send_outcomes, self._outcomes)

    def job(self, live: LiveJob) -> JobBackend:
        """Return the backend of a job that was submitted before; ``live`` asks the service."""
        return live

    @property
    def has_unplayed(self) -> bool:
        """Whether a replay would end with leftovers now."""
        return False

    @property
    def is_past_end(self) -> bool:
        """Whether a replay went on after the last call that production made for a client that left."""
        return False

    def verify(
        self, *, caught: bool = True, complete: bool = True, client_left: bool = False
    ) -> None:
        """Raise what a replay found wrong. Called once, at the end of the scope's body.

        With ``caught=False`` not the errors of calls, which the body has caught. ``complete``: to its end.
        """

    def opened_by(self, service: Service) -> None:
        """Report ``scope_open`` to a client, and ``scope_close`` at the end. The first client counts."""
        known = self._service
        if known is not None and (service is known or service.key == known.key):
            return  # the same client, perhaps with other options
        if known is not None:
            note_client(known, service)
            if len(self.other_services) < MOST_CLIENTS and service not in self.other_services:
                self.other_services += (service,)
        elif self._open:
            self._service = service
            self._report("scope_open")

    def end(self) -> None:
        """End the scope, whether its body succeeded or not. May be called again."""
        if self._open:
            if self.other_services and self._reports_outcomes:
                self._report_total()
            self._open = False
            open_captures.discard(self)
            self._report("scope_close")
            if self.verdict is not None:
                self.verdict.finish()
            if self._sends is not None:
                self._send_all(self._sends)

    def send_at_end(
        self, send: Send, *args: Any, size: Any = 1_000, for_replays: bool = True
    ) -> None:
        """Run ``send(service, session_id, *args)`` in the background once this scope has ended.

        ``service`` is that of the first client of the scope; without one nothing is sent. The program
        that ``send`` returns starts after the end, so it can collect what has happened by then.

        Args:
            send: A function of ``protocol/session_extensions.py``, or one that uses them.
            *args: The other arguments of ``send``.
            size: How many bytes the arguments take, about, or a function that returns it.
            for_replays: Replays of this session need it, so those in this process wait for it.
        """
        self._sends = self._sends or []
        self._sends.append((send, size, self.session_id if for_replays else None, args))
        if not self._open:
            self._send_all(self._sends)

    def keep_boundaries(self, log: Any, send: Send) -> None:
        """Send the calls of recorded functions at the end, with the times of later flow calls."""
        self.has_overlap = True
        self.send_at_end(send, log, size=log.size)

    def _send_all(self, sends: list[tuple[Any, ...]]) -> None:
        if self._service is None or self.session_id is None:
            if self.boundaries is not None:
                self.boundaries.warn_unsent()
            return
        from ..transport.background import send_later

        while sends:
            send, size, about, args = sends.pop(0)
            size = size() if callable(size) else size
            send_later(self._service, send, self.session_id, *args, size=size, about=about)

    def _report(self, phase: str) -> None:
        service = self._service
        if service is None or (service.log is None and not logger.isEnabledFor(logging.DEBUG)):
            return
        event: dict[str, Any] = {"phase": phase, "session_id": self.session_id, "mode": self.mode}
        # Handlers may look up what every other event has.
        event |= dict.fromkeys(("method", "path", "attempt", "status_code", "request_id"))
        service.report(event)

    def discard(self) -> None:
        """Write no cassette file at the end."""

    whatif = whatif


def capture_scope(service: Service | None = None) -> Scope:
    """Return a scope with a new session: that of a request, if an adapter's client opens it."""
    scope = Scope("capture", new_session_id())
    if service is not None:
        requests.served = True
        if requests.had_early_calls:
            warn_early()
        open_captures.add(scope)
        scope.opened_by(service)
    return scope


def new_session_id() -> str:
    """Return the id of a new session, a random UUID."""
    return str(uuid.uuid4())


def admit(call: FlowCall) -> Program[Any]:
    """Return the program that serves ``call``: the one seam that every flow call passes once."""
    scope = _current.get()
    is_traced = call.service.spans is not None and has_provider()
    if scope is not None:
        scope.opened_by(call.service)
        program = scope.admit(call)
    else:
        check_lost(call)
        program = call.live()
    if not is_traced:
        return program
    from .call_spans import traced

    return traced(call, scope, program)


def has_provider() -> bool:
    """Return whether the program has set a tracer provider of OpenTelemetry; without one, load nothing."""
    api: Any = sys.modules.get("opentelemetry.trace")
    if not hasattr(api, "get_tracer_provider"):  # another thread may be importing it
        return False
    return not isinstance(api.get_tracer_provider(), api.ProxyTracerProvider)


def known_job(live: LiveJob) -> JobBackend:
    """Return the backend of a job by its id, as the current scope knows it."""
    scope = _current.get()
    return live if scope is None else scope.job(live)


def current_scope() -> Scope | None:
    """Return the scope that the running code was started in, which may have ended since."""
    scope = _current.get()
    return None if scope is DETACHED else scope


def joinable_scope() -> Scope | None:
    """Return the scope that the running code is part of.

    None outside of a scope and after the end of a capture. A replay that has ended still refuses calls.
    """
    scope = current_scope()
    return scope if scope is not None and (scope._open or scope.mode == "replay") else None


def inherited_scope() -> Scope | None:
    """Return what a thread that starts here inherits: also a scope that has ended, and DETACHED."""
    return _current.get()


def current_session_id() -> str | None:
    """Return the session that the running code belongs to, None outside of a scope.

    Code that outlives its scope still gets the scope's session here, but its calls get their own.

    Example:
        >>> from noukai_sdk import current_session_id
        >>> current_session_id() is None
        True
    """
    scope = current_scope()
    return scope.session_id if scope is not None else None


DETACHED = Scope("normal", None)
"""Current in code that has left every scope on purpose. Its calls are not taken for lost ones."""


class active:  # noqa: N801  # used like a function: with active(scope)
    """Run a block inside ``scope``, as ``with`` or ``async with``. Never raises by itself."""

    __slots__ = ("_otel", "_outer", "_scope")

    def __init__(self, scope: Scope | None) -> None:
        self._scope = scope
        self._outer: Scope | None = None
        self._otel: tuple[Any, Any] | None = None

    def __enter__(self) -> None:
        self._outer = _current.get()
        _current.set(self._scope)
        if has_provider():
            from .call_spans import enter_scope

            self._otel = enter_scope(self._scope)

    def __exit__(self, *_: object) -> None:
        _leave(self._scope, self._outer)
        if self._otel is not None:
            from ..telemetry import restore

            restore(*self._otel)

    async def __aenter__(self) -> None:
        self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()


def run_in_scope(scope: Scope, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
    """Call ``function`` in ``scope``. Faster than ``active``, because it runs for each task of a pool."""
    outer = _current.get()
    _current.set(scope)
    try:
        return function(*args, **kwargs)
    finally:
        _current.set(outer)


def _leave(scope: Scope | None, outer: Scope | None) -> None:
    # Not reset by token, which raises in another context: a generator may be closed in one.
    if _current.get() is scope:
        _current.set(outer)


def belonging_to(scope: Scope) -> Callable[[Context], bool | None]:
    """Return a function that tells whether ``scope`` is current in a context, None if no scope is."""

    def belongs(context: Context) -> bool | None:
        current = context.get(_current)
        return None if current is None or current is DETACHED else current is scope

    return belongs


def context_with(scope: Scope) -> Context:
    """Return a copy of this context in which ``scope`` is current. Run code with ``context.run``."""
    context = copy_context()
    context.run(active(scope).__enter__)
    return context


class SteppedScope:
    """The current scope as a generator sees it.

    The scope is current during each step and not between two, so the consumer never sees it. A scope that
    a step leaves open (a ``trace_scope`` block around a ``yield``) is current again in the next step. Use
    ``with`` for a plain step and ``await run(...)`` for an async one.
    """

    __slots__ = ("_inside", "_otel", "_outside")

    def __init__(self, scope: Scope | None) -> None:
        self._inside = scope
        self._outside: Scope | None = None
        self._otel: Any = None  # does the same for OpenTelemetry's context

    def __enter__(self) -> None:
        self._outside = _current.get()
        _current.set(self._inside)
        if self._otel is not None or has_provider():
            from ..telemetry import SteppedContext

            self._otel = self._otel or SteppedContext()
            self._otel.enter()

    def __exit__(self, *_: object) -> None:
        # Not compared as in _leave(): a plain step begins and ends in one context.
        self._inside = _current.get()
        _current.set(self._outside)
        if self._otel is not None:
            self._otel.leave()

    async def run(self, step: Awaitable[T]) -> T:
        """Await one step."""
        self.__enter__()
        try:
            result = await step
        except GeneratorExit:
            # Dropped in the middle of the step, so this may be another context.
            _leave(self._inside, self._outside)
            raise
        except BaseException:
            self.__exit__()
            raise
        self.__exit__()
        return result
