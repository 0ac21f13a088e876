"""Turn a service session into a cassette."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from ..errors import ReplayNoSnapshotsError
from ..models.events import EVENT_CLASSES
from ..models.sessions import RecordedError, Session, SessionExecution, StepSnapshot
from ..protocol.call import CallKind
from .cassette import Cassette
from .recording import Recording
from .redaction import Redactor, ServiceRedactor

# The service keeps the rendered prompt here; user code never sees it (docs/wire.md, "Sessions").
RENDERED_PROMPT = "__rendered_prompt__"

_KINDS: tuple[CallKind, ...] = get_args(CallKind)
_WITHOUT_SNAPSHOTS = ("metadata_only", "off")
_time: TypeAdapter[datetime] = TypeAdapter(datetime, config={"defer_build": True})


def cassette_from_session(session: Session) -> Cassette:
    """Return the cassette of a recorded session.

    Raises:
        ReplayNoSnapshotsError: The session has calls, but none was captured with snapshots.
    """
    recordings = recordings_of(session)
    if recordings and all(recording.unavailable for recording in recordings):
        raise ReplayNoSnapshotsError(
            f"session {session.session_id} was captured without snapshots: set the flow's capture "
            "mode to full or redacted, and record the request again"
        )
    return Cassette(session.session_id, recordings)


def redactor_of(session: Session) -> Redactor | None:
    """Return the redactor that makes calls comparable with a session of capture mode ``redacted``."""
    modes = {execution.trace_capture_mode for execution in session.executions}
    return ServiceRedactor() if "redacted" in modes else None


def recordings_of(session: Session) -> list[Recording]:
    """Return the recordings of a session, also those that cannot be replayed."""
    return [_recording(execution) for execution in session.executions]


def _recording(execution: SessionExecution) -> Recording:
    call = execution.call
    is_job = execution.trigger_type == "job"  # a session does not hold the polls of its jobs
    kind = next((kind for kind in _KINDS if kind == execution.trigger_type), None)
    request = call.request if call is not None else _message_of(execution)
    mode, unavailable = execution.trace_capture_mode, None
    if mode in _WITHOUT_SNAPSHOTS or not execution.snapshots_available:
        unavailable = f"it was captured without snapshots (capture mode {mode or 'unknown'})"
    events = tuple(execution.events or (() if kind == "execute" else _rebuilt_events(execution)))
    return Recording(
        slug=execution.slug or (call.slug if call else None),
        kind=kind,
        org=call.org if call else None,
        project=call.project if call else None,
        version=call.version if call else None,
        execution_id=execution.execution_id,
        flow_id=execution.flow_id,
        request=request,
        message_only=call is None,
        started_at=_seconds(execution.started_at),
        completed_at=_seconds(execution.completed_at),
        result=None if is_job else _result(execution),
        error=None if is_job else _error(execution),
        rounds=tuple(execution.tool_rounds or ()),
        events=events,
        chunks=_chunks(execution, events) if kind == "step" else (),
        truncated=any(step.truncated for step in execution.steps),
        unavailable=unavailable,
    )


def _message_of(execution: SessionExecution) -> dict[str, Any] | None:
    """Return the call's message from the first step's input: the hosted service sends no more."""
    first = execution.steps[0].input_snapshot if execution.steps else None
    message = first.get("message") if isinstance(first, dict) else None
    return {"message": message} if isinstance(message, str) else None


def _result(execution: SessionExecution) -> dict[str, Any] | None:
    if execution.status not in ("completed", "failed"):
        return None
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
    began, ended = _seconds(execution.started_at), _seconds(execution.completed_at)
    started: dict[str, deque[float | None]] = defaultdict(deque)
    completed: dict[str, deque[float | None]] = defaultdict(deque)
    for step in execution.steps:
        started[step.step_id].append(_seconds(step.started_at))
        completed[step.step_id].append(_seconds(step.completed_at))
    if began is None or not any(time for times in started.values() for time in times):
        return ()
    chunks: list[tuple[float, int]] = []
    latest = 0.0
    for event in events:
        kind, step_id = event.get("eventType"), str(event.get("stepId"))
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


def _seconds(time: str | None) -> float | None:
    if time is None:
        return None
    try:
        # Not datetime.fromisoformat: before Python 3.11 it reads no Z and no 7 digits of a second.
        moment = _time.validate_python(time)
        # A time without a zone is the service's own, UTC.
        return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).timestamp()
    except ValidationError:
        return None
