"""One call of a recorded function: in a capture its body runs and is kept, in a replay it is served."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ..errors import RecordedValueError
from ..models.reports import CallSite
from ..replay.boundary_recordings import BoundaryRecording, boundary_call
from ..replay.callsite import call_site
from ..session.scope import Scope, current_scope
from .functions import UNFIT
from .log import BoundaryLog, Entry, Slot

if TYPE_CHECKING:
    from ..protocol.program import Program
    from ..session.replay_scope import ReplayScope
    from ..session.wrapping import Function
    from .functions import RecordedFunction

logger = logging.getLogger("noukai_sdk")

_lock = threading.Lock()
_STDLIB = str(Path(os.__file__).parent)
_CALLERS = re.compile(r"site-packages.(anyio|fastapi|starlette|trio|uvicorn)\b")


def begin(
    function: RecordedFunction, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> RunningCall | ReplayedCall | None:
    """Begin a call: return None if nothing is captured or replayed here."""
    scope = current_scope()
    if scope is None or scope.mode == "normal":
        return None
    if scope.mode == "capture" and not scope._open:
        logger.debug(
            "a call of %s came after the end of session %s and is not kept",
            function.name,
            scope.session_id,
            extra={"noukai_ended_session": scope.session_id},
        )
        return None
    arguments = function.arguments(args, kwargs)
    if arguments is UNFIT:
        return None
    if scope.mode == "replay":
        from ..session.replay_scope import ReplayScope

        assert isinstance(scope, ReplayScope)  # the mode says so
        if function.live:
            return LiveCall(scope, function, arguments)
        return ReplayedCall(scope, function, arguments)
    return RunningCall(scope, function, arguments)


class RunningCall:
    """A call whose body runs, and is kept. Used as a context manager around the body or its steps.

    Attributes:
        body: What to run.
        program: None.
    """

    program = None

    def __init__(
        self,
        scope: Scope,
        function: RecordedFunction,
        arguments: Any,
        slot: Slot | None = None,
    ) -> None:
        log = log_of(scope)
        self.function = function
        self.body: Function = function.body
        self._log = log
        self._entry = Entry(function, arguments, _site(function), log.clock)
        logger.debug("%s runs, and is kept in session %s", function.name, scope.session_id)
        if slot is None:
            log.add(self._entry)
        else:
            log.fill(slot, self._entry)

    def running(self) -> RunningCall:
        """Return this call."""
        return self

    def returned(self, value: Any) -> Any:
        """Keep what the function returned, and return it."""
        entry = self._entry
        entry.result = self._encoded(value, "result")
        self._end(entry.result)
        return value

    def yielded(self, value: Any) -> None:
        """Keep what a generator yielded."""
        entry = self._entry
        assert entry.items is not None  # it is a generator
        item = self._encoded(value, f"items[{len(entry.items)}]")
        if entry.unavailable is None:
            entry.note_item(item)
            self._note(item)

    def left(self) -> None:
        """Note that the reader of a generator has left between two items."""
        self._entry.end(completed=False)

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Keep the error of the body. One that is no Exception is the caller's, who stops waiting."""
        if isinstance(error, (StopIteration, StopAsyncIteration)) and self.function.is_generator:
            return  # the end of a generator
        if isinstance(error, Exception):
            self._entry.error = self._encoded_error(error)
            self._end(self._entry.error)
        elif error is not None:
            self._entry.abandoned = True
            self._end(None)

    def _end(self, value: Any) -> None:
        entry, function = self._entry, self.function
        # The others have no turn in a replay that a call could come along with.
        if function.kind == "coroutine" and not (entry.abandoned or function.live) and self._log:
            entry.passes = self._log.passes.restart()
        entry.end()
        self._note(value)

    def _note(self, value: Any) -> None:
        self._log.note_value(self._entry, value)

    def _encoded(self, value: Any, place: str) -> Any:
        from .values import encode

        if self._entry.unavailable is not None:
            return None
        function = self.function
        try:
            return encode(value, function.annotation, name=function.name, place=place)
        except RecordedValueError as problem:
            from ..masking.values import Masker

            reason = problem.message.removeprefix(f"{function.name}: ")
            self._entry.unavailable = Masker().text(f"its {reason}")
            if function.live:
                return None
            self._entry.end()
            raise problem from None

    def _encoded_error(self, error: Exception) -> Any:
        from .failures import encode_error

        return None if self._entry.unavailable is not None else encode_error(error)


