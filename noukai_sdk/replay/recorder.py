"""Record live calls, by listening to the programs that send them.

A program passes through :meth:`Recorder.listen` unchanged: the same effects go to the driver, the same
events to the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import JobCancelledError, NoukaiError
from ..models.results import ExecuteResult, JobStatus, ToolResult
from ..protocol import jobs
from ..protocol.call import FlowCall, Service
from ..protocol.jobs import JobBackend
from ..protocol.program import PausedRun, Program, Timeout, longest
from .recording import Recording
from .recording_builder import RecordingBuilder


class Recorder:
    """Recordings of live calls, in the order in which the calls were made. Thread-safe."""

    def __init__(self) -> None:
        self._entries: list[RecordingBuilder | Recording] = []
        self._lock = threading.Lock()

    def listen(self, call: FlowCall, program: Program[Any]) -> Program[Any]:
        """Return ``program``, recorded. The recording takes its place now, not when it runs."""
        builder = RecordingBuilder(call)
        with self._lock:
            self._entries.append(builder)
        return _listen(builder, program)

    def on_played(self, recording: Recording) -> None:
        """Give a recording that served a call its place among the new ones."""
        with self._lock:
            self._entries.append(recording)

    def job(self, live: JobBackend) -> JobBackend:
        """Return ``live`` with its polls recorded, if its submission was recorded here."""
        for builder in self._builders():
            if builder.call.kind == "job" and builder.execution_id == live.execution_id:
                return RecordingJob(live, builder)
        return live

    def recordings(self) -> list[Recording]:
        """Return the recordings so far; a call that is still under way has no result.

        A call that never began (a coroutine that was never awaited) sent nothing, and a replay will
        not ask for it.
        """
        with self._lock:
            return [
                entry.recording() if isinstance(entry, RecordingBuilder) else entry
                for entry in self._entries
                if not isinstance(entry, RecordingBuilder) or entry.has_begun
            ]

    @property
    def has_news(self) -> bool:
        """Whether any call went live."""
        return any(builder.has_begun for builder in self._builders())

    @property
    def api_keys(self) -> set[str]:
        """The keys that the calls were made with: they must never reach a file."""
        return {key for builder in self._builders() for key in api_keys(builder.call)}

    def _builders(self) -> list[RecordingBuilder]:
        with self._lock:
            return [entry for entry in self._entries if isinstance(entry, RecordingBuilder)]


def api_keys(call: FlowCall) -> set[str]:
    """Return the key that a call is made with, as a set."""
    return keys_of(call.service)


def keys_of(service: Service) -> set[str]:
    """Return the API key of a client, as a set."""
    key = service.headers.get("Authorization", "").removeprefix("Bearer ")
    return {key} if key else set()


class RecordingJob:
    """A job whose polls are recorded."""

    def __init__(self, job: JobBackend, builder: RecordingBuilder) -> None:
        self._job = job
        self._builder = builder
        self.execution_id = job.execution_id
        self.session_id = job.session_id
        self.flow_id = job.flow_id

    def poll(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Poll the job once."""
        return self._recorded(self._job.poll(timeout))

    def cancel(self, timeout: Timeout | None = None) -> Program[JobStatus]:
        """Cancel the job. Its state afterwards is recorded as if it was polled."""
        return self._recorded(self._job.cancel(timeout))

    def _recorded(self, program: Program[JobStatus]) -> Program[JobStatus]:
        try:
            status = yield from program
        except NoukaiError as error:
            self._builder.poll_failed(error)
            raise
        self._builder.polled(status)
        return status

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """Poll the job until it is done."""
        most = longest(self._builder.call.service.timeout)
        try:
            return (yield from jobs.wait(self, most, timeout, poll_interval))
        except JobCancelledError:  # follows from the recorded status
            raise
        except NoukaiError as error:
            self._builder.poll_failed(error)
            raise


def _listen(builder: RecordingBuilder, program: Program[Any]) -> Program[Any]:
    try:
        item = next(program)
        builder.begin()
        while True:
            builder.on_item(item)
            try:
                outcome = yield item
            except GeneratorExit:
                builder.on_close(item)
                raise
            except Exception as error:  # noqa: BLE001 - thrown in for the program, not for us
                item = program.throw(error)
            else:
                builder.on_outcome(item)
                item = program.send(outcome)
    except StopIteration as end:
        return _finish(builder, end.value)
    except NoukaiError as error:
        builder.failed(error)
        raise
    finally:
        program.close()


def _finish(builder: RecordingBuilder, value: Any) -> Any:
    """Record the program's result and return it for the caller."""
    if isinstance(value, PausedRun):
        return PausedRun(value.pause, partial(_resumed, builder, value.resume))
    if value is None:
        builder.stream_ended()
    elif isinstance(value, ExecuteResult):
        builder.completed(value)
    else:
        builder.submitted(value)
        value = RecordingJob(value, builder)
    return value


def _resumed(builder: RecordingBuilder, resume: Any, results: Sequence[ToolResult]) -> Program[Any]:
    return _listen(builder, resume(results))
