"""Turn a service session into a cassette."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from ..errors import (
    ReplayError,
    ReplayForbiddenError,
    ReplayInvalidSessionError,
    ReplayNoSnapshotsError,
    ReplaySessionNotFoundError,
)
from ..models.boundaries import Boundary
from ..models.events import EVENT_CLASSES
from ..models.sessions import (
    EditedCall,
    ForkParent,
    RecordedError,
    Session,
    SessionExecution,
    StepSnapshot,
)
from ..protocol.call import FLOW_KINDS, CallKind, Service
from ..protocol.fetching import fetch_session
from ..protocol.program import Program
from .cassette import Cassette
from .merging import before_boundaries, has_masked_calls, with_outcomes, with_parent
from .recording import Recording, seconds_of
from .redaction import Redactor, ServiceRedactor

# The service keeps the rendered prompt here; user code never sees it (docs/wire.md, "Sessions").
RENDERED_PROMPT = "__rendered_prompt__"

_KIND_OF: dict[str | None, CallKind] = {kind: kind for kind in FLOW_KINDS}
_WITHOUT_SNAPSHOTS = ("metadata_only", "off")
# The caller of a run with another status saw neither its result nor its error.
_ENDED = ("completed", "failed")
# A fork of a fork of a fork ... has at most so many ancestors.
MOST_ANCESTORS = 20


class LoadedSession(NamedTuple):
    """A recorded session, with what its clients reported and what its parent served.

    Attributes:
        recordings: Also those that cannot be replayed.
        redactor: Makes calls comparable with redacted recordings; None if nothing was redacted.
        parent: The session that it was forked from, None if it is not a fork.
        client_left: The client of the request left before the end of the response.
        total_calls, boundaries, total_boundaries: As in :class:`Cassette`.
    """

    session_id: str
    recordings: list[Recording]
    redactor: Redactor | None
    parent: ForkParent | None = None
    client_left: bool = False
    total_calls: int | None = None
    boundaries: Sequence[Boundary] = ()
    total_boundaries: int | None = None

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
        return Cassette(
            self.session_id,
            self.recordings,
            self.client_left,
            self.total_calls,
            self.boundaries,
            self.total_boundaries,
        )


def load_session(
    service: Service, session_id: str, link: ForkParent | None = None, *, as_made: bool = True
) -> Program[LoadedSession]:
    """Fetch a session, and the sessions that it was forked from.

    Args:
        service: The client to fetch them with.
        session_id: The session.
        link: The parent of the session, if another client has read it.
        as_made: As for :func:`recordings_of_fork`.

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
        if ancestor in ids or len(sessions) > MOST_ANCESTORS:
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
    return with_ancestors(sessions, as_made=as_made)


def with_ancestors(sessions: Sequence[Session], *, as_made: bool = True) -> LoadedSession:
    """Return the first session, with the calls that the others served: its parent, and so on."""
    redacts = any(map(_is_redacted, sessions))
    recordings = recordings_of_fork(sessions, as_made=as_made)
    redactor = ServiceRedactor() if redacts else None
    first = sessions[0]
    return LoadedSession(
        first.session_id,
        recordings,
        redactor,
        first.parent,
        first.client_left,
        first.total_calls,
        first.boundaries,
        first.total_boundaries,
    )


def recordings_of_fork(sessions: Sequence[Session], *, as_made: bool = False) -> list[Recording]:
    """Return the recordings of the first session, with those that its parents, which follow, served.

    Args:
        sessions: The session, its parent, and so on.
        as_made: A call whose input was edited has the input that the application sent, not the one that
            the service got: that is what the application sends in a replay.
    """
    recordings: list[Recording] = []
    for session in reversed(sessions):
        own, parent = recordings_of(session), session.parent
        recordings = own if parent is None else with_parent(own, recordings, parent)
        for edited in parent.all_edited if as_made and parent is not None else ():
            _restore_input(recordings, edited)
    return recordings


