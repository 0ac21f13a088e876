"""The recorder: listens to the programs of live calls, and keeps what they say.

A program passes through :meth:`Recorder.listen` unchanged: the same wants go to the driver, the same
events to the caller.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

from ..errors import NoukaiError
from ..models.results import ExecuteResult, JobStatus, PausedResult, ToolResult
from ..protocol import jobs
from ..protocol.call import FlowCall
from ..protocol.jobs import JobBackend
from ..protocol.program import Program
from .recording import Recording
from .recording_builder import RecordingBuilder


class Recorder:
    """Recordings of live calls, in the order in which the calls were made. Safe to use from threads."""

    def __init__(self) -> None:
        self._entries: list[RecordingBuilder | Recording] = []
        self._lock = threading.Lock()

    def listen(self, call: FlowCall, program: Program[Any]) -> Program[Any]:
        """``program``, recorded. The recording's place is taken now, not when it runs."""
        draft = RecordingBuilder(call)
        with self._lock:
            self._entries.append(draft)
        return _listen(draft, program)

    def played(self, recording: Recording) -> None:
        """A recording that was there before answered a call: it keeps its place among the new ones."""
        with self._lock:
            self._entries.append(recording)

    def job(self, live: JobBackend) -> JobBackend:
        """``live``, whose looks are recorded where its submission was."""
        for draft in self._drafts():
            if draft.call.kind == "job" and draft.execution_id == live.execution_id:
                return RecordingJob(live, draft)
        return live

    def recordings(self) -> list[Recording]:
        """What was recorded so far; calls that are still under way say so.

        A call that was made and never begun (a coroutine that nobody awaited) sent nothing, and a
        replay will not ask for it.
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
        return any(draft.has_begun for draft in self._drafts())

    @property
    def api_keys(self) -> set[str]:
        """The keys that the calls were made with: they must never reach a file."""
        return {key for draft in self._drafts() for key in api_keys(draft.call)}

    def _drafts(self) -> list[RecordingBuilder]:
        with self._lock:
            return [entry for entry in self._entries if isinstance(entry, RecordingBuilder)]


def api_keys(call: FlowCall) -> set[str]:
    """The key that a call is made with."""
    key = call.service.headers.get("Authorization", "").removeprefix("Bearer ")
    return {key} if key else set()


class RecordingJob:
    """A job whose looks are recorded."""

    def __init__(self, job: JobBackend, draft: RecordingBuilder) -> None:
        self._job = job
        self._draft = draft
        self.execution_id = job.execution_id
        self.session_id = job.session_id

    def poll(self, timeout: float | None = None) -> Program[JobStatus]:
        """As the job's own."""
        try:
            status = yield from self._job.poll(timeout)
        except NoukaiError as error:
            self._draft.look_failed(error)
            raise
        self._draft.looked(status)
        return status

    def wait(self, timeout: float, poll_interval: float) -> Program[JobStatus]:
        """As the job's own."""
        longest = self._draft.call.service.timeout
        try:
            return (yield from jobs.wait(self, longest, timeout, poll_interval))
        except NoukaiError as error:
            self._draft.look_failed(error)
            raise


def _listen(draft: RecordingBuilder, program: Program[Any]) -> Program[Any]:
    try:
        item = next(program)
        draft.begin()
        while True:
            draft.see(item)
            try:
                outcome = yield item
            except GeneratorExit:
                draft.dropped(item)
                raise
            except Exception as error:  # noqa: BLE001 - thrown in for the program, not for us
                item = program.throw(error)
            else:
                draft.hear(item)
                item = program.send(outcome)
    except StopIteration as end:
        return _returned(draft, end.value)
    except NoukaiError as error:
        draft.failed(error)
        raise
    finally:
        program.close()


def _returned(draft: RecordingBuilder, value: Any) -> Any:
    """The program's result, on its way to the caller."""
    if isinstance(value, PausedResult):
        value._resume = partial(_resumed, draft, value._resume)
        return value
    if value is None:
        draft.stream_ended()
    elif isinstance(value, ExecuteResult):
        draft.answered(value)
    else:
        draft.submitted(value)
        value = RecordingJob(value, draft)
    return value


def _resumed(draft: RecordingBuilder, go_on: Any, results: Sequence[ToolResult]) -> Program[Any]:
    return _listen(draft, go_on(results))
