"""Turn a service session into a cassette."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from typing import Any, NamedTuple, cast, get_args

from ..errors import (
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayNoSnapshotsError,
    ReplaySessionNotFoundError,
)
from ..models.events import EVENT_CLASSES
from ..models.sessions import ForkParent, RecordedError, Session, SessionExecution, StepSnapshot
from ..protocol.call import CallKind, Service
from ..protocol.fetching import fetch_session
from ..protocol.program import Program
from .cassette import Cassette
from .merging import has_masked_calls, with_outcomes, with_parent
from .recording import Recording, seconds_of
from .redaction import Redactor, ServiceRedactor

# The service keeps the rendered prompt here; user code never sees it (docs/wire.md, "Sessions").
RENDERED_PROMPT = "__rendered_prompt__"

_KIND_OF: dict[str | None, CallKind] = {kind: kind for kind in get_args(CallKind)}
_WITHOUT_SNAPSHOTS = ("metadata_only", "off")
# The recordings of a session of more calls are read at first use.
_LONG = 200
# A fork of a fork of a fork ... has at most so many ancestors.
_MOST_ANCESTORS = 20


class LoadedSession(NamedTuple):
    """A recorded session, with what its clients reported and what its parent served.

    Attributes:
        recordings: Also those that cannot be replayed.
        redactor: Makes calls comparable with redacted recordings; None if nothing was redacted.
        parent: The session that it was forked from, None if it is not a fork.
        client_left: The client of the request left before the end of the response.
    """

    session_id: str
    recordings: list[Recording]
    redactor: Redactor | None
    parent: ForkParent | None = None
    client_left: bool = False

    def require_snapshots(self) -> None:
        """Raise ReplayNoSnapshotsError if there are runs, but none was captured with snapshots."""
        runs = (each for each in self.recordings if each.execution_id is not None)
        first = next(runs, None)
        if first is not None and first.unavailable and all(each.unavailable for each in runs):
            raise ReplayNoSnapshotsError(
                f"session {self.session_id} was captured without snapshots: set the flow's capture "
                "mode to full or redacted, and record the request again"
            )

    def cassette(self) -> Cassette:
        """Return the recordings as a cassette to play.

        Raises:
            ReplayNoSnapshotsError: The session has runs, but none was captured with snapshots.
        """
        self.require_snapshots()
        return Cassette(self.session_id, self.recordings, self.client_left)


def load_session(
    service: Service, session_id: str, link: ForkParent | None = None
) -> Program[LoadedSession]:
    """Fetch a session, and the sessions that it was forked from.

    Args:
        service: The client to fetch them with.
        session_id: The session.
        link: The parent of the session, if another client has read it.

    Raises:
        ReplayError: One of them is not available. The error names it.
    """
    try:
        session = yield from fetch_session(service, session_id)
    except (ReplayForbiddenError, ReplaySessionNotFoundError):
        if link is None:
            raise
        session = Session(session_id=session_id)  # all calls of this client were served
    session.parent = session.parent or link
    sessions = [session]
    ids = {session_id, sessions[0].session_id}
    while (parent := sessions[-1].parent) is not None and parent.served:
        fork, ancestor = sessions[-1].session_id, parent.session_id
        if ancestor in ids or len(sessions) > _MOST_ANCESTORS:
            problem = "one of its own forks" if ancestor in ids else "too far from it to follow"
            raise ReplayInvalidSessionError(
                f"session {fork} is a fork of session {ancestor}, which is {problem}"
            )
        ids.add(ancestor)
        try:
            sessions.append((yield from fetch_session(service, ancestor)))
        except ReplayError as error:
            text = f"session {fork} is a fork of session {ancestor}: {error.message}"
            named = type(error)(
                text,
                status_code=error.status_code,
                code=error.code,
                request_id=error.request_id,
            )
            named.parent_session_id = ancestor
            raise named from error.__cause__
    recordings: list[Recording] = []
    for session in reversed(sessions):
        own = recordings_of(session)
        recordings = own if session.parent is None else with_parent(own, recordings, session.parent)
    redacts = any(map(_is_redacted, sessions))
    redactor = ServiceRedactor() if redacts else None
    first = sessions[0]
    return LoadedSession(first.session_id, recordings, redactor, first.parent, first.client_left)


def recordings_of(session: Session) -> list[Recording]:
    """Return the recordings of a session, also those that cannot be replayed, without its parent's."""
    executions = session.executions
    if len(executions) > _LONG:
        recordings = [cast("Recording", LazyRecording(each)) for each in executions]
    else:
        recordings = [_recording(each) for each in executions]
    return with_outcomes(recordings, session.outcomes) if session.outcomes else recordings


