"""A recording in the making: what one live call said so far."""

from __future__ import annotations

import time
from typing import Any

from pydantic_core import to_jsonable_python

from ..errors import NoukaiError, ReplayError
from ..models.base import dump
from ..models.events import FlowCompleted, StepFailed, ToolCallsRequired
from ..models.results import ExecuteResult, JobStatus
from ..models.sessions import RecordedError, ToolRound
from ..protocol.call import FlowCall
from ..protocol.jobs import JobBackend
from ..protocol.program import Effect, OpenStream, PauseSeen, ReadChunk, ResultsSent, SendRequest
from .recording import Recording

# The wall clock may be set back; the order of a cassette's times must not.
_WALL = time.time() - time.perf_counter()

_SAID_ELSEWHERE = ("message", "status_code", "code", "report")


class RecordingBuilder:
    """One call, being recorded."""

    def __init__(self, call: FlowCall) -> None:
        self.call = call
        self._began: float | None = None
        self._ended: float | None = None
        self._request: dict[str, Any] = {}
        self._result: dict[str, Any] | None = None
        self._error: RecordedError | None = None
        self._rounds: list[ToolRound] = []
        self._events: list[dict[str, Any]] = []
        self._closed = False
        self._given_up = False
        self._chunks: list[tuple[float, int]] = []
        self._arrived: float | None = None
        self._statuses: list[dict[str, Any]] = []
        self._look_errors: list[tuple[int, RecordedError]] = []
        self._last_failure: NoukaiError | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the call sent anything."""
        return self._began is not None

    @property
    def execution_id(self) -> str | None:
        """The run's id, where it is known."""
        told = [self._result or {}, *self._events, *(round_.paused for round_ in self._rounds)]
        if self._error is not None:
            told.append({"executionId": self._error.details.get("execution_id")})
        return next((one["executionId"] for one in told if one.get("executionId")), None)

    def begin(self) -> None:
        """The call, or what resumes it, is about to be sent."""
        self._given_up = False  # an attempt to resume may have been, before this one
        if self._began is None:
            self._began = time.perf_counter()
            # A copy: the caller may go on to change what it gave.
            self._request = to_jsonable_python(self.call.request)

    def see(self, item: Any) -> None:
        """What the program yields: a want, or an event for the caller."""
        if not isinstance(item, Effect):
            if not isinstance(item, ToolCallsRequired):  # PauseSeen has told of it
                self._event(item)
        elif isinstance(item, (SendRequest, OpenStream)):
            self._asked()
        elif isinstance(item, PauseSeen):
            self._paused(item.pause)
        elif isinstance(item, ResultsSent):
            self._rounds[-1].tool_results = item.results

    def hear(self, item: Any) -> None:
        """The program is about to get the outcome of what it yielded."""
        if isinstance(item, ReadChunk):
            self._arrived = self._now()

    def answered(self, result: ExecuteResult) -> None:
        """The call ended with this result."""
        self._mark(self._now(), 1)
        self._result = dump(result)
        self._error = None  # of an attempt to resume that was repeated
        self._ended = self._now()

    def submitted(self, job: JobBackend) -> None:
        """The call put this job into the queue."""
        self._mark(self._now(), 1)
        self._result = {"executionId": job.execution_id}
        self._ended = self._now()

    def stream_ended(self) -> None:
        """The call's stream was read to its end."""
        last = self._events[-1]["eventType"] if self._events else None
        self._closed = last not in (_FLOW_COMPLETED, _STEP_FAILED)
        self._ended = self._now()

    def failed(self, error: NoukaiError) -> None:
        """The call ended with this error."""
        if isinstance(error, ReplayError):
            self._began = None  # refused here: the service knows nothing of it
            return
        self._mark(self._now(), 1)
        self._error = recorded_error(error)
        self._ended = self._now()

    def dropped(self, item: Any) -> None:
        """The caller wants no more, when the program had yielded ``item``."""
        if isinstance(item, Effect):  # else a reader has left a stream between two events
            self._given_up = True
            self._ended = self._now()

    def looked(self, status: JobStatus) -> None:
        """A look at the call's job."""
        self._statuses.append(dump(status))

    def look_failed(self, error: NoukaiError) -> None:
        """A look at the call's job ended with this error, which may be told twice."""
        if error is not self._last_failure and not isinstance(error, ReplayError):
            self._last_failure = error
            self._look_errors.append((len(self._statuses), recorded_error(error)))

    def recording(self) -> Recording:
        """The recording as far as it goes."""
        flow = self.call.flow
        return Recording(
            slug=flow.slug,
            kind=self.call.kind,
            org=flow.org,
            project=flow.project,
            version=flow.version,
            execution_id=self.execution_id,
            flow_id=(self._result or {}).get("flowId"),
            request=self._request,
            started_at=self._time(0.0),
            completed_at=self._time(self._ended),
            result=self._result,
            error=self._error,
            rounds=tuple(self._rounds),
            events=tuple(self._events),
            closed=self._closed,
            abandoned=self._given_up,
            chunks=tuple(self._chunks),
            statuses=tuple(self._statuses),
            look_errors=tuple(self._look_errors),
        )

    def _paused(self, pause: Any) -> None:
        self._rounds.append(ToolRound(paused=dump(pause)))
        if isinstance(pause, ToolCallsRequired):
            self._event(pause)
        else:
            self._mark(self._now(), 1)

    def _event(self, event: Any) -> None:
        self._events.append({"eventType": event.event_type, **dump(event)})
        if self._arrived is None:  # one more of the same chunk
            at, count = self._chunks[-1]
            self._chunks[-1] = (at, count + 1)
        else:
            self._mark(self._arrived, 1)
            self._arrived = None

    def _asked(self) -> None:
        if not self._chunks or self._chunks[-1][1]:  # else it is sent again
            self._mark(self._now(), 0)

    def _mark(self, at: float, parts: int) -> None:
        self._chunks.append((round(at, 6), parts))

    def _now(self) -> float:
        """Seconds since the call began."""
        return time.perf_counter() - (self._began or 0.0)

    def _time(self, since_began: float | None) -> float | None:
        if self._began is None or since_began is None:
            return None
        return round(_WALL + self._began + since_began, 6)


_FLOW_COMPLETED = FlowCompleted.model_fields["event_type"].default
_STEP_FAILED = StepFailed.model_fields["event_type"].default


def recorded_error(error: NoukaiError) -> RecordedError:
    """An exception as a file holds it."""
    details = {
        name: to_jsonable_python(value, fallback=str)
        for name, value in vars(error).items()
        if value is not None and name not in _SAID_ELSEWHERE and not name.startswith("_")
    }
    return RecordedError(
        status_code=error.status_code,
        code=error.code,
        message=error.message,
        type=type(error).__name__,
        details=details,
    )
