"""A run as rows of the database, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..local.engine.state import RunState
from ..local.workflow.plan import Flow
from .capture import keeps_snapshots, keeps_steps, kept, kept_events
from .encoding import loaded, stored
from .run import Run
from .run_log import RunLog, StepRecord
from .store.writer import Changes

Row = dict[str, Any]


def execution_row(run: Run, now: int) -> Row:
    """The run's row in ``executions`` as it is now."""
    flow, mode = run.flow, run.flow.capture_mode
    # A job's outcome must reach its poll in every mode; the session view hides it again.
    result = run.result if run.trigger == "job" else kept(mode, run.result)
    error = kept(mode, run.error) if keeps_snapshots(mode) else run.error
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
        "request": stored(kept(mode, run.request)),
        "tool_rounds": stored(kept(mode, run.tool_rounds)),
        "result": stored(result),
        "error": stored(error),
        "state": None if run.has_ended else stored(_state(run)),
    }


def _state(run: Run) -> Row:
    return {
        # Not copied: it becomes text at once.
        "run": vars(run.state),
        "log": run.log.position(),
        "pause": run.pause,
        "request": run.request,
        "toolRounds": run.tool_rounds,
        "stepIds": [step.id for step in run.flow.steps],
    }


def new_rows(run: Run) -> tuple[list[Row], list[Row]]:
    """What the run has ready to be added to ``steps`` and ``events``. Each is given once."""
    mode = run.flow.capture_mode
    first, events, steps = run.log.take()
    kept_ones = kept_events(mode, events)
    body = [{"execution_id": run.id, "first": first, "body": stored(kept_ones)}]
    return (
        [step_row(run.id, mode, step) for step in steps] if keeps_steps(mode) else [],
        body if kept_ones else [],
    )


def step_row(execution_id: str, mode: str, step: StepRecord) -> Row:
    """One attempt of a step, as its row in ``steps``."""
    given, made = stored(kept(mode, step.input)), stored(kept(mode, step.output))
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
        "tokens": stored(step.tokens),
        "cost_usd": step.cost_usd,
        "input": given,
        "output": made,
        "error": stored(kept(mode, step.error)),
        "input_size": len(given.encode()) if sized and given else None,
        "output_size": len(made.encode()) if sized and made else None,
        "truncated": False,
    }


def step_ids(row: Mapping[str, Any]) -> list[str]:
    """The ids of the flow's steps when the run of this row began."""
    return list(loaded(row["state"])["stepIds"])


def open_steps(row: Mapping[str, Any]) -> list[StepRecord]:
    """The steps that the run of this row is in the middle of."""
    return list(_log(row).open_steps.values())


def _log(row: Mapping[str, Any]) -> RunLog:
    state = loaded(row["state"])
    return RunLog.at(state["log"]) if state else RunLog()


def cut_off(row: Mapping[str, Any], status: str, error: dict[str, Any], now: int) -> Changes:
    """The run of this row as it ends with nobody driving it, its steps in progress with it."""
    mode = row["capture_mode"]
    log = _log(row)
    error_at_step = log.interrupt(error, now, waiting=True)
    steps = [step_row(row["id"], mode, step) for step in log.take()[2]] if keeps_steps(mode) else []
    ended = {
        **row,
        "status": status,
        "completed_at": now,
        "updated_at": now,
        "error_at_step": error_at_step,
        "error": stored(error),
        "state": None,
    }
    return Changes([ended], steps)


def run_from(row: Mapping[str, Any], flow: Flow) -> Run:
    """The unfinished run of this row, as it was when it was stored."""
    state = loaded(row["state"])
    return Run(
        id=row["id"],
        flow=flow,
        version=row["version"],
        session_id=row["session_id"],
        trigger=row["trigger"],
        started_at=row["started_at"],
        request=state["request"],
        state=RunState(**state["run"]),
        status=row["status"],
        pause=state["pause"],
        tool_rounds=state["toolRounds"],
        log=RunLog.at(state["log"]),
    )