class LazyRecording:
    """The recording of a run, read at first use. Has every attribute of :class:`Recording`.

    Reading a run takes longer than fetching it, so a long session would take long to open.
    """

    __slots__ = (
        "_execution",
        "_recording",
        "_times",
        "execution_id",
        "kind",
        "org",
        "project",
        "slug",
    )

    def __init__(self, execution: SessionExecution) -> None:
        call = execution.call
        self._execution = execution
        self._recording: Recording | None = None
        self._times: tuple[float | None, float | None] | None = None
        self.execution_id = execution.execution_id
        self.kind = _KIND_OF.get(execution.trigger_type)
        self.slug = execution.slug
        if call is None:
            self.org = self.project = None
        else:
            self.org, self.project = call.org, call.project
            self.slug = self.slug or call.slug

    def read(self) -> Recording:
        """Return the whole recording."""
        if self._recording is None:
            self._recording = _recording(self._execution, self._times)
        return self._recording

    @property
    def started_at(self) -> float | None:
        """When the run began."""
        return self._began_and_ended()[0]

    @property
    def completed_at(self) -> float | None:
        """When the run ended."""
        return self._began_and_ended()[1]

    def _began_and_ended(self) -> tuple[float | None, float | None]:
        # Asked for all runs of a session, to see which overlapped.
        if self._times is None:
            run = self._execution
            self._times = seconds_of(run.started_at), seconds_of(run.completed_at)
        return self._times

    @property
    def unavailable(self) -> str | None:
        """Why the recording cannot be served, None if it can."""
        return _unavailable(self._execution)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.read(), name)

    def __eq__(self, other: object) -> bool:
        return self.read() == (other.read() if isinstance(other, LazyRecording) else other)

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return repr(self.read())

    def __str__(self) -> str:
        return str(self.read())


def _is_redacted(session: Session) -> bool:
    """Return whether secrets were removed from the calls."""
    modes = {execution.trace_capture_mode for execution in session.executions}
    return "redacted" in modes or has_masked_calls(session.outcomes)


def _recording(
    execution: SessionExecution, times: tuple[float | None, float | None] | None = None
) -> Recording:
    call = execution.call
    is_job = execution.trigger_type == "job"  # a session does not hold the polls of its jobs
    kind = _KIND_OF.get(execution.trigger_type)
    request = call.request if call is not None else _message_of(execution)
    events = tuple(execution.events or (() if kind == "execute" else _rebuilt_events(execution)))
    began, ended = times or (seconds_of(execution.started_at), seconds_of(execution.completed_at))
    recording = Recording.trusted(
        slug=execution.slug or (call.slug if call else None),
        kind=kind,
        org=call.org if call else None,
        project=call.project if call else None,
        version=call.version if call else None,
        execution_id=execution.execution_id,
        flow_id=execution.flow_id,
        request=request,
        message_only=call is None,
        started_at=began,
        completed_at=ended,
        result=None if is_job else _result(execution),
        error=None if is_job else _error(execution),
        events=events,
        unavailable=_unavailable(execution),
    )
    if execution.tool_rounds:
        recording.rounds = tuple(execution.tool_rounds)
    if kind == "step":
        recording.chunks = _chunks(execution, events)
    # The service stops a run whose caller goes away.
    if execution.status == "cancelled" and ended is not None:
        recording.abandoned = True
    for step in execution.steps:
        if step.truncated:
            recording.truncated = True
    return recording


def _unavailable(execution: SessionExecution) -> str | None:
    mode = execution.trace_capture_mode
    if mode not in _WITHOUT_SNAPSHOTS and execution.snapshots_available:
        return None
    return f"it was captured without snapshots (capture mode {mode or 'unknown'})"


def _message_of(execution: SessionExecution) -> dict[str, Any] | None:
    """Return the call's message from the first step's input: the hosted service sends no more."""
    first = execution.steps[0].input_snapshot if execution.steps else None
    message = first.get("message") if isinstance(first, dict) else None
    return {"message": message} if isinstance(message, str) else None


def _result(execution: SessionExecution) -> dict[str, Any] | None:
    if execution.status not in ("completed", "failed"):
        return None
    steps = execution.steps
    if len(steps) != 1 or steps[0].status == "skipped":
        steps = _last_attempts(execution)
    if "result" in execution.model_fields_set:
        result = execution.result
    else:
        outputs = [_output(step) for step in steps if not _has_failed(step)]
        result = outputs[-1] if outputs else None
    return {
        "status": execution.status,
        "result": result,
        "flowId": execution.flow_id,
        "blockCount": len({step.step_id for step in steps}),
        "executionId": execution.execution_id,
    }


