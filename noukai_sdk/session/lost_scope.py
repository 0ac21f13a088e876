"""Find calls that carry no scope although a replay or a captured request is under way.

Such a call may be part of the request, from a thread or task that lost the scope. It may also have nothing
to do with it, which cannot be told from here.
"""

from __future__ import annotations

import sys
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from ..errors import ReplayError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from ..models.reports import CallSite
    from ..protocol.call import FlowCall
    from ..protocol.program import Program

replays_under_way: WeakSet[Any] = WeakSet()
"""Weak, so that a scope whose generator was dropped and never closed does not count for ever."""

_lock = threading.Lock()
_warned: set[CallSite | None] = set()

open_captures: set[Any] = set()
"""The scopes of the requests that adapters are capturing."""


class _Requests:
    """What this process knows of requests: whether it serves any, and of calls before their scope."""

    served = False
    had_early_calls = False


requests = _Requests()

# The calls of this context before it reached an adapter: those of a middleware outside of ours.
_early: ContextVar[tuple[tuple[FlowCall, CallSite | None], ...]] = ContextVar(
    "noukai_early", default=()
)
_MOST_EARLY = 100
# Only with a server on the stack is a call part of a request: tests call flows, and then the app.
_SERVERS = (
    *("uvicorn.protocols.", "hypercorn.", "daphne.", "gunicorn.workers.", "werkzeug.serving"),
    *("waitress.", "cheroot.", "wsgiref.", "gevent.pywsgi", "eventlet.wsgi"),
)

_WAY_OUT = (
    "start the thread or task with copy_scope(function), or use ContextThreadPoolExecutor; if it "
    "belongs to no request, start it in noukai_sdk.detached()"
)


class LostScopeWarning(UserWarning):
    """A call went live from a thread or task that carries no scope, during a replay or a capture."""


def began(scope: Any) -> None:
    """Note that a replay is under way."""
    with _lock:
        replays_under_way.add(scope)


def ended(scope: Any) -> None:
    """Note that the replay is over."""
    with _lock:
        replays_under_way.discard(scope)


def check_lost(call: FlowCall) -> None:
    """Report a call without a scope to the replays under way, and refuse it if one of them asks so.

    If requests are being captured, warn once for each call site.

    Raises:
        ReplayError: A replay refuses calls without a scope.
    """
    if not (replays_under_way or open_captures or requests.served):
        return
    from ..replay.callsite import call_site, warn_at

    site = call_site()
    if not (replays_under_way or open_captures):
        _note_early(call, site)
        return
    lost = f"a call of flow {call.flow} in {_running()} carries no scope while"
    if replays_under_way:
        with _lock:
            replays = list(replays_under_way)
        _count(call, site, replays, f"in {_running()}")
        text = f"{lost} a replay is under way, and would reach the live service: {_WAY_OUT}"
        if any(scope.refuses_lost for scope in replays):
            raise ReplayError(text)
        _note_early(call, site)
        warn_at(site, text, LostScopeWarning)
    elif not (call.session_id or call.service.session_id or site in _warned):
        _warned.add(site)
        _note_early(call, site)
        text = f"{lost} a request is captured, so it is in no session: {_WAY_OUT}"
        warn_at(site, text, LostScopeWarning)
    else:
        _note_early(call, site)


def note_lost_function(name: str) -> None:
    """Report a recorded function that is called without a scope to the replays under way.

    It runs: what it reads is not what was recorded, but costs nothing.
    """
    from ..models.reports import ReportEntry
    from ..replay.callsite import call_site, warn_at

    site = call_site()
    with _lock:
        replays = list(replays_under_way)
    for scope in replays:
        lost = scope.report.lost
        position = sum((entry.slug, entry.kind) == (name, "recorded") for entry in lost)
        lost.append(ReportEntry(name, "recorded", position, f"in {_running()}", site))
    text = (
        f"the recorded function {name} in {_running()} carries no scope while a replay is under way, so "
        f"it ran: {_WAY_OUT}"
    )
    warn_at(site, text, LostScopeWarning)


def _note_early(call: FlowCall, site: CallSite | None) -> None:
    """Note a live call without a scope: the request that it is part of may not have reached an adapter."""
    earlier = _early.get()
    if requests.served and len(earlier) < _MOST_EARLY and _is_in_server():
        requests.had_early_calls = True
        _early.set((*earlier, (call._replace(request={}, tool_handler=None), site)))


def _is_in_server() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith(_SERVERS):
            return True
        frame = frame.f_back
    return False


def count_early(scope: Any) -> None:
    """Report the calls that this request has made before it reached an adapter, which now replays it."""
    calls = _early.get()
    if calls:
        _early.set(())
    for call, site in calls:
        _count(
            call, site, [scope], "before the request reached NoukaiTraceMiddleware: it went live"
        )


def warn_early() -> None:
    """Warn of the calls that this request has made before it reached an adapter, which now captures it."""
    calls = _early.get()
    if not calls:
        return
    from ..replay.callsite import warn_at

    _early.set(())
    for call, site in calls:
        if site not in _warned:
            _warned.add(site)
            text = (
                f"a call of flow {call.flow} was made before its request reached "
                "NoukaiTraceMiddleware, so it is in no session: place the middleware that makes it "
                "inside of ours (instrument(app) is always outermost)"
            )
            warn_at(site, text, LostScopeWarning)


def watch_late(call: FlowCall, program: Program[Any]) -> Program[Any]:
    """Return ``program``, a live call from a scope that has ended, watched by the replays under way.

    A replay that waits for what a late task does cannot end before the call does. So each replay that
    lasts as long as the call reports it as lost.
    """
    if not replays_under_way:
        return program
    from ..replay.callsite import call_site

    with _lock:
        replays = list(replays_under_way)
    return _watched(call, program, replays, call_site())


def _watched(
    call: FlowCall, program: Program[Any], replays: list[Any], site: CallSite | None
) -> Program[Any]:
    try:
        return (yield from program)
    finally:
        with _lock:
            lasting = [scope for scope in replays if scope in replays_under_way]
        _count(call, site, lasting, "from a scope that had ended: it went live")


def _count(call: FlowCall, site: CallSite | None, replays: Iterable[Any], detail: str) -> None:
    from ..models.reports import ReportEntry

    slug, kind = call.flow.slug, call.kind
    for scope in replays:
        lost = scope.report.lost
        position = sum((entry.slug, entry.kind) == (slug, kind) for entry in lost)
        lost.append(ReportEntry(slug, kind, position, detail, site))


def _running() -> str:
    """Name the running task and thread."""
    import asyncio

    thread = f"thread {threading.current_thread().name!r}"
    try:
        task = asyncio.current_task()
    except RuntimeError:
        task = None
    return thread if task is None else f"task {task.get_name()!r} of {thread}"
