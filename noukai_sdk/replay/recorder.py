"""The recorder: listens to the programs of live calls, and keeps what they say.

A program passes through :meth:`Recorder.listen` unchanged: the same wants go to the driver, the same
events to the caller.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from .. import errors
from ..models.base import dump
from ..models.events import ToolCallsRequired
from ..models.results import ExecuteResult, JobStatus, PausedResult, ToolResult
from ..models.sessions import RecordedError, ToolRound
from ..protocol.call import FlowCall
from ..protocol.jobs import JobPrograms
from ..protocol.program import PauseSeen, Program, ReadChunk, ResultsSent, Want
from .recording import Recording


class Recorder:
    """Recordings of live calls, in the order in which the calls were made."""

    def __init__(self) -> None:
        self._drafts: list[Draft] = []

    def listen(self, call: FlowCall, program: Program[Any]) -> Program[Any]:
        """``program``, recorded. The recording's place is taken now, not when it runs."""
        draft = Draft(call)
        self._drafts.append(draft)
        return _listen(draft, program)

    def recordings(self) -> list[Recording]:
        """What was recorded so far; calls that are still under way say so."""
        return [draft.recording() for draft in list(self._drafts)]

    @property
    def api_keys(self) -> set[str]:
        """The keys that the calls were made with: they must never reach a file."""
        keys = (draft.call.service.headers.get("Authorization", "") for draft in self._drafts)
        return {key.removeprefix("Bearer ") for key in keys}


class Draft:
    """One call, being recorded."""

    def __init__(self, call: FlowCall) -> None:
        self.call = call
        self._began = time.perf_counter()
        self._started_at = time.time()
        self._completed_at: float | None = None
        self._result: dict[str, Any] | None = None
        self._error: RecordedError | None = None
        self._rounds: list[ToolRound] = []
        self._events: list[dict[str, Any]] = []
        self._chunks: list[tuple[float, int]] = []
        self._chunk_at = 0.0
        self._statuses: list[dict[str, Any]] = []

    def see(self, item: Any) -> None:
        """What the program yields: a want, or an event for the caller."""
        if isinstance(item, PauseSeen):
            self._rounds.append(ToolRound(paused=dump(item.pause)))
            if isinstance(item.pause, ToolCallsRequired):
                self._event(item.pause)
        elif isinstance(item, ResultsSent):
            self._rounds[-1].tool_results = item.results
        elif not isinstance(item, (Want, ToolCallsRequired)):
            self._event(item)

    def hear(self, item: Any) -> None:
        """The program is about to get the outcome of what it yielded."""
        if isinstance(item, ReadChunk):
            self._chunk_at = round(time.perf_counter() - self._began, 6)

    def returned(self, value: Any) -> Any:
        """The program's result, on its way to the caller."""
        if isinstance(value, PausedResult):
            go_on = value._resume
            value._resume = partial(_resumed, self, go_on)
            return value
        if isinstance(value, ExecuteResult):
            self._result = dump(value)
        elif value is not None:
            self._result = {"executionId": value.execution_id}
            value = RecordingJob(value, self)
        self.complete()
        return value

    def failed(self, error: errors.NoukaiError) -> None:
        """The call ended with this error."""
        self._error = recorded_error(error)
        self.complete()

    def looked(self, status: JobStatus) -> None:
        """A look at the call's job."""
        self._statuses.append(dump(status))

    def complete(self) -> None:
        """The call has ended."""
        self._completed_at = time.time()

    def recording(self) -> Recording:
        """The recording as far as it goes."""
        flow = self.call.flow
        result = self._result or {}
        return Recording(
            slug=flow.slug,
            kind=self.call.kind,
            org=flow.org,
            project=flow.project,
            version=flow.version,
            execution_id=result.get("executionId") or _execution_id(self._events),
            flow_id=result.get("flowId"),
            request=dict(self.call.request),
            started_at=self._started_at,
            completed_at=self._completed_at,
            result=self._result,
            error=self._error,
            rounds=self._rounds,
            events=self._events,
            chunks=self._chunks,
            statuses=self._statuses,
        )

    def _event(self, event: Any) -> None:
        data = {"eventType": event.event_type, **dump(event)}
        self._events.append(data)
        last_at, count = self._chunks[-1] if self._chunks else (-1.0, 0)
        if last_at == self._chunk_at:
            self._chunks[-1] = (last_at, count + 1)
        else:
            self._chunks.append((self._chunk_at, 1))


class RecordingJob:
    """A job whose looks are recorded."""

    def __init__(self, job: JobPrograms, draft: Draft) -> None:
        self._job = job
        self._draft = draft
        self.execution_id = job.execution_id
        self.session_id = job.session_id

    def poll(self, timeout: float | None = None) -> Program[JobStatus]:
        """As the job's own."""
        return self._noted(self._job.poll(timeout))

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """As the job's own; of its looks the last one is kept."""
        return self._noted(self._job.wait(timeout, poll_interval))

    def _noted(self, program: Program[JobStatus]) -> Program[JobStatus]:
        status = yield from program
        self._draft.looked(status)
        return status


def _listen(draft: Draft, program: Program[Any]) -> Program[Any]:
    try:
        item = next(program)
        while True:
            draft.see(item)
            try:
                outcome = yield item
            except Exception as error:  # noqa: BLE001 - thrown in for the program, not for us
                item = program.throw(error)
            else:
                draft.hear(item)
                item = program.send(outcome)
    except StopIteration as end:
        return draft.returned(end.value)
    except errors.NoukaiError as error:
        draft.failed(error)
        raise
    finally:
        program.close()


def _resumed(draft: Draft, go_on: Any, results: Sequence[ToolResult]) -> Program[Any]:
    return _listen(draft, go_on(results))


def recorded_error(error: errors.NoukaiError) -> RecordedError:
    """An exception as a file holds it."""
    details = {
        name: value
        for name, value in vars(error).items()
        if value is not None and name not in ("message", "report")
    }
    return RecordedError(
        status_code=error.status_code,
        code=error.code,
        message=error.message,
        type=type(error).__name__,
        details=details,
    )


def _execution_id(events: Iterable[dict[str, Any]]) -> str | None:
    return next((event["executionId"] for event in events if event.get("executionId")), None)