def _error(execution: SessionExecution) -> RecordedError | None:
    if execution.status not in ("completed", "failed"):
        return None  # the caller of a cancelled run never saw its error
    if execution.error is not None:
        return execution.error
    # Our backend sends the error of a failed call; without one, the failure was a result.
    if execution.status != "failed" or "result" in execution.model_fields_set:
        return None
    # The step that ended the run has the error.
    failed = [step for step in _last_attempts(execution) if _has_failed(step)]
    named = [step for step in failed if step.step_id == execution.error_at_step]
    return _error_of(next((step.error_snapshot for step in named or failed), None))


def _error_of(snapshot: Any) -> RecordedError:
    if isinstance(snapshot, dict):
        code, message = snapshot.get("code"), snapshot.get("message")
        return RecordedError(code=str(code) if code else None, message=str(message or ""))
    return RecordedError(message=str(snapshot or "the recorded run failed"))


def _last_attempts(execution: SessionExecution) -> list[StepSnapshot]:
    """Return the steps that ran or still run; of a step that was retried, the last attempt."""
    last: dict[tuple[str, int | None], StepSnapshot] = {}
    for step in execution.steps:
        before = last.get((step.step_id, step.loop_index))
        if step.status != "skipped" and (before is None or step.attempt >= before.attempt):
            last[step.step_id, step.loop_index] = step
    return list(last.values())


def _has_failed(step: StepSnapshot) -> bool:
    return step.status == "failed" or step.error_snapshot is not None


def _output(step: StepSnapshot) -> Any:
    output = step.output_snapshot
    if isinstance(output, dict):
        return {name: value for name, value in output.items() if name != RENDERED_PROMPT}
    return output


def _rebuilt_events(execution: SessionExecution) -> list[dict[str, Any]]:
    """Rebuild the events of a stream from its steps: run_started, each step, the end."""
    steps = _last_attempts(execution)
    if execution.status == "failed" and not steps:
        return []  # refused before the stream began
    # A step that ran in a loop has one index, however often it ran.
    index = {step_id: at for at, step_id in enumerate(dict.fromkeys(s.step_id for s in steps))}
    events: list[dict[str, Any]] = [
        {
            "eventType": "run_started",
            "executionId": execution.execution_id,
            "flowId": execution.flow_id,
            "stepCount": len(index),
        }
    ]
    for step in steps:
        place = {"stepId": step.step_id, "stepIndex": index[step.step_id]}
        events.append({"eventType": "step_started", **place})
        if _has_failed(step):
            error = _error_of(step.error_snapshot)
            details = {"code": error.code, "message": error.message}
            events.append({"eventType": "step_error", "stepId": step.step_id, "error": details})
        elif step.status == "completed":
            output = {"output": _output(step), "durationMs": step.duration_ms}
            events.append({"eventType": "step_completed", **place, **output})
    result = _result(execution)
    if execution.status == "completed" and result is not None:
        events.append({"eventType": "flow_completed", "result": result["result"]})
    return events


def _chunks(
    execution: SessionExecution, events: Sequence[dict[str, Any]]
) -> tuple[tuple[float, int], ...]:
    """Return when each event came, as far as the times of the steps tell; empty if they do not."""
    began, ended = seconds_of(execution.started_at), seconds_of(execution.completed_at)
    started: dict[str, deque[float | None]] = defaultdict(deque)
    completed: dict[str, deque[float | None]] = defaultdict(deque)
    for step in execution.steps:
        started[step.step_id].append(seconds_of(step.started_at))
        completed[step.step_id].append(seconds_of(step.completed_at))
    if began is None or not any(time for times in started.values() for time in times):
        return ()
    chunks: list[tuple[float, int]] = []
    latest = 0.0
    for event in events:
        kind, step_id = str(event.get("eventType")), str(event.get("stepId"))
        at: float | None = None
        if kind == "step_started" and started[step_id]:
            at = started[step_id].popleft()
        elif kind in ("step_completed", "step_error") and completed[step_id]:
            at = completed[step_id].popleft()
        elif kind == "flow_completed":
            at = ended
        if kind in EVENT_CLASSES:
            latest = max(latest, (at or began) - began)
            chunks.append((round(latest, 6), 1))
    return tuple(chunks)