def _restore_input(recordings: list[Recording], edited: EditedCall) -> None:
    runs = {each.execution_id: order for order, each in enumerate(recordings) if each.execution_id}
    # Of calls that overlapped, the runs may have begun in another order.
    order = runs.get(edited.execution_id or "", edited.order)
    if not 0 <= order < len(recordings):
        return
    call, recording = edited.call, recordings[order]
    is_same = (recording.org, recording.project, recording.slug) == (
        call.org,
        call.project,
        call.slug,
    )
    # A flow without capture keeps no input.
    if is_same and call.request and recording.request is not None and not recording.message_only:
        recordings[order] = replace(recording, request=call.request)


def recordings_of(session: Session) -> list[Recording]:
    """Return the recordings of a session, also those that cannot be replayed, without its parent's.

    Takes the executions out of the session: a long one would be in memory twice, and Python's garbage
    collector would take a tenth of the time.
    """
    recordings = []
    session.executions.reverse()
    while session.executions:
        recordings.append(_recording(session.executions.pop()))
    if session.outcomes:
        recordings = with_outcomes(recordings, session.outcomes)
    if session.boundaries and session.parent is None:
        recordings = before_boundaries(recordings, session.outcomes, session.boundaries)
    return recordings


def _is_redacted(session: Session) -> bool:
    """Return whether secrets were removed from the calls."""
    modes = {execution.get("traceCaptureMode") for execution in session.executions}
    parent = session.parent
    edited = () if parent is None else parent.all_edited
    return "redacted" in modes or has_masked_calls([*session.outcomes, *edited])


def _recording(execution: SessionExecution) -> Recording:
    # Opening a session makes all its recordings: assignments take half the time of so many arguments.
    recording = Recording(execution.get("slug"), _KIND_OF.get(execution.get("triggerType")))
    recording.execution_id = execution["executionId"]
    recording.flow_id = execution.get("flowId")
    recording.started_at = seconds_of(execution.get("startedAt"))
    recording.completed_at = seconds_of(execution.get("completedAt"))
    mode, status = execution.get("traceCaptureMode"), execution["status"]
    if mode in _WITHOUT_SNAPSHOTS or not execution.get("snapshotsAvailable", True):
        reason = f"it was captured without snapshots (capture mode {mode or 'unknown'})"
        recording.unavailable = reason
    call, steps = execution.get("call"), execution.get("steps", [])
    if call is None:
        recording.message_only = True
        recording.request = _message_of(steps)
    else:
        recording.slug = recording.slug or call.slug
        recording.org, recording.project = call.org, call.project
        recording.version, recording.request = call.version, call.request
    # A session does not hold the polls of its jobs.
    if status in _ENDED and recording.kind != "job":
        recording.result = _result(execution, steps)
        if status == "failed" or "error" in execution:
            recording.error = _error(execution, steps)
    elif status == "cancelled" and recording.kind != "job" and recording.completed_at is not None:
        recording.abandoned = True  # the service stops a run whose caller goes away
    if recording.kind != "execute":
        recording.events = tuple(execution.get("events") or _rebuilt_events(execution, steps))
    elif "events" in execution:
        recording.events = tuple(execution["events"] or ())
    if recording.kind == "step":
        recording.chunks = _chunks(recording, steps)
    if "toolRounds" in execution:
        recording.rounds = tuple(execution["toolRounds"] or ())
    for step in steps:
        if step.get("truncated"):
            recording.truncated = True
    return recording


def _message_of(steps: Sequence[StepSnapshot]) -> dict[str, Any] | None:
    """Return the call's message from the first step's input: the hosted service sends no more."""
    first = steps[0].get("inputSnapshot") if steps else None
    message = first.get("message") if isinstance(first, dict) else None
    return {"message": message} if isinstance(message, str) else None


def _result(execution: SessionExecution, steps: Sequence[StepSnapshot]) -> dict[str, Any]:
    if len(steps) != 1 or steps[0].get("status") == "skipped":
        steps = _last_attempts(steps)
    result = None
    if "result" in execution:
        result = execution["result"]
    else:
        for step in reversed(steps):
            if not _has_failed(step):
                result = _output(step)
                break
    return {
        "status": execution["status"],
        "result": result,
        "flowId": execution.get("flowId"),
        "blockCount": len(steps) if len(steps) < 2 else len({step["stepId"] for step in steps}),
        "executionId": execution["executionId"],
        **(execution.get("usage") or {}),
    }