class LiveCall(RunningCall):
    """A call that runs in a replay too, inside of it; its differences from the recording are reported."""

    def __init__(
        self,
        scope: ReplayScope,
        function: RecordedFunction,
        arguments: Any,
    ) -> None:
        self.function = function
        self.body = function.body
        self._log = log_of(scope)
        site = _site(function)
        self._entry = Entry(function, arguments, site, self._log.clock)
        self._log.add(self._entry)
        call = boundary_call(function.name, arguments)
        self._scope = scope
        self._claim = scope.claim_boundary(call, function.redacted_request, site)
        self._recording = scope.player.recording_of(self._claim)

    def left(self) -> None:
        """Note that the reader of a generator has left between two items."""
        super().left()
        self._compare()

    def _end(self, value: Any) -> None:
        super()._end(value)
        self._compare()

    def _compare(self) -> None:
        recording = self._recording
        entry = self._entry
        if recording is None or recording.unavailable or entry.unavailable or entry.abandoned:
            return
        recorded, values = recording.boundary, entry.values()
        pairs = [("arguments", recorded.arguments, values["arguments"])]
        if recorded.items is None:
            pairs.append(("result", recorded.result, values.get("result")))
        else:
            count = len(values.get("items", ()))
            pairs.append(("items", recorded.items[:count], values.get("items")))
        pairs.append(("error", recorded.error, values.get("error")))
        differing = [(name, then, now) for name, then, now in pairs if then != now]
        if differing:
            from ..replay.misses import note_live_drift

            note_live_drift(self._scope.player, self._claim, differing)


class ReplayedCall:
    """A call that is served from its recording.

    Attributes:
        program: Yields the items of a generator. Returns the recording, or None if the body is to run: see
            :meth:`running`.
    """

    def __init__(
        self,
        scope: ReplayScope,
        function: RecordedFunction,
        arguments: Any,
    ) -> None:
        self.function = function
        self._scope = scope
        self._arguments = arguments
        call = boundary_call(function.name, self._arguments)
        self._claim = scope.claim_boundary(call, function.redacted_request, _site(function))
        self.program: Program[BoundaryRecording | None] = scope.player.play(call, self._claim)
        # The session of a fork has its own copy of what it was served. A replay may become one.
        self._slot = log_of(scope).reserve(self._claim)

    def running(self) -> RunningCall:
        """Return the call that runs the body, in a fork."""
        return RunningCall(self._scope, self.function, self._arguments, self._slot)

    def result(self, recording: BoundaryRecording, thrown: BaseException | None = None) -> Any:
        """Return what the function returned when it was recorded, or raise what it raised.

        Args:
            recording: What serves the call.
            thrown: What the reader of a generator has thrown into it, if nothing was yielded since.
        """
        boundary = recording.boundary
        logger.debug("%s is served from its recording", self.function.name)
        if boundary.error is not None and thrown is not None:
            raise thrown
        if boundary.error is not None:
            from .failures import decode_error

            raise self._readable(decode_error, boundary.error)
        return self.value(boundary.result)

    def value(self, value: Any) -> Any:
        """Return a recorded value as the function returned it."""
        from .values import decode

        return self._readable(decode, value, self.function.annotation)

    def _readable(self, decode: Any, value: Any, *more: Any) -> Any:
        try:
            return decode(value, *more, name=self.function.name)
        except RecordedValueError as problem:
            raise self._scope.player.refused(self._claim, problem) from None


def log_of(scope: Scope) -> BoundaryLog:
    """Return the log of a scope, made when its first recorded function is called."""
    log: BoundaryLog | None = scope.boundaries
    if log is None:
        from .reporting import send_boundaries

        with _lock:
            log = scope.boundaries
            if log is None:
                log = BoundaryLog(scope.session_id)
                scope.keep_boundaries(log, send_boundaries)
                scope.boundaries = log
    log.note_clients(scope)
    return log


def _site(function: RecordedFunction) -> CallSite | None:
    """Return where the function was called; where it is defined, if a loop or a framework calls it."""
    site = call_site()
    if site is None or _CALLERS.search(site.file):
        return function.site
    is_stdlib = site.file.startswith(_STDLIB) and "site-packages" not in site.file
    return function.site if is_stdlib else site
