"""Convert runs to database rows and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from .capture import captured, captured_events, keeps_snapshots, keeps_steps
from .encoding import from_column, to_column
from .run import Run, RunLog, StepRecord
from .store.writer import Changes


def changes_of(run: Run, now: int) -> Changes:
    """Return the rows to write for ``run``: its current row, and what its log has not stored yet."""
    mode = run.flow.capture_mode
    first, events, steps = run.log.take(whole_outputs=mode == "redacted")
    kept = captured_events(mode, events)
    return Changes(
        [_execution_row(run, now)],
        [step_row(run.id, mode, step) for step in steps] if keeps_steps(mode) else [],
        [{"execution_id": run.id, "first": first, "body": to_column(kept)}] if kept else [],
    )


def _execution_row(run: Run, now: int) -> dict[str, Any]:
    flow, mode = run.flow, run.flow.capture_mode
    # A job's result must reach its poll in every mode; the session view hides it again.
    is_kept = run.trigger == "job" or run.keeps_result
    result = run.result if is_kept else captured(mode, run.result)
    error = captured(mode, run.error) if keeps_snapshots(mode) else run.error
    state = {
        # Not copied: it is encoded at once.
        "run": vars(run.state),
        "log": run.log.position(),
        "pause": run.pause,
        "request": run.request,
        "toolRounds": run.tool_rounds,
        "stepIds": [step.id for step in flow.steps],
        "keepsResult": run.keeps_result,
        "traceparent": run.traceparent,
    }
    return {
        "id": run.id,
        "org": flow.org,
        "project": flow.project,
        "slug": flow.slug,
        "version": run.version,
        "flow_id": run.flow_id,
        "block_count": len(flow.steps),
        "session_id": run.session_id,
        "trigger": run.trigger,
        "status": run.status,
        "capture_mode": mode,
        "started_at": run.started_at,
        "completed_at": run.completed_at,
        "updated_at": now,
        "error_at_step": run.error_at_step,
        "request": to_column(captured(mode, run.request)),
        "tool_rounds": to_column(captured(mode, run.tool_rounds)),
        "result": to_column(result),
        "error": to_column(error),
        "state": None if run.has_ended else to_column(state),
        "content_hash": run.content_hash,
        "cost_micros": run.cost_micros,
        "owner": run.owner if run.status == "running" else None,
        "epoch": run.epoch,
        "strikes": run.strikes,
    }


def step_row(execution_id: str, mode: str, step: StepRecord) -> dict[str, Any]:
    """Return the row of one attempt of a step."""
    input_text = to_column(captured(mode, step.input))
    output_text = to_column(captured(mode, step.output))
    sized = keeps_snapshots(mode)
    return {
        "execution_id": execution_id,
        "number": step.number,
        "step_id": step.step_id,
        "attempt": step.attempt,
        "loop_index": step.loop_index,
        "status": step.status,
        "started_at": step.started_at,
        "completed_at": step.completed_at,
        "duration_ms": step.duration_ms,
        "model_used": step.model_used,
        "tokens": to_column(step.tokens),
        "cost_usd": step.cost_usd,
        "input": input_text,
        "output": output_text,
        "error": to_column(captured(mode, step.error)),
        "input_size": len(input_text.encode()) if sized and input_text else None,
        "output_size": len(output_text.encode()) if sized and output_text else None,
        "truncated": False,
    }


def step_ids(row: Mapping[str, Any]) -> list[str]:
    """Return the ids of the flow's steps when this row's run began."""
    return list(from_column(row["state"])["stepIds"])


def can_continue(row: Mapping[str, Any]) -> bool:
    """Return True if a caller can call this row's step run again, at its last finished step.

    In a step that was resumed with tool results it cannot: the caller would have to send them again, and
    the run does not wait for them any more.
    """
    return from_column(row["state"])["run"]["tool_messages"] is None


def log_from(row: Mapping[str, Any]) -> RunLog:
    """Return the log of this row's run, as far as it is needed to continue: empty if it has ended."""
    state = from_column(row["state"])
    return RunLog.at(state["log"]) if state else RunLog()


def run_from(row: Mapping[str, Any], flow: Flow) -> Run:
    """Return the unfinished run of this row, in the state in which it was stored."""
    state = from_column(row["state"])
    return Run(
        id=row["id"],
        flow=flow,
        version=row["version"],
        session_id=row["session_id"],
        trigger=row["trigger"],
        started_at=row["started_at"],
        request=state["request"],
        state=RunState.stored(state["run"]),
        status=row["status"],
        pause=state["pause"],
        tool_rounds=state["toolRounds"],
        content_hash=row["content_hash"],
        log=RunLog.at(state["log"]),
        cost_micros=row["cost_micros"],
        keeps_result=state.get("keepsResult", False),
        owner=row["owner"],
        epoch=row["epoch"],
        strikes=row["strikes"],
        traceparent=state.get("traceparent"),
    )


def ended_changes(row: Mapping[str, Any], status: str, error: dict[str, Any], now: int) -> Changes:
    """Return the rows that end this row's run, and its steps in progress, from outside."""
    mode = row["capture_mode"]
    log = log_from(row)
    error_at_step = log.interrupt(error, now, waiting=True)
    steps = log.take()[2] if keeps_steps(mode) else []
    ended = {
        **row,
        "status": status,
        "completed_at": now,
        "updated_at": now,
        "error_at_step": error_at_step,
        "error": to_column(error),
        "state": None,
        "owner": None,
    }
    return Changes([ended], [step_row(row["id"], mode, step) for step in steps])


def interrupted_changes(
    row: Mapping[str, Any], status: str, error: dict[str, Any], now: int, *, strikes: int = 0
) -> Changes:
    """Return the rows that leave this row's run at its last finished step, to be continued.

    Args:
        row: The row of a run that has not ended.
        status: ``"pending"`` or ``"paused"``.
        error: The error of the steps in progress.
        now: Microseconds since 1970.
        strikes: How many processes have died in the step that the run is at.
    """
    mode = row["capture_mode"]
    state = from_column(row["state"])
    log = RunLog.at(state["log"])
    log.complete(state["run"]["outputs"], now)
    log.interrupt(error, now)
    steps = log.take()[2] if keeps_steps(mode) else []
    state["log"] = log.position()
    changed = {
        **row,
        "status": status,
        "updated_at": now,
        "owner": None,
        "strikes": strikes,
        "state": to_column(state),
    }
    return Changes([changed], [step_row(row["id"], mode, step) for step in steps])