def _error(execution: SessionExecution, steps: Sequence[StepSnapshot]) -> RecordedError | None:
    error = execution.get("error")
    # Our backend sends the error of a failed call; without one, the failure was a result.
    if error is not None or execution["status"] != "failed" or "result" in execution:
        return error
    # The step that ended the run has the error.
    failed = [step for step in _last_attempts(steps) if _has_failed(step)]
    named = [step for step in failed if step["stepId"] == execution.get("errorAtStep")]
    return _error_of(next((step.get("errorSnapshot") for step in named or failed), None))


def _error_of(snapshot: Any) -> RecordedError:
    if isinstance(snapshot, dict):
        code, message = snapshot.get("code"), snapshot.get("message")
        return RecordedError(code=str(code) if code else None, message=str(message or ""))
    return RecordedError(message=str(snapshot or "the recorded run failed"))


def _last_attempts(steps: Sequence[StepSnapshot]) -> Sequence[StepSnapshot]:
    """Return the steps that ran or still run; of a step that was retried, the last attempt."""
    last: dict[tuple[str, int | None], StepSnapshot] = {}
    for step in steps:
        key = step["stepId"], step.get("loopIndex")
        before = last.get(key)
        if step.get("status") != "skipped" and (
            before is None or step.get("attempt", 1) >= before.get("attempt", 1)
        ):
            last[key] = step
    return list(last.values())


def _has_failed(step: StepSnapshot) -> bool:
    return step.get("status") == "failed" or step.get("errorSnapshot") is not None


def _output(step: StepSnapshot) -> Any:
    output = step.get("outputSnapshot")
    if isinstance(output, dict):
        return {name: value for name, value in output.items() if name != RENDERED_PROMPT}
    return output


def _rebuilt_events(
    execution: SessionExecution, steps: Sequence[StepSnapshot]
) -> list[dict[str, Any]]:
    """Rebuild the events of a stream from its steps: run_started, each step, the end."""
    steps = _last_attempts(steps)
    status = execution["status"]
    if status == "failed" and not steps:
        return []  # refused before the stream began
    # A step that ran in a loop has one index, however often it ran.
    index = {step_id: at for at, step_id in enumerate(dict.fromkeys(s["stepId"] for s in steps))}
    events: list[dict[str, Any]] = [
        {
            "eventType": "run_started",
            "executionId": execution["executionId"],
            "flowId": execution.get("flowId"),
            "stepCount": len(index),
        }
    ]
    for step in steps:
        step_id = step["stepId"]
        place = {"stepId": step_id, "stepIndex": index[step_id]}
        events.append({"eventType": "step_started", **place})
        if _has_failed(step):
            error = _error_of(step.get("errorSnapshot"))
            details = {"code": error.code, "message": error.message}
            events.append({"eventType": "step_error", "stepId": step_id, "error": details})
        elif step.get("status", "completed") == "completed":
            output = {"output": _output(step), "durationMs": step.get("durationMs")}
            events.append({"eventType": "step_completed", **place, **output})
    if status == "completed":
        result = _result(execution, steps)["result"]
        events.append({"eventType": "flow_completed", "result": result})
    return events


def _chunks(recording: Recording, steps: Sequence[StepSnapshot]) -> tuple[tuple[float, int], ...]:
    """Return when each event came, as far as the times of the steps tell; empty if they do not."""
    began, ended = recording.started_at, recording.completed_at
    started: dict[str, deque[float | None]] = defaultdict(deque)
    completed: dict[str, deque[float | None]] = defaultdict(deque)
    for step in steps:
        started[step["stepId"]].append(seconds_of(step.get("startedAt")))
        completed[step["stepId"]].append(seconds_of(step.get("completedAt")))
    if began is None or not any(time for times in started.values() for time in times):
        return ()
    chunks: list[tuple[float, int]] = []
    latest = 0.0
    for event in recording.events:
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
