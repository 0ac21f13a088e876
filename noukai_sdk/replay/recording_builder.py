"""Build the recording of one live call from the items that its program yields."""

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

# The wall clock may be set back; the order of a cassette's times must not change with it.
_WALL = time.time() - time.perf_counter()

_FINAL_EVENTS = tuple(
    event.model_fields["event_type"].default for event in (FlowCompleted, StepFailed)
)
# Attributes of an exception that are fields of RecordedError, or not worth keeping.
_NOT_DETAILS = ("message", "status_code", "code", "report")


class RecordingBuilder:
    """The recording of one call, as far as it is known."""

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
        self._abandoned = False
        self._chunks: list[tuple[float, int]] = []
        self._arrived: float | None = None
        self._statuses: list[dict[str, Any]] = []
        self._poll_errors: list[tuple[int, RecordedError]] = []
        self._last_poll_error: NoukaiError | None = None

    @property
    def has_begun(self) -> bool:
        """Whether the call sent anything."""
        return self._began is not None

    @property
    def execution_id(self) -> str | None:
        """The run's id, if it is known."""
        sources = [self._result or {}, *self._events, *(round_.paused for round_ in self._rounds)]
        if self._error is not None:
            sources.append({"executionId": self._error.details.get("execution_id")})
        return next((each["executionId"] for each in sources if each.get("executionId")), None)

    def begin(self) -> None:
        """Note that the call, or its resumption, is about to be sent."""
        self._abandoned = False  # an earlier attempt to resume may have been
        if self._began is None:
            self._began = time.perf_counter()
            # A copy: the caller may change its objects later.
            self._request = to_jsonable_python(self.call.request)

    def on_item(self, item: Any) -> None:
        """Note an item that the program yields: an effect, or an event for the caller."""
        if isinstance(item, (SendRequest, OpenStream)):
            if not self._chunks or self._chunks[-1][1]:  # else it is a retry
                self._mark(self._now(), 0)
        elif isinstance(item, PauseSeen):
            self._rounds.append(ToolRound(paused=dump(item.pause)))
            if isinstance(item.pause, ToolCallsRequired):
                self._event(item.pause)
            else:
                self._mark(self._now(), 1)
        elif isinstance(item, ResultsSent):
            self._rounds[-1].tool_results = item.results
        elif not isinstance(item, (Effect, ToolCallsRequired)):  # PauseSeen comes before that event
            self._event(item)

    def on_outcome(self, item: Any) -> None:
        """Note that the program gets the outcome of ``item``."""
        if isinstance(item, ReadChunk):
            self._arrived = self._now()

    def on_close(self, item: Any) -> None:
        """Note that the caller dropped the program while it waited for ``item``."""
        if isinstance(item, Effect):  # else a reader has left a stream between two events
            self._abandoned = True
            self._ended = self._now()

    def completed(self, result: ExecuteResult) -> None:
        """Note the final result of the call."""
        self._mark(self._now(), 1)
        self._result = dump(result)
        if result.request_id is not None:
            self._result["requestId"] = result.request_id
        self._error = None  # of an earlier attempt to resume
        self._ended = self._now()

    def submitted(self, job: JobBackend) -> None:
        """Note the job that the call put into the queue."""
        self._mark(self._now(), 1)
        self._result = {"executionId": job.execution_id}
        if job.flow_id is not None:
            self._result["flowId"] = job.flow_id
        self._ended = self._now()

    def stream_ended(self) -> None:
        """Note that the call's stream was read to its end."""
        last = self._events[-1]["eventType"] if self._events else None
        self._closed = last not in _FINAL_EVENTS
        self._ended = self._now()

    def failed(self, error: NoukaiError) -> None:
        """Note the error that ended the call."""
        if isinstance(error, ReplayError):
            self._began = None  # refused in this process: the service never saw the call
            return
        self._mark(self._now(), 1)
        self._error = recorded_error(error)
        self._ended = self._now()

    def polled(self, status: JobStatus) -> None:
        """Note a status of the call's job."""
        self._statuses.append(dump(status))

    def poll_failed(self, error: NoukaiError) -> None:
        """Note the error of a poll, which may be reported twice."""
        if error is not self._last_poll_error and not isinstance(error, ReplayError):
            self._last_poll_error = error
            self._poll_errors.append((len(self._statuses), recorded_error(error)))

    def recording(self) -> Recording:
        """Return the recording so far."""
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
            started_at=self._wall_time(0.0),
            completed_at=self._wall_time(self._ended),
            result=self._result,
            error=self._error,
            rounds=tuple(self._rounds),
            events=tuple(self._events),
            closed=self._closed,
            abandoned=self._abandoned,
            chunks=tuple(self._chunks),
            statuses=tuple(self._statuses),
            poll_errors=tuple(self._poll_errors),
        )

    def _event(self, event: Any) -> None:
        self._events.append({"eventType": event.event_type, **dump(event)})
        if self._arrived is None:  # one more event of the same chunk
            at, count = self._chunks[-1]
            self._chunks[-1] = (at, count + 1)
        else:
            self._mark(self._arrived, 1)
            self._arrived = None

    def _mark(self, at: float, parts: int) -> None:
        self._chunks.append((round(at, 6), parts))

    def _now(self) -> float:
        """Return the seconds since the call began."""
        return time.perf_counter() - (self._began or 0.0)

    def _wall_time(self, since_began: float | None) -> float | None:
        if self._began is None or since_began is None:
            return None
        return round(_WALL + self._began + since_began, 6)


def wall_time() -> float:
    """Return the time on the clock of recordings."""
    return _WALL + time.perf_counter()


def recorded_error(error: NoukaiError) -> RecordedError:
    """Return an exception as a file holds it."""
    details = {
        name: to_jsonable_python(value, fallback=str)
        for name, value in vars(error).items()
        if value is not None and name not in _NOT_DETAILS and not name.startswith("_")
    }
    return RecordedError(
        status_code=error.status_code,
        code=error.code,
        message=error.message,
        type=type(error).__name__,
        details=details,
    )
